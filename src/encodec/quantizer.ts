import * as tf from "@tensorflow/tfjs-core";

import type { WeightScope } from "../checkpoint/scope.js";
import { linear, linearWeight, type Linear } from "../runtime/linear.js";
import { announce, type Taps, type Walk } from "../runtime/announce.js";
import { Owner } from "../runtime/owner.js";
import type { EncodecConfig } from "./config.js";
import { residualSite } from "./sites.js";

/**
 * The residual vector quantiser: each codebook describes what the ones before it left over. Shapes: B batch items,
 * F frames, K codebooks, V entries, D latent width.
 */

/** One codebook. */
export type Codebook = {
  readonly entries: tf.Tensor2D; // [V, D]
  readonly products: Linear; // [D, V]: the entries as columns
  readonly squares: tf.Tensor1D; // [V]: squared length of each entry
};

/**
 * Nearest entries, codebook by codebook.
 *
 * Distances are computed as in the reference, −(‖r‖² − 2·r·e + ‖e‖²), and the first of equals wins.
 *
 * @param latent float32 [B, F, D]
 * @returns int32 [B, K, F], each 0 … V − 1, owned by the caller.
 */
export function* quantize(codebooks: readonly Codebook[], latent: tf.Tensor3D, taps: Taps): Walk<tf.Tensor3D> {
  const owner = new Owner();
  try {
    const [batch, frames] = latent.shape;
    let residual = latent; // [B, F, D]
    const codes: tf.Tensor2D[] = [];
    for (const [index, codebook] of codebooks.entries()) {
      residual = yield* announce(taps, owner, residualSite(index), residual);
      const before = residual;
      const nearest = owner.run(() => nearestEntries(codebook, before)); // [B, F]
      residual = owner.run(() => tf.sub(before, tf.gather(codebook.entries, nearest))); // [B, F, D]
      codes.push(nearest);
    }
    return owner.release(owner.run(() => tf.reshape<tf.Rank.R3>(tf.stack(codes, 1), [batch, codes.length, frames]))); // [B, K, F]
  } finally {
    owner.dispose();
  }
}

function nearestEntries({ products, squares }: Codebook, residual: tf.Tensor3D): tf.Tensor2D {
  const length = tf.sum(tf.square(residual), -1, true); // [B, F, 1]
  const product = linear(residual, products); // [B, F, V]
  const distance = tf.add(tf.sub(length, tf.mul(product, 2)), squares); // [B, F, V]
  return tf.argMax(tf.neg(distance), -1); // [B, F]
}

/**
 * The sum of the entries that codes stand for.
 *
 * @param codes int32 [B, K, F], each 0 … V − 1
 * @returns float32 [B, F, D], owned by the caller.
 */
export function dequantize(codebooks: readonly Codebook[], codes: tf.Tensor3D): tf.Tensor3D {
  return tf.tidy(() => {
    const rows = tf.unstack(codes, 1); // K × [B, F]
    const parts = codebooks.map(({ entries }, index) => tf.gather<tf.Tensor>(entries, rows[index] ?? [])); // K × [B, F, D]
    return parts.reduce((sum, part) => tf.add(sum, part)) as tf.Tensor3D;
  });
}

/**
 * Reads the codebooks. The statistics that only training needs are passed over.
 *
 * @returns weights owned by `owner`.
 * @throws {CheckpointError} if a tensor is missing, damaged or of another shape.
 */
export async function loadCodebooks(scope: WeightScope, config: EncodecConfig, owner: Owner): Promise<Codebook[]> {
  const { codebooks, codebookSize, latentWidth } = config;
  const loaded: Codebook[] = [];
  for (let index = 0; index < codebooks; index++) {
    const codebook = scope.scope("layers", index, "codebook");
    codebook.ignore("embed_avg", "cluster_size", "inited");
    const values = await codebook.values("embed", [codebookSize, latentWidth]);
    const squares = Float32Array.from({ length: codebookSize }, (_, entry) =>
      values.subarray(entry * latentWidth, (entry + 1) * latentWidth).reduce((sum, value) => sum + value * value, 0),
    );
    loaded.push({
      entries: owner.own(tf.tensor2d(values, [codebookSize, latentWidth])),
      products: { weight: owner.own(linearWeight({ values, rows: codebookSize, columns: latentWidth })) },
      squares: owner.own(tf.tensor1d(squares)),
    });
  }
  return loaded;
}
