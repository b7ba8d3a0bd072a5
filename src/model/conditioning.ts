import * as tf from "@tensorflow/tfjs-core";

import { paddingMask } from "../runtime/attention.js";
import { linear, type Linear } from "../runtime/linear.js";
import type { DecoderConfig } from "./config.js";
import { textMemory, type TextMemory } from "./decoder.js";
import type { DecoderWeights } from "./decoder-weights.js";

/** States of the text encoder for N texts, and which row reads which. */
export interface EncodedTexts {
  readonly states: tf.Tensor3D; // [N, S, Dt]
  readonly mask: Int32Array; // [N, S]: 1 for a token, 0 for padding
  readonly textOfRow: readonly number[]; // for each of the first Rc rows, 0 … N − 1
}

/**
 * What the decoder reads of a text: its states, projected to the decoder's width, zero where padded, as keys and values
 * of every block. The bias is added before the padding is zeroed, as in the reference.
 *
 * @returns owned by the caller.
 */
export function readTexts(
  decoder: { readonly weights: DecoderWeights; readonly config: DecoderConfig },
  projection: Linear | undefined,
  { states, mask, textOfRow }: EncodedTexts,
): TextMemory {
  const [texts, tokens] = states.shape;
  const rowMask = textOfRow.flatMap((text) => [...mask.subarray(text * tokens, (text + 1) * tokens)]); // [Rc, S]
  const projected = tf.tidy(() => {
    const wide = projection ? linear(states, projection) : states; // [N, S, D]
    const real = tf.tensor3d(Float32Array.from(mask), [texts, tokens, 1]); // [N, S, 1]
    return tf.gather<tf.Tensor3D>(tf.mul(wide, real), [...textOfRow]); // [Rc, S, D]
  });
  try {
    return textMemory(decoder.weights, decoder.config, projected, paddingMask(rowMask, textOfRow.length));
  } finally {
    projected.dispose();
  }
}
