import * as tf from "@tensorflow/tfjs-core";

import { hasFused, runFused } from "./fused.js";

/**
 * The exact GELU, x/2 · (1 + erf(x/√2)). The tanh approximation differs from it by up to 5e-4: too much for parity.
 *
 * @returns same shape, owned by the caller.
 */
export function gelu<T extends tf.Tensor>(x: T): T {
  if (hasFused("TonearmGelu")) return runFused("TonearmGelu", { x }) as T;
  return tf.tidy(() => tf.mul<T>(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1)));
}
