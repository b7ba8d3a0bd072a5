import * as tf from "@tensorflow/tfjs-core";

import type { EncodecConfig } from "./config.js";

/**
 * Long signals in pieces. Between LSTM and waveform SEANet is made of convolutions, whose output depends on a few frames
 * around it; so a piece computed with those frames as context, which are then cut off, is the same as that piece of the
 * whole, and the memory needed no longer grows with the length. On the cpu, wasm and native backends it is the same to
 * the last bit, so watching a layer, for which the whole is computed, changes nothing.
 */

/** Frames `start` to `end` of a result, to be computed from frames `from` to `to`. */
export interface Piece {
  readonly start: number;
  readonly end: number;
  readonly from: number;
  readonly to: number;
}

/** Two seconds at 50 frames a second: 6 % of the work goes into context, and a tensor of the last stage takes 16 MB. */
export const PIECE_FRAMES = 100;

/** Splits `frames` into pieces of about {@link PIECE_FRAMES}, each with `context` frames on either side where there are. */
export function piecesOf(frames: number, context: number): readonly Piece[] {
  const count = Math.ceil(frames / PIECE_FRAMES);
  const bound = (index: number): number => Math.round((index * frames) / count);
  return Array.from({ length: count }, (_, index) => {
    const [start, end] = [bound(index), bound(index + 1)];
    return { start, end, from: Math.max(0, start - context), to: Math.min(frames, end + context) };
  });
}

/** Computes every piece and joins them along positions. @returns float32 [B, positions, C], owned by the caller. */
export function joinPieces(pieces: readonly Piece[], compute: (piece: Piece) => tf.Tensor3D): tf.Tensor3D {
  return tf.tidy(() =>
    tf.concat(
      pieces.map((piece) => tf.tidy(() => compute(piece))),
      1,
    ),
  );
}

/**
 * How many frames on either side an output of the encoder's convolutions may depend on: the full width of every kernel,
 * stage by stage from the LSTM up to the waveform. The true reach is about half of that; the reflected ends of a clip
 * need the rest.
 */
export function encoderContext(config: EncodecConfig): number {
  let reach = 0; // in positions of the current stage
  for (const ratio of config.ratios) reach = reach * ratio + 2 * ratio + residualReach(config);
  return Math.ceil((reach + config.kernel) / config.hop);
}

/** The same for the decoder: from the waveform down to the LSTM. */
export function decoderContext(config: EncodecConfig): number {
  let reach = config.lastKernel; // in positions of the current stage
  for (const ratio of config.ratios.toReversed()) reach = Math.ceil((reach + residualReach(config)) / ratio) + 2;
  return reach;
}

/**
 * How many samples of the decoder's output are final once the features of the first `frames` frames are known, whatever
 * follows them: the exact reach of every kernel to the right, stage by stage. With the official geometry all but 482.
 */
export function finalSamples(config: EncodecConfig, frames: number): number {
  let positions = frames; // of the current stage, that are final
  for (const ratio of config.ratios) {
    positions = ratio * positions - Math.ceil(ratio / 2); // what a transposed convolution trims on the left comes from the right
    for (const dilation of config.residualDilations) positions -= rightReach(config.residualKernel, dilation);
  }
  return Math.max(0, positions - rightReach(config.lastKernel));
}

/** How many positions to its right a convolution looks. */
export function rightReach(kernel: number, dilation = 1): number {
  return Math.floor(((kernel - 1) * dilation) / 2);
}

function residualReach({ residualKernel, residualDilations }: EncodecConfig): number {
  return residualDilations.reduce((sum, dilation) => sum + (residualKernel - 1) * dilation + 1, 0);
}
