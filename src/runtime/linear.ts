import * as tf from "@tensorflow/tfjs-core";

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
 * Makes the weight of a linear layer from one or more checkpoint matrices [outᵢ, in], joined along their outputs: that
 * is how q, k and v, or the heads of all codebooks, become one matrix product.
 *
 * The transpose to [in, out] happens here, once: TF.js's wasm backend is five times slower on a transposed right-hand
 * side.
 *
 * @returns float32 [in, Σ outᵢ], owned by the caller.
 */
export function linearWeight(...parts: readonly HostMatrix[]): tf.Tensor2D {
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
 * x · W (+ bias), over the last axis of `x`.
 *
 * The product runs on rank 2: TF.js's wasm backend leaves its fast path for anything of higher rank.
 *
 * @param x float32 [..., in]
 * @returns float32 [..., out], owned by the caller.
 */
export function linear<T extends tf.Tensor>(x: T, { weight, bias }: Linear): T {
  return tf.tidy(() => {
    const [inputs, outputs] = weight.shape;
    const flat = tf.reshape(x, [-1, inputs]); // [rows, in]
    const product = tf.matMul(flat, weight); // [rows, out]
    const sum = bias ? tf.add(product, bias) : product;
    return tf.reshape(sum, [...x.shape.slice(0, -1), outputs]) as T; // [..., out]
  });
}
