import * as tf from "@tensorflow/tfjs-core";

import { linear, type Linear } from "../runtime/linear.js";

/** States of the text encoder for N texts, and which row reads which. */
export interface EncodedTexts {
  readonly states: tf.Tensor3D; // [N, S, Dt]
  readonly mask: Int32Array; // [N, S]: 1 for a token, 0 for padding
  readonly textOfRow: readonly number[]; // for each of the first Rc rows, 0 … N − 1
  readonly later?: readonly LaterTexts[] | undefined; // that take their place, in order
}

/** Texts that rows read from a position on. */
export interface LaterTexts {
  readonly from: number; // absolute position
  readonly texts: EncodedTexts;
}

/** Frees the states of texts, and of those that take their place. */
export function disposeTexts({ states, later }: EncodedTexts): void {
  states.dispose();
  later?.forEach(({ texts }) => disposeTexts(texts));
}

/**
 * States of texts at the decoder's width, zero where padded. The bias is added before the padding is zeroed, as in the
 * reference.
 *
 * @returns [N, S, D], owned by the caller.
 */
export function projectTexts(projection: Linear | undefined, { states, mask }: EncodedTexts): tf.Tensor3D {
  const [texts, tokens] = states.shape;
  return tf.tidy(() => {
    const wide = projection ? linear(states, projection) : states; // [N, S, D]
    const real = tf.tensor3d(Float32Array.from(mask), [texts, tokens, 1]); // [N, S, 1]
    return tf.mul<tf.Tensor3D>(wide, real);
  });
}
