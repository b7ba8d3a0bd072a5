import * as tf from "@tensorflow/tfjs-core";

/**
 * The arithmetic that probes share. Large products run on the tensor backend in float32; what must be exact (sums,
 * solutions, eigenvectors) is float64 on the host. Matrices are row-major and square ones hold both triangles.
 */

/** Rows of float32 features on the host: [rows, columns]. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

/** The rows of a matrix at the given indices, in that order. */
export function takeRows({ columns, values }: Matrix, rows: Int32Array): Matrix {
  const taken = new Float32Array(rows.length * columns);
  rows.forEach((row, index) => taken.set(values.subarray(row * columns, (row + 1) * columns), index * columns));
  return { rows: rows.length, columns, values: taken };
}

/** a · b, or with `transposeA` aᵀ · b, or with `transposeB` a · bᵀ, in float32 on the tensor backend. */
export async function product(
  a: Matrix,
  b: Matrix,
  { transposeA = false, transposeB = false }: { readonly transposeA?: boolean; readonly transposeB?: boolean } = {},
): Promise<Matrix> {
  const result = tf.tidy(() =>
    tf.matMul(
      tf.tensor2d(a.values, [a.rows, a.columns]),
      tf.tensor2d(b.values, [b.rows, b.columns]),
      transposeA,
      transposeB,
    ),
  );
  try {
    const [rows = 0, columns = 0] = result.shape;
    return { rows, columns, values: await result.data<"float32">() };
  } finally {
    result.dispose();
  }
}

/** matrix · x in float64. */
export function multiply(matrix: Float64Array, n: number, x: Float64Array): Float64Array {
  const y = new Float64Array(n);
  for (let row = 0; row < n; row++) {
    const start = row * n;
    let [even, odd] = [0, 0]; // two chains of additions run side by side
    for (let k = 0; k + 1 < n; k += 2) {
      even += (matrix[start + k] ?? 0) * (x[k] ?? 0);
      odd += (matrix[start + k + 1] ?? 0) * (x[k + 1] ?? 0);
    }
    if (n % 2 === 1) even += (matrix[start + n - 1] ?? 0) * (x[n - 1] ?? 0);
    y[row] = even + odd;
  }
  return y;
}

/** Σ a·b in float64. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let index = 0; index < a.length; index++) sum += (a[index] ?? 0) * (b[index] ?? 0);
  return sum;
}

/** x / ‖x‖; zeros stay zeros. */
export function unit(x: Float64Array): Float64Array {
  let largest = 0;
  for (const value of x) largest = Math.max(largest, Math.abs(value)); // keeps squares inside the range
  if (largest === 0 || !Number.isFinite(largest)) return Float64Array.from(x);
  const scaled = x.map((value) => value / largest);
  const norm = Math.sqrt(dot(scaled, scaled));
  return scaled.map((value) => value / norm);
}

/** y += scale · x */
export function addScaled(y: Float64Array, x: ArrayLike<number>, scale: number): void {
  for (let index = 0; index < y.length; index++) y[index] = (y[index] ?? 0) + scale * (x[index] ?? 0);
}
