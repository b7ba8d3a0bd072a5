import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import { hasFused, runFused } from "./fused.js";
import { gelu } from "./gelu.js";

/** A float32 matrix on the host in the checkpoint's own layout: `rows` output features by `columns` input features. */
export interface HostMatrix {
  readonly values: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/**
 * A linear layer. To every caller `weight` is a float32 tensor [in, out]; how its values are stored is the backend's
 * matter.
 */
export interface Linear {
  readonly weight: tf.Tensor2D; // [in, out]
  readonly bias?: tf.Tensor1D; // [out]
}

/**
 * How the native backend stores a weight: `exact` takes 16 bits where every value survives that and 32 elsewhere; `int8`
 * has one scale per output, `int4` one per group of 32 inputs, and both lose accuracy.
 */
export const WEIGHT_STORAGES = ["exact", "f32", "f16", "int8", "int4"] as const;

export type WeightStorage = (typeof WEIGHT_STORAGES)[number];

/**
 * Makes the weight of a linear layer from one or more checkpoint matrices [outᵢ, in], joined along their outputs: that
 * is how q, k and v, or the heads of all codebooks, become one matrix product.
 *
 * The native backend keeps the checkpoint's own order of values. Elsewhere the transpose to [in, out] happens here,
 * once: TF.js's wasm backend is five times slower on a transposed right-hand side.
 *
 * @returns float32 [in, Σ outᵢ], owned by the caller.
 */
export function linearWeight(...parts: readonly HostMatrix[]): tf.Tensor2D {
  return storedLinearWeight("exact", ...parts);
}

/**
 * As {@link linearWeight}, stored as `storage` says.
 *
 * @throws {UsageError} if the backend in use stores float32 only and `storage` is another.
 */
export function storedLinearWeight(storage: WeightStorage, ...parts: readonly HostMatrix[]): tf.Tensor2D {
  if (hasFused("TonearmLinearWeight")) return nativeWeight(storage, parts);
  if (storage !== "exact" && storage !== "f32") {
    throw new UsageError({
      asked: `weights stored as ${storage}`,
      found: `the backend ${tf.getBackend()}, which stores float32 only`,
      todo: "Use the native backend, or leave the storage at its default",
    });
  }
  return transposedWeight(parts);
}

function nativeWeight(storage: WeightStorage, parts: readonly HostMatrix[]): tf.Tensor2D {
  return tf.tidy(() => {
    const matrices = parts.map(({ values, rows, columns }, index): [string, tf.Tensor] => [
      `part${index}`,
      tf.tensor2d(values, [rows, columns]),
    ]);
    return runFused("TonearmLinearWeight", Object.fromEntries<tf.Tensor>(matrices), { storage }) as tf.Tensor2D; // [in, Σ outᵢ]
  });
}

function transposedWeight(parts: readonly HostMatrix[]): tf.Tensor2D {
  const inputs = parts[0]?.columns ?? 0;
  const outputs = parts.reduce((sum, part) => sum + part.rows, 0);
  const transposed = new Float32Array(inputs * outputs);
  let firstOutput = 0;
  for (const { values, rows, columns } of parts) {
    transposeInto(values, rows, columns, transposed, firstOutput, outputs);
    firstOutput += rows;
  }
  return tf.tensor2d(transposed, [inputs, outputs]);
}

const BLOCK = 32; // a 32×32 float block of source and destination stay in the first-level cache

function transposeInto(
  source: Float32Array, // [rows, columns]
  rows: number,
  columns: number,
  destination: Float32Array, // [columns, stride]
  offset: number,
  stride: number,
): void {
  for (let rowBlock = 0; rowBlock < rows; rowBlock += BLOCK) {
    const rowEnd = Math.min(rowBlock + BLOCK, rows);
    for (let columnBlock = 0; columnBlock < columns; columnBlock += BLOCK) {
      const columnEnd = Math.min(columnBlock + BLOCK, columns);
      for (let row = rowBlock; row < rowEnd; row++) {
        for (let column = columnBlock; column < columnEnd; column++) {
          destination[column * stride + offset + row] = source[row * columns + column] ?? 0;
        }
      }
    }
  }
}

/**
 * x · W (+ bias), over the last axis of `x`, through `activation` if one is given.
 *
 * The product runs on rank 2: TF.js's wasm backend leaves its fast path for anything of higher rank.
 *
 * @param x float32 [..., in]
 * @returns float32 [..., out], owned by the caller.
 */
export function linear<T extends tf.Tensor>(x: T, { weight, bias }: Linear, activation: "none" | "gelu" = "none"): T {
  if (hasFused("TonearmLinear")) return runFused("TonearmLinear", { x, weight, bias }, { activation }) as T;
  return tf.tidy(() => {
    const [inputs, outputs] = weight.shape;
    const flat = tf.reshape(x, [-1, inputs]); // [rows, in]
    const product = tf.matMul(flat, weight); // [rows, out]
    const sum = bias ? tf.add(product, bias) : product;
    const activated = activation === "gelu" ? gelu(sum) : sum;
    return tf.reshape(activated, [...x.shape.slice(0, -1), outputs]) as T; // [..., out]
  });
}
