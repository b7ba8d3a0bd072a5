import * as tf from "@tensorflow/tfjs-core";

import { SiteError, UsageError } from "../errors.js";
import type { Taps } from "../runtime/announce.js";
import { Owner } from "../runtime/owner.js";
import type { T5Config } from "../text/config.js";
import { encodeText, type T5Weights } from "../text/t5.js";
import type { TokenBatch } from "../text/tokenizer.js";
import type { MelodyConfig } from "./checkpoint.js";
import { checkCodes } from "./codes.js";
import { disposeCache, type KeyValueCache } from "../runtime/attention.js";
import { condition, disposeConditioning, memoryAt, partsOf, type Conditioning } from "./conditioning.js";
import { embed, initialState, runLayers, unembed, type LayerRun } from "./decoder.js";
import { delayCodes, delayPattern, sequenceLength, type Codes, type DelayPattern } from "./delay.js";
import { columns } from "./generation.js";
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
 * A teacher-forced pass of the decoder. Codes are laid out along the delay pattern, position 0 being the BOS column. Where
 * texts take over on the way, it is one pass for each text, which go on from each other's keys and values.
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
  const { config } = decoder;
  const { clips, rows, startAt, stopAt } = plan;
  const frames = checkCodes(clips, config);
  const first = layerIn(config.layers, startAt?.layer ?? 0, "start at");
  const end = stopAt === undefined ? config.layers : layerIn(config.layers, stopAt, "stop at");
  const pattern = delayPattern(config.codebooks, config.audioChannels, config.codebookSize);
  const count = sequenceLength(frames, pattern); // T, less a prefix
  const sequences = clips.map((clip) => delayCodes(clip, pattern)); // B × [K, T − P]

  let conditioning: Conditioning | undefined;
  let caches: KeyValueCache[] | undefined;
  const owner = new Owner();
  try {
    conditioning = condition(decoder, plan.melody, encoded, plan.melodies, rows);
    const prefix = prefixSize(conditioning.prefix?.length ?? NO_PREFIX); // P
    if (startAt) checkResidual(startAt.residual, [rowCount(rows), prefix + count, config.width]);
    const starts = partsOf(0, count, conditioning.later);
    if (starts.length > 1) caches = [...initialState(config).caches];
    const run = { first, end, sequences, pattern, frames, conditioning, caches };
    const results: tf.Tensor[] = [];
    for (const [step, start] of starts.entries()) {
      const part = { step, start, count: (starts[step + 1] ?? count) - start };
      results.push(owner.own(yield* forwardPart(decoder, plan, run, part, taps)));
    }
    const [only] = results;
    if (only && results.length === 1) return owner.release(only);
    return tf.concat(results, stopAt === undefined ? 2 : 1); // along the positions
  } finally {
    owner.dispose();
    caches?.forEach(disposeCache);
    if (conditioning) disposeConditioning(conditioning);
  }
}

/** What all parts of a pass have in common. */
interface ForwardRun {
  readonly first: number; // block
  readonly end: number;
  readonly sequences: readonly Int32Array[]; // B × [K, T − P]
  readonly pattern: DelayPattern;
  readonly frames: number; // F
  readonly conditioning: Conditioning;
  readonly caches: KeyValueCache[] | undefined; // of several parts; each replaces them
}

/** Columns `start` … `start + count − 1` of a pass, which read one text. @returns owned by the caller. */
function* forwardPart(
  decoder: LoadedDecoder,
  { rows, frameRate, startAt, stopAt }: ForwardPlan,
  { first, end, sequences, pattern, frames, conditioning, caches }: ForwardRun,
  { step, start, count }: { readonly step: number; readonly start: number; readonly count: number },
  taps: Taps,
): Generator<PassStop, tf.Tensor, void> {
  const { weights, config } = decoder;
  const { memory, textSegment } = memoryAt(start, conditioning);
  const prefix = conditioning.prefix?.length ?? NO_PREFIX;
  const positions = prefixSize(prefix) + count; // T
  const pass: DecoderContext = {
    phase: "forward",
    step,
    firstPosition: start,
    positions,
    prefix,
    rows,
    pattern,
    frames,
    window: { first: 0, end: frames },
    frameRate,
    textSegment,
  };
  const owner = new Owner();
  try {
    let residual = startAt && owner.run(() => tf.slice(startAt.residual, [0, start, 0], [-1, positions, -1])); // [R, T, D]
    if (!residual) {
      const ids = columns(sequences, config.codebooks, (sequences[0]?.length ?? 0) / config.codebooks, start, count);
      const shape = { batch: rows.batch, positions: count, rows: rowCount(rows) };
      const input = { ids, ...shape, prefix: conditioning.prefix?.embeddings };
      residual = owner.own(yield* locate(embed(weights, config, input, start, decoder.positionTable, taps), pass));
    }
    const run: LayerRun = { first, end, start, caches, memory };
    const final = owner.own(yield* locate(runLayers(weights, config, residual, run, taps), pass)); // [R, T, D]
    if (stopAt !== undefined) return owner.release(final);
    return yield* locate(unembed(weights, config, final, count, taps), pass); // [R, K, T − P, V]
  } finally {
    owner.dispose();
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
