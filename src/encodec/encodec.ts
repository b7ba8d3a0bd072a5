import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import { announce, type Taps, type Walk } from "../runtime/announce.js";
import { Owner } from "../runtime/owner.js";
import type { EncodecConfig } from "./config.js";
import { dequantize, quantize } from "./quantizer.js";
import { decode, encode } from "./seanet.js";
import { LATENT_SITE, QUANTIZED_SITE } from "./sites.js";
import type { EncodecWeights } from "./weights.js";

/**
 * EnCodec (Défossez et al. 2022, "High Fidelity Neural Audio Compression"): waveform to discrete codes and back, one
 * channel. Shapes: B batch items, N samples, F frames, K codebooks, V codebook entries.
 */

/**
 * Codes of waveforms.
 *
 * @param wave float32 [B, N], N ≥ 1, at the codec's sample rate, nominally −1 … 1
 * @returns int32 [B, K, F], F = ⌈N / hop⌉, each 0 … V − 1, owned by the caller.
 * @throws {UsageError} if there are no samples.
 */
export function* encodeWave(
  { encoder, quantizer }: EncodecWeights,
  config: EncodecConfig,
  wave: tf.Tensor2D,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const [batch, samples] = wave.shape;
  if (batch < 1 || samples < 1) {
    throw new UsageError({
      asked: "encode a waveform",
      found: `one of shape [${wave.shape.join(",")}]`,
      todo: "Give [batch, samples] with at least one of each",
    });
  }
  const owner = new Owner();
  try {
    const signal = owner.own(tf.reshape<tf.Rank.R3>(wave, [batch, samples, 1])); // [B, N, 1]
    const encoded = owner.own(yield* encode(encoder, config, signal, taps)); // [B, F, D]
    const latent = yield* announce(taps, owner, LATENT_SITE, encoded);
    return yield* quantize(quantizer, latent, taps); // [B, K, F]
  } finally {
    owner.dispose();
  }
}

/**
 * Waveforms of codes.
 *
 * @param codes int32 [B, K, F], F ≥ 1, as {@link codesTensor} or {@link encodeWave} makes them
 * @returns float32 [B, F·hop], not clipped, owned by the caller.
 * @throws {UsageError} if the shape or dtype is another.
 */
export function* decodeCodes(
  { quantizer, decoder }: EncodecWeights,
  config: EncodecConfig,
  codes: tf.Tensor3D,
  taps: Taps,
): Walk<tf.Tensor2D> {
  const [batch, codebooks, frames] = codes.shape;
  if (codes.dtype !== "int32" || batch < 1 || codebooks !== config.codebooks || frames < 1) {
    throw new UsageError({
      asked: "decode codes",
      found: `${codes.dtype} [${codes.shape.join(",")}]`,
      todo: `Give int32 [batch, ${config.codebooks} codebooks, frames] with at least one item and one frame`,
    });
  }
  const owner = new Owner();
  try {
    const sum = owner.own(dequantize(quantizer, codes)); // [B, F, D]
    const quantized = yield* announce(taps, owner, QUANTIZED_SITE, sum);
    const signal = owner.own(yield* decode(decoder, config, quantized, taps)); // [B, F·hop, 1]
    return tf.reshape<tf.Rank.R2>(signal, [batch, frames * config.hop]); // [B, F·hop]
  } finally {
    owner.dispose();
  }
}

/**
 * Codes from elsewhere as a tensor, every one checked: on some backends a code outside the codebook would read whatever
 * lies beside it.
 *
 * @param values of shape [B, K, F], row by row
 * @returns int32 [B, K, F], owned by the caller.
 * @throws {UsageError} if there are not B·K·F of them, K is not the codec's, or one is not a whole number of 0 … V − 1.
 */
export function codesTensor(
  values: ArrayLike<number>,
  shape: readonly [number, number, number],
  { codebooks, codebookSize }: EncodecConfig,
): tf.Tensor3D {
  const refuse = (found: string): UsageError =>
    new UsageError({
      asked: `use codes of shape [${shape.join(",")}]`,
      found,
      todo: `Give [batch, ${codebooks} codebooks, frames] of whole numbers from 0 to ${codebookSize - 1}`,
    });
  const codes = Int32Array.from(values);
  if (shape[1] !== codebooks) throw refuse(`${shape[1]} codebooks where the codec has ${codebooks}`);
  if (codes.length !== shape[0] * shape[1] * shape[2]) throw refuse(`${codes.length} values`);
  for (const [index, code] of codes.entries()) {
    if (code !== values[index] || code < 0 || code >= codebookSize) {
      throw refuse(`${values[index]} at position ${index}`);
    }
  }
  return tf.tensor3d(codes, [...shape], "int32");
}
