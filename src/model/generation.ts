import { setImmediate } from "node:timers/promises";

import type * as tf from "@tensorflow/tfjs-core";

import { announce, type Taps, type Walk } from "../runtime/announce.js";
import { Owner } from "../runtime/owner.js";
import type { Uniforms } from "../runtime/random.js";
import type { DecoderConfig } from "./config.js";
import { disposeState, initialState, runDecoder, type DecoderState, type TextMemory } from "./decoder.js";
import type { DecoderWeights } from "./decoder-weights.js";
import {
  delayCodes,
  delayPattern,
  frameAt,
  sequenceLength,
  undelayCodes,
  type Codes,
  type DelayPattern,
} from "./delay.js";
import { guideLogits, rowCount, type Rows } from "./guidance.js";
import { locate, type DecoderContext, type PassStop } from "./pass.js";
import { sampleToken, type SamplingOptions } from "./sampling.js";

/** A decoder ready to run. */
export interface Decoder {
  readonly weights: DecoderWeights;
  readonly config: DecoderConfig;
  readonly positionTable: Float32Array | undefined;
}

/** What to generate. */
export interface GenerationPlan {
  readonly frames: number; // F, the prompt's included
  readonly prompt: readonly Codes[] | undefined; // one per item, all of one length below F
  readonly rows: Rows;
  readonly memory: TextMemory | undefined; // the text of the first rows; stays the caller's
  readonly guidance: number;
  readonly sampling: SamplingOptions;
  readonly uniforms: readonly Uniforms[]; // one stream per item
  readonly frameRate: number;
}

/** Who looks on while it generates. */
export interface GenerationObserver {
  readonly taps: Taps;
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

/**
 * Generates codes, one position after another: prefill over the BOS column and the prompt, then one pass per position.
 * F frames without a prompt take F + 3 passes (mono and stereo).
 *
 * Yields every wanted site of every pass. Ending it early frees all it holds.
 */
export async function* generateCodes(
  decoder: Decoder,
  plan: GenerationPlan,
  { taps, onStep, signal }: GenerationObserver,
): AsyncGenerator<PassStop, GeneratedCodes, void> {
  const { codebooks, codebookSize, audioChannels } = decoder.config;
  const { frames, rows } = plan;
  const pattern = delayPattern(codebooks, audioChannels, codebookSize);
  const length = sequenceLength(frames, pattern); // M
  const promptFrames = plan.prompt?.[0]?.frames ?? 0;
  const noPrompt: Codes = { values: new Int32Array(0), codebooks, frames: 0 };
  const sequences = Array.from({ length: rows.batch }, (_, item) =>
    delayCodes(plan.prompt?.[item] ?? noPrompt, pattern, frames),
  ); // B × [K, M]

  const passes = length - 1 - promptFrames;
  let held: DecoderState | undefined; // while no pass owns it
  let step = 0;
  try {
    for (; step < passes && !signal?.aborted; step++) {
      const firstPosition = step === 0 ? 0 : promptFrames + step;
      const positions = step === 0 ? promptFrames + 1 : 1;
      const pass: DecoderContext = {
        phase: step === 0 ? "prefill" : "decode",
        step,
        firstPosition,
        positions,
        rows,
        pattern,
        frames,
        frameRate: plan.frameRate,
      };
      const input = columns(sequences, codebooks, length, firstPosition, positions); // [B, K, T]
      const walk = generationStep(decoder, plan, input, pass, held ?? initialState(decoder.config), taps);
      held = undefined;
      const stepped = yield* locate(walk, pass);
      held = stepped.state;
      try {
        const logits = await stepped.guided.data(); // [B, K, 1, V]
        fillColumn(sequences, logits as Float32Array, plan, pattern, firstPosition + positions, promptFrames);
      } finally {
        stepped.guided.dispose();
      }
      onStep?.(step + 1, passes);
      await setImmediate(); // backends that answer at once would keep signals and timers waiting for the whole clip
    }
  } finally {
    if (held) disposeState(held);
  }
  // The last column that was filled is promptFrames + step; a frame is complete when its last codebook is.
  const complete = Math.max(promptFrames, promptFrames + step - Math.max(...pattern.delays));
  const interrupted = step < passes;
  return {
    codes: sequences.map((sequence) => undelayCodes(sequence, pattern, frames, interrupted ? complete : frames)),
    interrupted,
  };
}

/** One pass and its guidance. @returns guided logits [B, K, 1, V] and the state, owned by the caller. */
function* generationStep(
  decoder: Decoder,
  plan: GenerationPlan,
  ids: Int32Array,
  { positions, rows }: DecoderContext,
  state: DecoderState,
  taps: Taps,
): Walk<{ guided: tf.Tensor4D; state: DecoderState | undefined }> {
  const { logits, state: nextState } = yield* runDecoder(
    decoder.weights,
    decoder.config,
    { ids, batch: rows.batch, positions, rows: rowCount(rows) },
    { state, memory: plan.memory, logits: "last", positionTable: decoder.positionTable },
    taps,
  );
  const owner = new Owner();
  let finished = false;
  try {
    owner.own(logits);
    const guided = owner.own(guideLogits(logits, rows, plan.guidance));
    const announced = owner.release(yield* announce(taps, owner, "hook_guided_logits", guided));
    finished = true;
    return { guided: announced, state: nextState };
  } finally {
    owner.dispose();
    if (!finished && nextState) disposeState(nextState);
  }
}

/** Columns `first` … `first + count − 1` of every item. @returns [B, K, T] */
function columns(
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
  { frames, sampling, uniforms }: GenerationPlan,
  { delays }: DelayPattern,
  position: number,
  promptFrames: number,
): void {
  const codebooks = delays.length;
  const length = (sequences[0]?.length ?? 0) / codebooks;
  const entries = logits.length / (sequences.length * codebooks);
  sequences.forEach((sequence, item) => {
    delays.forEach((delay, k) => {
      const uniform = uniforms[item]?.() ?? 0;
      const frame = frameAt(position, delay, frames);
      if (frame === undefined || frame < promptFrames) return;
      const row = (item * codebooks + k) * entries;
      sequence[k * length + position] = sampleToken(logits.subarray(row, row + entries), sampling, uniform);
    });
  });
}
