import { totalmem } from "node:os";

import { encoderLayout } from "../encodec/layout.js";
import { decoderContext, encoderContext, PIECE_FRAMES } from "../encodec/pieces.js";
import { MemoryError } from "../errors.js";
import type { CacheStorage } from "../runtime/attention.js";
import type { BackendName } from "../runtime/backend.js";
import type { WeightStorage } from "../runtime/linear.js";
import type { MusicGenConfig } from "./checkpoint.js";

/**
 * Whether a model and a request fit a backend's memory, told in numbers before anything is allocated: a full wasm heap
 * fails in ways that are hard to read.
 */

/** Whether the three networks stay in memory together, or take turns: then each use reads the file anew. */
export type Residency = "together" | "staged";

/** What a backend gives. */
export interface MemoryBudget {
  readonly bytes: number;
  readonly what: string; // for the error
  readonly productCopies: number; // how often the backend holds a matrix that it multiplied by
  readonly convolutionCopies: number; // and a convolution's filter
  readonly storage?: WeightStorage; // of the decoder's matrices; f32 if absent
  readonly cacheStorage?: CacheStorage; // of its keys and values; f32 if absent
}

/** The size of a request. */
export interface RequestSize {
  readonly rows: number; // R
  readonly positions: number; // T of the longest sequence: a window of the clip, and what a melody model reads before it
  readonly prefill: number; // T of the longest first pass
  readonly frames: number; // F of a clip
}

const GIB = 2 ** 30;
const FLOAT = 4; // bytes

/**
 * XNNPACK, inside the wasm backend, keeps a packed copy of every matrix it multiplied by, and a transposed and a packed
 * copy of every filter. Its heap is limited to 4 GiB by the binary; a sixteenth is left for small things and gaps.
 */
const WASM_BUDGET: MemoryBudget = {
  bytes: (4 * GIB * 15) / 16,
  what: "the wasm backend's heap of 4 GiB",
  productCopies: 2,
  convolutionCopies: 3,
};

/** Bytes of a key's or value's number. */
const CACHED_BYTES: Readonly<Record<CacheStorage, number>> = { f32: 4, f16: 2 };

/** Bytes of one value of a decoder's matrix, scales included. "exact" may need 4. */
const STORED_BYTES: Readonly<Record<WeightStorage, number>> = { exact: 4, f32: 4, f16: 2, int8: 1, int4: 9 / 16 };

/**
 * The memory of a backend: the wasm heap, or nine tenths of what this process may use.
 *
 * @param storage of the decoder's matrices
 * @param cacheStorage of its keys and values
 */
export function memoryBudget(
  backend: BackendName,
  storage: WeightStorage = "exact",
  cacheStorage: CacheStorage = "f32",
): MemoryBudget {
  if (backend === "wasm") return WASM_BUDGET;
  const limit = process.constrainedMemory();
  const available = limit > 0 && limit < totalmem() ? limit : totalmem();
  const copies = { productCopies: 1, convolutionCopies: 1 };
  return { bytes: available * 0.9, what: "this process's memory", ...copies, storage, cacheStorage };
}

/** Bytes of each network's weights on a backend, after first use. */
export function weightBytes(
  { text, decoder, codec }: MusicGenConfig,
  { productCopies, convolutionCopies, storage = "f32" }: MemoryBudget,
): { readonly text: number; readonly decoder: number; readonly codec: number } {
  const innerText = text.heads * text.headWidth;
  const textProducts = text.layers * (4 * text.width * innerText + 2 * text.width * text.ffnWidth);
  const { width, ffnWidth, layers, codebooks, codebookSize } = decoder;
  const attentions = decoder.crossAttention ? 8 : 4;
  const decoderProducts =
    layers * (attentions * width * width + 2 * width * ffnWidth) +
    codebooks * codebookSize * width +
    width * text.width;
  const { stages, lstmWidth } = encoderLayout(codec);
  const convolutions = stages.reduce(
    (sum, { inputs, outputs, ratio, residualWidth }) =>
      sum + inputs * outputs * 2 * ratio + 4 * residualWidth * residualWidth,
    (codec.filters + lstmWidth * codec.latentWidth) * codec.kernel,
  );
  const recurrent = 8 * lstmWidth * lstmWidth * codec.lstmLayers;
  return {
    text: FLOAT * (text.vocabularySize * text.width + productCopies * textProducts),
    decoder: FLOAT * codebooks * (codebookSize + 1) * width + STORED_BYTES[storage] * productCopies * decoderProducts,
    codec:
      2 * FLOAT * (convolutionCopies * convolutions + productCopies * recurrent) + // encoder and decoder
      FLOAT * codec.codebooks * codebookSize * codec.latentWidth,
  };
}

/** Bytes that the decoder needs beside its weights: keys and values, and the scores of the first pass. */
export function stateBytes(
  { decoder }: MusicGenConfig,
  { rows, positions, prefill }: RequestSize,
  cacheStorage: CacheStorage = "f32",
): number {
  const oneLayer = rows * 2 * decoder.width * positions * CACHED_BYTES[cacheStorage];
  const scores = 3 * rows * decoder.heads * prefill * prefill * FLOAT;
  const activations = rows * prefill * (4 * decoder.ffnWidth + 12 * decoder.width) * FLOAT;
  return (decoder.layers + 1) * oneLayer + scores + activations; // one layer more while its segments are joined
}

/** Bytes that the codec needs beside its weights: some copies of a piece at its widest stage, and the waveform. */
export function codecBytes({ codec }: MusicGenConfig, frames: number): number {
  const piece = Math.min(frames, PIECE_FRAMES + encoderContext(codec) + decoderContext(codec));
  return (CODEC_COPIES * piece * codec.hop * codec.filters + WAVE_COPIES * frames * codec.hop) * FLOAT;
}

/** Measured on wasm at the official geometry: 30 s peak at 795 MB of heap, 570 of them weights. */
const CODEC_COPIES = 12;
const WAVE_COPIES = 3;

/**
 * Decides whether the networks share the memory or take turns, for clips of the length that the model was trained on.
 *
 * @throws {MemoryError} if even a single network doesn't fit.
 */
export function planResidency(config: MusicGenConfig, budget: MemoryBudget): Residency {
  const weights = weightBytes(config, budget);
  const frames = config.generation.maxFrames;
  const prefix = config.melody?.rows ?? 0;
  const size = { rows: 2, positions: frames + 4 + prefix, prefill: 1 + prefix, frames };
  const state = stateBytes(config, size, budget.cacheStorage);
  if (weights.text + weights.decoder + weights.codec + state + codecBytes(config, frames) <= budget.bytes) {
    return "together";
  }
  const largest = Math.max(weights.text, weights.decoder, weights.codec);
  if (largest <= budget.bytes) return "staged";
  throw new MemoryError({
    asked: `load a model whose largest network takes ${gib(largest)} with weights stored as ${budget.storage ?? "f32"}`,
    found: `${gib(budget.bytes)} of ${budget.what}`,
    todo: "Store weights as int8 or int4, use a smaller model or another backend (`tonearm doctor` lists them)",
  });
}

/**
 * Checks that a generation fits.
 *
 * @throws {MemoryError} with the numbers, and how long a clip would fit.
 */
export function requireMemory(
  config: MusicGenConfig,
  budget: MemoryBudget,
  residency: Residency,
  size: RequestSize,
): void {
  const weights = weightBytes(config, budget);
  const others = residency === "together" ? weights.text + weights.codec : 0;
  const generating = weights.decoder + others + stateBytes(config, size, budget.cacheStorage);
  const decoding =
    weights.codec + (residency === "together" ? weights.text + weights.decoder : 0) + codecBytes(config, size.frames);
  const needed = Math.max(generating, decoding);
  if (needed <= budget.bytes) return;
  throw new MemoryError({
    asked: `generate ${size.frames} frames in ${size.rows} rows`,
    found: `it needs ${gib(needed)}, and there are ${gib(budget.bytes)} of ${budget.what}`,
    todo: "Ask for shorter or fewer clips, or use another backend (`tonearm doctor` lists them)",
  });
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(2)} GiB`;
}
