import * as tf from "@tensorflow/tfjs-core";

import { hasFused, runFused, runFusedMany } from "./fused.js";

/** Gain and bias of a layer normalisation, each [D]. */
export interface LayerNorm {
  readonly gain: tf.Tensor1D;
  readonly bias: tf.Tensor1D;
}

/** What a normalisation passes on its way: TransformerLens's `hook_scale` and `hook_normalized`. */
export type Normalized = {
  readonly scale: tf.Tensor; // [..., 1]: what the centred input is divided by
  readonly normalized: tf.Tensor; // [..., D]: before gain and bias
};

/**
 * The first half of a layer normalisation: (x − mean) / √(variance + epsilon) over the last axis, with the biased
 * variance, as torch.nn.LayerNorm.
 *
 * @param x float32 [..., D]
 * @returns both tensors owned by the caller.
 */
export function standardize(x: tf.Tensor, epsilon: number): Normalized {
  if (hasFused("TonearmStandardize")) return fusedNormalized(x, { epsilon, centre: true });
  return tf.tidy(() => {
    const centred = tf.sub(x, tf.mean(x, -1, true));
    const scale = tf.sqrt(tf.add(tf.mean(tf.square(centred), -1, true), epsilon));
    return { scale, normalized: tf.div(centred, scale) };
  });
}

/**
 * Root-mean-square normalisation without gain: x / √(mean(x²) + epsilon) over the last axis, as T5.
 *
 * @param x float32 [..., D]
 * @returns both tensors owned by the caller.
 */
export function rootMeanSquare(x: tf.Tensor, epsilon: number): Normalized {
  if (hasFused("TonearmStandardize")) return fusedNormalized(x, { epsilon, centre: false });
  return tf.tidy(() => {
    const scale = tf.sqrt(tf.add(tf.mean(tf.square(x), -1, true), epsilon));
    return { scale, normalized: tf.div(x, scale) };
  });
}

function fusedNormalized(x: tf.Tensor, attrs: { readonly epsilon: number; readonly centre: boolean }): Normalized {
  const [normalized, scale] = runFusedMany("TonearmStandardize", { x }, attrs);
  if (!normalized || !scale) throw new RangeError("a normalisation gives two tensors");
  return { scale, normalized };
}

/**
 * Layer normalisation with gain and bias over the last axis, in one go.
 *
 * @param x float32 [..., D]
 * @returns [..., D] owned by the caller.
 */
export function layerNorm<T extends tf.Tensor>(x: T, norm: LayerNorm, epsilon: number): T {
  if (hasFused("TonearmLayerNorm")) return runFused("TonearmLayerNorm", { x, ...norm }, { epsilon }) as T;
  return tf.tidy(() => affine(standardize(x, epsilon).normalized as T, norm));
}

/** The second half of a layer normalisation: normalized · gain + bias. @returns [..., D] owned by the caller. */
export function affine<T extends tf.Tensor>(normalized: T, { gain, bias }: LayerNorm): T {
  return tf.tidy(() => tf.add<T>(tf.mul(normalized, gain), bias));
}
