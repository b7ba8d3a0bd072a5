import * as tf from "@tensorflow/tfjs-core";

import type { Activation } from "../../src/activations/activation.js";
import type { Codes } from "../../src/model/delay.js";
import type { MusicGen } from "../../src/musicgen.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";
import { golden } from "../support/fixtures.js";

/** The texts of a fixture as token ids: two, the first of which is padded. */
export function fixtureTexts(kind: string): TokenBatch {
  const { shape, data } = golden(kind)("input_ids");
  const [batch = 0, length = 0] = shape;
  return { ids: Int32Array.from(data), mask: Int32Array.from(golden(kind)("attention_mask").data), batch, length };
}

/** The first text of a fixture. */
export function fixtureText(kind: string): TokenBatch {
  const { ids, mask, length } = fixtureTexts(kind);
  return { ids: ids.slice(0, length), mask: mask.slice(0, length), batch: 1, length };
}

/** A text of three tokens, for runs that need to be quick. */
export function shortText(): TokenBatch {
  return { ids: Int32Array.of(5, 9, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };
}

/** The codes of a fixture's teacher-forced pass, one clip each. */
export function fixtureCodes(kind: string): readonly Codes[] {
  const { shape, data } = golden(kind)("codes"); // [B, K, F]
  const [batch = 0, codebooks = 0, frames = 0] = shape;
  const size = codebooks * frames;
  return Array.from({ length: batch }, (_, item) => ({
    values: Int32Array.from(data.slice(item * size, (item + 1) * size)),
    codebooks,
    frames,
  }));
}

/** The values of a tensor on the host, which is freed. */
export async function valuesOf(tensor: tf.Tensor): Promise<Float32Array> {
  const values = Float32Array.from(await tensor.data());
  tensor.dispose();
  return values;
}

/** Every activation of a walk: its site, shape and phase. */
export async function listWalk(walk: AsyncIterable<Activation>): Promise<{ site: string; shape: number[] }[]> {
  const seen: { site: string; shape: number[] }[] = [];
  for await (const at of walk) seen.push({ site: at.site, shape: [...at.value.shape] });
  return seen;
}

/** Codes that no fixture knows, the same for the same length. */
export function someCodes({ config }: MusicGen, frames: number): Codes {
  const { codebooks, codebookSize } = config.decoder;
  const values = Int32Array.from({ length: codebooks * frames }, (_, index) => (index * 7 + 3) % codebookSize);
  return { values, codebooks, frames };
}

/** The largest difference of two lists of numbers. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let largest = 0;
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const difference = Math.abs((a[index] ?? NaN) - (b[index] ?? NaN));
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

/** Everything in a tensor added to a number of its own, so that no two entries change alike. */
export function nudge(value: tf.Tensor, by: number): tf.Tensor {
  return tf.tidy(() => {
    const size = value.shape.reduce((product, length) => product * length, 1);
    const pattern = Float32Array.from({ length: size }, (_, index) => by * Math.sin(index + 1));
    return tf.add(value, tf.tensor(pattern, value.shape));
  });
}
