import * as tf from "@tensorflow/tfjs-core";

import { SiteError, UsageError } from "../errors.js";
import type { Taps } from "../runtime/announce.js";
import { Owner } from "../runtime/owner.js";
import type { T5Config } from "../text/config.js";
import { encodeText, type T5Weights } from "../text/t5.js";
import type { TokenBatch } from "../text/tokenizer.js";
import type { MelodyConfig } from "./checkpoint.js";
import { checkCodes } from "./codes.js";
import { condition, disposeConditioning, type Conditioning } from "./conditioning.js";
import { embed, runLayers, unembed, type LayerRun } from "./decoder.js";
import { delayCodes, delayPattern, sequenceLength, type Codes } from "./delay.js";
import { rowCount, type Rows } from "./guidance.js";
import type { Melody } from "./melody.js";
import type { LoadedDecoder } from "./networks.js";
import { locate, NO_PREFIX, prefixSize, type DecoderContext, type PassStop } from "./pass.js";
import type { EncodedTexts } from "./text-states.js";

/** A teacher-forced pass over given codes. */
export interface ForwardPlan {
  readonly clips: readonly Codes[]; // B, all of F frames
  readonly rows: Rows;
  readonly frameRate: number;
  readonly melody: MelodyConfig | undefined; // how the model reads melodies
  readonly melodies: readonly Melody[]; // none, one for all clips, or one for each
  /** Start at this block, from this residual stream [R, T, D], which stays the caller's. */
  readonly startAt?: { readonly layer: number; readonly residual: tf.Tensor3D } | undefined;
  /** Stop before this block: the pass then returns the residual stream instead of logits. */
  readonly stopAt?: number | undefined;
}

/** The text encoder's pass over N texts. @returns [N, S, Dt], owned by the caller. */
export function encodeTextStops(
  weights: T5Weights,
  config: T5Config,
  tokens: TokenBatch,
  taps: Taps,
): Generator<PassStop, tf.Tensor3D, void> {
  return locate(encodeText(weights, config, tokens, taps), {
    phase: "text",
    texts: tokens.batch,
    tokens: tokens.length,
  });
}

/**
 * A teacher-forced pass of the decoder. Codes are laid out along the delay pattern, position 0 being the BOS column.
 *
 * @returns logits [R, K, T, V], T = F + 1 + max delay positions, or with `stopAt` the residual stream [R, T, D], which in
 *   a melody model has its prefix too. Owned by the caller.
 * @throws {UsageError} if the codes don't fit the model; {@link SiteError} if a layer is out of range.
 */
export function* forwardStops(
  decoder: LoadedDecoder,
  encoded: EncodedTexts | undefined,
  plan: ForwardPlan,
  taps: Taps,
): Generator<PassStop, tf.Tensor, void> {
  const { weights, config } = decoder;
  const { clips, rows, startAt, stopAt } = plan;
  const frames = checkCodes(clips, config);
  const first = layerIn(config.layers, startAt?.layer ?? 0, "start at");
  const end = stopAt === undefined ? config.layers : layerIn(config.layers, stopAt, "stop at");
  const pattern = delayPattern(config.codebooks, config.audioChannels, config.codebookSize);
  const columns = sequenceLength(frames, pattern); // T, less a prefix

  const owner = new Owner();
  let conditioning: Conditioning | undefined;
  try {
    conditioning = condition(decoder, plan.melody, encoded, plan.melodies, rows);
    const prefix = conditioning.prefix?.length ?? NO_PREFIX;
    const positions = prefixSize(prefix) + columns; // T
    const pass: DecoderContext = {
      phase: "forward",
      step: 0,
      firstPosition: 0,
      positions,
      prefix,
      rows,
      pattern,
      frames,
      window: { first: 0, end: frames },
      frameRate: plan.frameRate,
    };
    if (startAt) checkResidual(startAt.residual, [rowCount(rows), positions, config.width]);
    let residual = startAt?.residual;
    if (!residual) {
      const ids = Int32Array.from(clips.flatMap((clip) => [...delayCodes(clip, pattern)])); // [B, K, T − P]
      const shape = { batch: rows.batch, positions: columns, rows: rowCount(rows) };
      const input = { ids, ...shape, prefix: conditioning.prefix?.embeddings };
      residual = owner.own(yield* locate(embed(weights, config, input, 0, decoder.positionTable, taps), pass));
    }
    const run: LayerRun = { first, end, start: 0, caches: undefined, memory: conditioning.memory };
    const final = owner.own(yield* locate(runLayers(weights, config, residual, run, taps), pass)); // [R, T, D]
    if (stopAt !== undefined) return owner.release(final);
    return yield* locate(unembed(weights, config, final, columns, taps), pass); // [R, K, T − P, V]
  } finally {
    owner.dispose();
    if (conditioning) disposeConditioning(conditioning);
  }
}

/** @returns the layer counted from the first */
function layerIn(layers: number, layer: number, what: string): number {
  const counted = layer < 0 ? layers + layer : layer;
  if (Number.isInteger(layer) && counted >= 0 && counted < layers) return counted;
  throw new SiteError({
    asked: `${what} layer ${layer}`,
    found: `a model of ${layers} layers`,
    todo: `Give 0 … ${layers - 1}, or -1 … -${layers} from the end`,
  });
}

function checkResidual({ shape }: tf.Tensor3D, expected: readonly number[]): void {
  if (shape.every((size, axis) => size === expected[axis])) return;
  throw new UsageError({
    asked: "start from a residual stream",
    found: `one of shape [${shape.join(",")}]`,
    todo: `Give [${expected.join(",")}], as the same texts and codes have it`,
  });
}
