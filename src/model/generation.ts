import { setImmediate } from "node:timers/promises";

import type * as tf from "@tensorflow/tfjs-core";

import { announce, type Taps, type Walk } from "../runtime/announce.js";
import type { CacheStorage } from "../runtime/attention.js";
import { Owner } from "../runtime/owner.js";
import type { Uniforms } from "../runtime/random.js";
import { memoryAt, partsOf, type LaterMemory } from "./conditioning.js";
import type { DecoderConfig } from "./config.js";
import {
  disposeState,
  initialState,
  runDecoder,
  type DecoderInput,
  type DecoderState,
  type TextMemory,
} from "./decoder.js";
import type { DecoderWeights } from "./decoder-weights.js";
import {
  delayCodes,
  delayPattern,
  frameAt,
  sequenceLength,
  undelayCodes,
  type Codes,
  type DelayPattern,
  type FrameRange,
} from "./delay.js";
import { guideLogits, rowCount, type Rows } from "./guidance.js";
import type { Prefix } from "./melody.js";
import { locate, NO_PREFIX, prefixSize, type DecoderContext, type PassStop, type PassTaps } from "./pass.js";
import { sampleToken, type SamplingOptions } from "./sampling.js";

/** A decoder ready to run. */
export interface Decoder {
  readonly weights: DecoderWeights;
  readonly config: DecoderConfig;
  readonly positionTable: Float32Array | undefined;
  readonly cacheStorage?: CacheStorage | undefined; // of keys and values while it generates; f32 if absent
}

/** What to generate in one sequence: a clip, or a window of one. */
export interface GenerationPlan {
  readonly frames: number; // of the whole clip
  readonly window: FrameRange; // the F of them that this sequence covers
  readonly prompt: readonly Codes[] | undefined; // the first of the F: one per item, all of one length below F
  readonly rows: Rows;
  readonly memory: TextMemory | undefined; // the text of the first rows; stays the caller's
  readonly later: readonly LaterMemory[]; // that take its place, in order
  readonly prefix: Prefix | undefined; // what a melody model reads first; stays the caller's
  readonly guidance: number;
  readonly sampling: SamplingOptions;
  readonly uniforms: readonly Uniforms[]; // one stream per item
  readonly frameRate: number;
  readonly passesBefore: number; // in earlier windows
}

/** Who looks on while it generates. */
export interface GenerationObserver {
  readonly taps: PassTaps;
  /** Called after each pass. */
  readonly onStep?: ((done: number, total: number) => void) | undefined;
  /** Ends the generation after the pass that is running. */
  readonly signal?: AbortSignal | undefined;
}

/** What was generated. */
export interface GeneratedCodes {
  readonly codes: readonly Codes[]; // one per item
  readonly interrupted: boolean; // whether the signal ended it: then `codes` holds the frames that were complete
}

/** Frames of a clip of which every codebook is drawn. They come in order, each once; those of a prompt are not among them. */
export interface CompletedFrames {
  readonly first: number; // counted from the start of the clip
  readonly codes: readonly Codes[]; // one per item
}

/** Whether a generation stopped at a site, or because frames are complete. */
export function isPassStop(stop: PassStop | CompletedFrames): stop is PassStop {
  return "announcement" in stop;
}

/**
 * How many passes a sequence of F frames takes: prefill over the BOS column and the prompt, in parts where texts take over
 * within it, then one for each position.
 */
export function passCount(
  window: FrameRange,
  promptFrames: number,
  { delays }: DelayPattern,
  later: readonly { readonly from: number }[],
): number {
  const { first, end } = window;
  const parts = partsOf(first, first + promptFrames + 1, later).length;
  return parts - 1 + end - first + Math.max(...delays) - promptFrames;
}

/**
 * Generates codes, one position after another: prefill over what a melody model reads first, the BOS column and the
 * prompt, then one pass per position. F frames without a prompt take F + 3 passes (mono and stereo).
 *
 * Yields every wanted site of every pass, and frames as they are complete. Ending it early frees all it holds.
 */
export async function* generateCodes(
  decoder: Decoder,
  plan: GenerationPlan,
  { taps, onStep, signal }: GenerationObserver,
): AsyncGenerator<PassStop | CompletedFrames, GeneratedCodes, void> {
  const { config, cacheStorage } = decoder;
  const { codebooks, codebookSize, audioChannels } = config;
  const { rows, window } = plan;
  const frames = window.end - window.first; // F
  const prefix = plan.prefix?.length ?? NO_PREFIX;
  const pattern = delayPattern(codebooks, audioChannels, codebookSize);
  const length = sequenceLength(frames, pattern); // M
  const promptFrames = plan.prompt?.[0]?.frames ?? 0;
  const noPrompt: Codes = { values: new Int32Array(0), codebooks, frames: 0 };
  const sequences = Array.from({ length: rows.batch }, (_, item) =>
    delayCodes(plan.prompt?.[item] ?? noPrompt, pattern, frames),
  ); // B × [K, M]

  const passes = passCount(window, promptFrames, pattern, plan.later);
  const prefill = partsOf(window.first, window.first + promptFrames + 1, plan.later).map((from) => from - window.first);
  const columnAt = (step: number): number => prefill[step] ?? promptFrames + 1 + step - prefill.length;
  // The last column that was filled is that of the next pass; a frame is complete when its last codebook is.
  const completeAfter = (step: number): number =>
    step === passes ? frames : Math.max(promptFrames, columnAt(step) - Math.max(...pattern.delays));
  let held: DecoderState | undefined; // while no pass owns it
  let step = 0;
  try {
    for (; step < passes && !signal?.aborted; step++) {
      const isFirst = step === 0;
      const firstColumn = columnAt(step);
      const count = columnAt(step + 1) - firstColumn;
      const { memory, textSegment } = memoryAt(window.first + firstColumn, plan);
      const pass: DecoderContext = {
        phase: step < prefill.length ? "prefill" : "decode",
        step: plan.passesBefore + step,
        firstPosition: window.first + firstColumn,
        positions: count + (isFirst ? prefixSize(prefix) : 0),
        prefix: isFirst ? prefix : NO_PREFIX,
        rows,
        pattern,
        frames: plan.frames,
        window,
        frameRate: plan.frameRate,
        textSegment,
      };
      const input: DecoderInput = {
        ids: columns(sequences, codebooks, length, firstColumn, count), // [B, K, T − P]
        batch: rows.batch,
        positions: count,
        rows: rowCount(rows),
        prefix: isFirst ? plan.prefix?.embeddings : undefined,
      };
      const walk = generationStep(decoder, plan, input, memory, held ?? initialState(config, cacheStorage), taps);
      held = undefined;
      const stepped = yield* locate(walk, pass, taps);
      held = stepped.state;
      try {
        const logits = await stepped.guided.data(); // [B, K, 1, V]
        const next = firstColumn + count;
        if (next > promptFrames) fillColumn(sequences, logits as Float32Array, plan, pattern, next, promptFrames);
      } finally {
        stepped.guided.dispose();
      }
      onStep?.(step + 1, passes);
      const [before, complete] = [completeAfter(step), completeAfter(step + 1)];
      if (complete > before) {
        const codes = sequences.map((sequence) => undelayCodes(sequence, pattern, frames, before, complete));
        yield { first: window.first + before, codes };
      }
      await setImmediate(); // backends that answer at once would keep signals and timers waiting for the whole clip
    }
  } finally {
    if (held) disposeState(held);
  }
  const codes = sequences.map((sequence) => undelayCodes(sequence, pattern, frames, 0, completeAfter(step)));
  return { codes, interrupted: step < passes };
}

/** One pass and its guidance. @returns guided logits [B, K, 1, V] and the state, owned by the caller. */
function* generationStep(
  decoder: Decoder,
  plan: GenerationPlan,
  input: DecoderInput,
  memory: TextMemory | undefined,
  state: DecoderState,
  taps: Taps,
): Walk<{ guided: tf.Tensor4D; state: DecoderState | undefined }> {
  const { logits, state: nextState } = yield* runDecoder(
    decoder.weights,
    decoder.config,
    input,
    { state, memory, logits: "last", positionTable: decoder.positionTable },
    taps,
  );
  const owner = new Owner();
  let finished = false;
  try {
    owner.own(logits);
    const guided = owner.own(guideLogits(logits, plan.rows, plan.guidance));
    const announced = owner.release(yield* announce(taps, owner, "hook_guided_logits", guided));
    finished = true;
    return { guided: announced, state: nextState };
  } finally {
    owner.dispose();
    if (!finished && nextState) disposeState(nextState);
  }
}

/** Columns `first` … `first + count − 1` of every item. @returns [B, K, T] */
export function columns(
  sequences: readonly Int32Array[], // B × [K, M]
  codebooks: number,
  length: number,
  first: number,
  count: number,
): Int32Array {
  const ids = new Int32Array(sequences.length * codebooks * count);
  sequences.forEach((sequence, item) => {
    for (let k = 0; k < codebooks; k++) {
      const start = k * length + first;
      ids.set(sequence.subarray(start, start + count), (item * codebooks + k) * count);
    }
  });
  return ids;
}

/**
 * Draws the tokens of one position. A uniform number is drawn for every codebook, also where the pattern or the prompt
 * has already decided the token, so that the stream stays in step with the position.
 */
function fillColumn(
  sequences: readonly Int32Array[], // B × [K, M]
  logits: Float32Array, // [B, K, 1, V]
  { window, sampling, uniforms }: GenerationPlan,
  { delays }: DelayPattern,
  position: number,
  promptFrames: number,
): void {
  const codebooks = delays.length;
  const length = (sequences[0]?.length ?? 0) / codebooks;
  const entries = logits.length / (sequences.length * codebooks);
  const covered = { first: 0, end: window.end - window.first };
  sequences.forEach((sequence, item) => {
    delays.forEach((delay, k) => {
      const uniform = uniforms[item]?.() ?? 0;
      const frame = frameAt(position, delay, covered);
      if (frame === undefined || frame < promptFrames) return;
      const row = (item * codebooks + k) * entries;
      sequence[k * length + position] = sampleToken(logits.subarray(row, row + entries), sampling, uniform);
    });
  });
}
