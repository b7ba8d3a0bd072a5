import * as tf from "@tensorflow/tfjs-core";

import { announce, complete, NO_TAPS, type Taps, type Walk } from "../runtime/announce.js";
import { Owner } from "../runtime/owner.js";
import type { EncodecConfig } from "./config.js";
import { convolve, convolveTransposed } from "./convolution.js";
import { decoderLayout, encoderLayout, type SeanetLayout, type StageLayout } from "./layout.js";
import { lstm, type LstmLayer } from "./lstm.js";
import { decoderContext, encoderContext, joinPieces, piecesOf } from "./pieces.js";
import { layerSite, resamplingSites } from "./sites.js";
import type { DecoderWeights, EncoderWeights, ResidualUnit } from "./weights.js";

/**
 * SEANet (Tagliasacchi et al. 2020) as EnCodec uses it (Défossez et al. 2022): an encoder from waveform to latents and
 * its mirror image. Shapes: B batch items, N samples, N' positions of a stage, F frames, C channels, D latent width.
 */

/**
 * Latents of a waveform.
 *
 * @param wave float32 [B, N, 1], N ≥ 1
 * @returns float32 [B, F, D], F = ⌈N / hop⌉, owned by the caller.
 */
export function* encode(
  weights: EncoderWeights,
  config: EncodecConfig,
  wave: tf.Tensor3D,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const layout = encoderLayout(config);
  const owner = new Owner();
  try {
    const features = owner.own(yield* downsampleInPieces(weights, config, layout, wave, taps)); // [B, F, C]
    const inContext = yield* next(taps, owner, layerSite("encoder", layout.lstm), features, (x) =>
      withMemory(weights.lstm, x),
    ); // [B, F, C]
    const latent = yield* next(taps, owner, layerSite("encoder", layout.last), inContext, (x) =>
      convolve(tf.elu(x), weights.last),
    ); // [B, F, D]
    return owner.release(latent);
  } finally {
    owner.dispose();
  }
}

function* downsampleInPieces(
  weights: EncoderWeights,
  config: EncodecConfig,
  layout: SeanetLayout,
  wave: tf.Tensor3D,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const { hop } = config;
  const [batch, samples] = wave.shape;
  const pieces = piecesOf(Math.ceil(samples / hop), encoderContext(config));
  if (pieces.length === 1 || resamplingSites("encoder", layout).some((site) => taps.wants(site))) {
    return yield* downsample(weights, layout, wave, taps);
  }
  return joinPieces(pieces, ({ start, end, from, to }) => {
    const piece = tf.slice(wave, [0, from * hop, 0], [batch, Math.min(to * hop, samples) - from * hop, 1]);
    const features = complete(downsample(weights, layout, piece, NO_TAPS)); // [B, to − from, C]
    return tf.slice(features, [0, start - from, 0], [batch, end - start, layout.lstmWidth]); // [B, end − start, C]
  });
}

/** [B, N, 1] → [B, F, C], the convolutions up to the LSTM. */
function* downsample(weights: EncoderWeights, layout: SeanetLayout, wave: tf.Tensor3D, taps: Taps): Walk<tf.Tensor3D> {
  const owner = new Owner();
  try {
    let x = yield* next(taps, owner, layerSite("encoder", layout.first), wave, (input) =>
      convolve(input, weights.first),
    ); // [B, N, filters]
    for (const [index, { residuals, down }] of weights.stages.entries()) {
      const stage = itemOf(layout.stages, index);
      x = yield* residualUnits(taps, owner, "encoder", residuals, stage, x); // [B, N', C]
      x = yield* next(taps, owner, layerSite("encoder", stage.resample), x, (input) =>
        convolve(tf.elu(input), down, { stride: stage.ratio }),
      ); // [B, ⌈N' / ratio⌉, 2C]
    }
    return owner.release(x);
  } finally {
    owner.dispose();
  }
}

/**
 * The waveform of latents.
 *
 * @param latent float32 [B, F, D], F ≥ 1
 * @returns float32 [B, F·hop, 1], owned by the caller.
 */
export function* decode(
  weights: DecoderWeights,
  config: EncodecConfig,
  latent: tf.Tensor3D,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const layout = decoderLayout(config);
  const owner = new Owner();
  try {
    const features = yield* next(taps, owner, layerSite("decoder", layout.first), latent, (x) =>
      convolve(x, weights.first),
    ); // [B, F, C]
    const inContext = yield* next(taps, owner, layerSite("decoder", layout.lstm), features, (x) =>
      withMemory(weights.lstm, x),
    ); // [B, F, C]
    return yield* upsampleInPieces(weights, config, layout, inContext, taps);
  } finally {
    owner.dispose();
  }
}

function* upsampleInPieces(
  weights: DecoderWeights,
  config: EncodecConfig,
  layout: SeanetLayout,
  features: tf.Tensor3D,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const { hop } = config;
  const [batch, frames, width] = features.shape;
  const pieces = piecesOf(frames, decoderContext(config));
  if (pieces.length === 1 || resamplingSites("decoder", layout).some((site) => taps.wants(site))) {
    return yield* upsample(weights, layout, features, taps);
  }
  return joinPieces(pieces, ({ start, end, from, to }) => {
    const piece = tf.slice(features, [0, from, 0], [batch, to - from, width]); // [B, to − from, C]
    const wave = complete(upsample(weights, layout, piece, NO_TAPS)); // [B, (to − from)·hop, 1]
    return tf.slice(wave, [0, (start - from) * hop, 0], [batch, (end - start) * hop, 1]); // [B, (end − start)·hop, 1]
  });
}

/** [B, F, C] → [B, N, 1], the convolutions after the LSTM. The result is owned by the caller. */
export function* upsample(
  weights: DecoderWeights,
  layout: SeanetLayout,
  features: tf.Tensor3D,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const owner = new Owner();
  try {
    let x = features;
    for (const [index, { up, residuals }] of weights.stages.entries()) {
      const stage = itemOf(layout.stages, index);
      x = yield* next(taps, owner, layerSite("decoder", stage.resample), x, (input) =>
        convolveTransposed(tf.elu(input), up, stage.ratio),
      ); // [B, N'·ratio, C / 2]
      x = yield* residualUnits(taps, owner, "decoder", residuals, stage, x); // [B, N'·ratio, C / 2]
    }
    const wave = yield* next(taps, owner, layerSite("decoder", layout.last), x, (input) =>
      convolve(tf.elu(input), weights.last),
    ); // [B, N, 1]
    return owner.release(wave);
  } finally {
    owner.dispose();
  }
}

function* residualUnits(
  taps: Taps,
  owner: Owner,
  network: "encoder" | "decoder",
  units: readonly ResidualUnit[],
  { residuals }: StageLayout,
  x: tf.Tensor3D, // [B, N', C]
): Walk<tf.Tensor3D> {
  for (const [index, { narrow, widen }] of units.entries()) {
    const { layer, dilation } = itemOf(residuals, index);
    x = yield* next(taps, owner, layerSite(network, layer), x, (input) => {
      const inner = convolve(tf.elu(input), narrow, { dilation }); // [B, N', C / 2]
      return tf.add(input, convolve(tf.elu(inner), widen)); // [B, N', C]
    });
  }
  return x;
}

/** The LSTM with its skip connection. */
function withMemory(layers: readonly LstmLayer[], x: tf.Tensor3D): tf.Tensor3D {
  return tf.add(lstm(layers, x).output, x);
}

/** Runs one layer, frees its input, which nothing else needs, and announces its output. */
function* next(
  taps: Taps,
  owner: Owner,
  site: string,
  input: tf.Tensor3D,
  layer: (input: tf.Tensor3D) => tf.Tensor3D,
): Walk<tf.Tensor3D> {
  const output = owner.run(() => layer(input));
  owner.free(input);
  const announced = yield* announce(taps, owner, site, output);
  if (announced !== output) owner.free(output);
  return announced;
}

/** The item that a layout has for an item of the weights. */
function itemOf<Item>(layouts: readonly Item[], index: number): Item {
  const item = layouts[index];
  if (item === undefined) throw new RangeError(`the weights have a layer ${index} that their config has not`);
  return item;
}
