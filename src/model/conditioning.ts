import * as tf from "@tensorflow/tfjs-core";

import { paddingMask } from "../runtime/attention.js";
import type { Linear } from "../runtime/linear.js";
import type { MelodyConfig } from "./checkpoint.js";
import type { DecoderConfig } from "./config.js";
import { disposeMemory, textMemory, type TextMemory } from "./decoder.js";
import type { DecoderWeights } from "./decoder-weights.js";
import type { Rows } from "./guidance.js";
import { melodyPrefix, type Melody, type Prefix } from "./melody.js";
import type { LoadedDecoder } from "./networks.js";
import { projectTexts, type EncodedTexts } from "./text-states.js";

/** What the rows of a run are conditioned on, made once: by cross-attention, or as positions before the BOS column. */
export interface Conditioning {
  readonly memory: TextMemory | undefined;
  readonly later: readonly LaterMemory[]; // that take its place, in order
  readonly prefix: Prefix | undefined; // melody models
}

/** A memory that rows read from a position on. */
export interface LaterMemory {
  readonly from: number; // absolute position
  readonly memory: TextMemory;
}

/** The memory that a position reads, and its number, from 0. */
export function memoryAt(
  position: number,
  { memory, later }: Pick<Conditioning, "memory" | "later">,
): { readonly memory: TextMemory | undefined; readonly textSegment: number | undefined } {
  const passed = later.filter(({ from }) => from <= position).length;
  return { memory: later[passed - 1]?.memory ?? memory, textSegment: memory && passed };
}

/**
 * Splits positions so that each part reads one memory.
 *
 * @param first absolute position
 * @param end the one after the last
 * @returns where each part begins
 */
export function partsOf(first: number, end: number, later: readonly { readonly from: number }[]): readonly number[] {
  return [first, ...later.map(({ from }) => from).filter((from) => from > first && from < end)];
}

/**
 * Makes what the rows of a run are conditioned on.
 *
 * @param encoded undefined: no row has a text
 * @param melodies of a melody model: none, one for all clips, or one for each
 * @returns owned by the caller; free it with {@link disposeConditioning}.
 */
export function condition(
  decoder: LoadedDecoder,
  melodyConfig: MelodyConfig | undefined,
  encoded: EncodedTexts | undefined,
  melodies: readonly Melody[],
  rows: Rows,
): Conditioning {
  if (melodyConfig) {
    const prefix = melodyPrefix(decoder, melodyConfig.rows, encoded, melodies, rows);
    return { memory: undefined, later: [], prefix };
  }
  if (!encoded) return { memory: undefined, later: [], prefix: undefined };
  const read = (texts: EncodedTexts): TextMemory => readTexts(decoder, decoder.textProjection, texts);
  const later = (encoded.later ?? []).map(({ from, texts }) => ({ from, memory: read(texts) }));
  return { memory: read(encoded), later, prefix: undefined };
}

/** Frees what {@link condition} made. */
export function disposeConditioning({ memory, later, prefix }: Conditioning): void {
  if (memory) disposeMemory(memory);
  later.forEach((one) => disposeMemory(one.memory));
  prefix?.embeddings.dispose();
}

/**
 * What the decoder reads of a text by cross-attention: its states, projected, as keys and values of every block.
 *
 * @returns owned by the caller.
 */
export function readTexts(
  decoder: { readonly weights: DecoderWeights; readonly config: DecoderConfig },
  projection: Linear | undefined,
  encoded: EncodedTexts,
): TextMemory {
  const { mask, textOfRow } = encoded;
  const tokens = encoded.states.shape[1];
  const rowMask = textOfRow.flatMap((text) => [...mask.subarray(text * tokens, (text + 1) * tokens)]); // [Rc, S]
  const projected = tf.tidy(() => tf.gather<tf.Tensor3D>(projectTexts(projection, encoded), [...textOfRow])); // [Rc, S, D]
  try {
    return textMemory(decoder.weights, decoder.config, projected, paddingMask(rowMask, textOfRow.length));
  } finally {
    projected.dispose();
  }
}
