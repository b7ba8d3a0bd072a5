import * as tf from "@tensorflow/tfjs-core";

import { paddingMask } from "../runtime/attention.js";
import type { Linear } from "../runtime/linear.js";
import type { MelodyConfig } from "./checkpoint.js";
import type { DecoderConfig } from "./config.js";
import { disposeMemory, textMemory, type TextMemory } from "./decoder.js";
import type { DecoderWeights } from "./decoder-weights.js";
import type { Rows } from "./guidance.js";
import { melodyPrefix, type Melody, type Prefix } from "./melody.js";
import type { LoadedDecoder } from "./networks.js";
import { projectTexts, type EncodedTexts } from "./text-states.js";

/** What the rows of a run are conditioned on, made once: by cross-attention, or as positions before the BOS column. */
export interface Conditioning {
  readonly memory: TextMemory | undefined;
  readonly prefix: Prefix | undefined; // melody models
}

/**
 * Makes what the rows of a run are conditioned on.
 *
 * @param encoded undefined: no row has a text
 * @param melodies of a melody model: none, one for all clips, or one for each
 * @returns owned by the caller; free it with {@link disposeConditioning}.
 */
export function condition(
  decoder: LoadedDecoder,
  melodyConfig: MelodyConfig | undefined,
  encoded: EncodedTexts | undefined,
  melodies: readonly Melody[],
  rows: Rows,
): Conditioning {
  if (melodyConfig) {
    return { memory: undefined, prefix: melodyPrefix(decoder, melodyConfig.rows, encoded, melodies, rows) };
  }
  return { memory: encoded && readTexts(decoder, decoder.textProjection, encoded), prefix: undefined };
}

/** Frees what {@link condition} made. */
export function disposeConditioning({ memory, prefix }: Conditioning): void {
  if (memory) disposeMemory(memory);
  prefix?.embeddings.dispose();
}

/**
 * What the decoder reads of a text by cross-attention: its states, projected, as keys and values of every block.
 *
 * @returns owned by the caller.
 */
export function readTexts(
  decoder: { readonly weights: DecoderWeights; readonly config: DecoderConfig },
  projection: Linear | undefined,
  encoded: EncodedTexts,
): TextMemory {
  const { mask, textOfRow } = encoded;
  const tokens = encoded.states.shape[1];
  const rowMask = textOfRow.flatMap((text) => [...mask.subarray(text * tokens, (text + 1) * tokens)]); // [Rc, S]
  const projected = tf.tidy(() => tf.gather<tf.Tensor3D>(projectTexts(projection, encoded), [...textOfRow])); // [Rc, S, D]
  try {
    return textMemory(decoder.weights, decoder.config, projected, paddingMask(rowMask, textOfRow.length));
  } finally {
    projected.dispose();
  }
}
