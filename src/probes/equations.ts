import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import { compiledCholesky, type CompiledCholesky } from "../runtime/cholesky.js";
import { dot, multiply } from "./linear-algebra.js";

/** Linear equations with one symmetric positive definite matrix, factorised once. */
export interface Factorised {
  /** Solves for several right-hand sides, each contiguous: [count, n] → [count, n]. */
  readonly solve: (rightSides: Float64Array) => Float64Array;
}

const SMALL = 320; // below this a factorisation on the host is faster than calls to a backend
const PANEL = 128;
const MAX_REFINEMENTS = 30;
const REFINED = 1e-12;

/**
 * Factorises a symmetric positive definite matrix [n, n], which is left as it was.
 *
 * A backend with compiled float64 does it so. On others, large ones are factorised in float32 by panels on the tensor
 * backend, and each solution is then refined in float64 by conjugate gradients with that factor as preconditioner. Where
 * float32 does not reach the residual asked for, the float64 factor is computed and used: all ways give the solution of
 * the matrix as given.
 *
 * @param refined ‖residual‖ / ‖right side‖ at which refinement ends; the float64 way is exact in any case
 * @throws {UsageError} if it is not positive definite.
 */
export async function factorise(matrix: Float64Array, n: number, refined: number = REFINED): Promise<Factorised> {
  const compiled = compiledCholesky();
  if (compiled) return factoriseCompiled(compiled, matrix, n);
  const exact = once(() => exactFactor(matrix, n));
  const rough = n < SMALL ? undefined : await panelCholesky(matrix, n);
  if (rough === undefined) {
    const factor = exact();
    return { solve: (sides) => eachSide(sides, n, (side) => substitute(factor, n, side)) };
  }
  return {
    solve: (sides) =>
      eachSide(sides, n, (side) => refine(matrix, rough, n, side, refined) ?? substitute(exact(), n, side)),
  };
}

function factoriseCompiled(compiled: CompiledCholesky, matrix: Float64Array, n: number): Factorised {
  const factor = matrix.slice();
  if (!compiled.factorise(factor, n)) throw notDefinite(n);
  return {
    solve: (sides) => {
      const solutions = sides.slice();
      compiled.solve(factor, n, solutions);
      return solutions;
    },
  };
}

function exactFactor(matrix: Float64Array, n: number): Float64Array {
  const factor = matrix.slice();
  if (choleskyInPlace(factor, n)) return factor;
  throw notDefinite(n);
}

function notDefinite(n: number): UsageError {
  return new UsageError({
    asked: `solve ${n} linear equations`,
    found: "a matrix that is not positive definite: features depend on each other linearly",
    todo: "Give the ridge a penalty above 0",
  });
}

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

function eachSide(sides: Float64Array, n: number, solve: (side: Float64Array) => Float64Array): Float64Array {
  const solutions = new Float64Array(sides.length);
  for (let start = 0; start < sides.length; start += n) {
    solutions.set(solve(sides.subarray(start, start + n)), start);
  }
  return solutions;
}

/**
 * Replaces the lower triangle of a symmetric matrix [n, n] by its Cholesky factor L, matrix = L Lᵀ. The upper triangle is
 * left undefined.
 *
 * @returns whether the matrix is positive definite.
 */
export function choleskyInPlace(a: Float64Array, n: number): boolean {
  const at = (index: number): number => a[index] ?? 0;
  // Columns in blocks of four: each element read takes part in four products, which is what makes it fast.
  for (let first = 0; first < n; first += 4) {
    const last = Math.min(n, first + 4);
    if (last - first === 4) subtractProducts(a, n, first);
    else {
      for (let row = first; row < n; row++) {
        for (let column = first; column < last; column++) {
          let sum = 0;
          for (let k = 0; k < first; k++) sum += at(row * n + k) * at(column * n + k);
          a[row * n + column] = at(row * n + column) - sum;
        }
      }
    }
    for (let column = first; column < last; column++) {
      for (let row = column; row < n; row++) {
        let value = at(row * n + column);
        for (let k = first; k < column; k++) value -= at(row * n + k) * at(column * n + k);
        if (row > column) a[row * n + column] = value / at(column * n + column);
        else if (value > 0) a[row * n + column] = Math.sqrt(value);
        else return false;
      }
    }
  }
  return true;
}

/** a[row, first … first + 3] −= Σ_{k < first} a[row, k] · a[first …, k] for all rows from `first` on. */
function subtractProducts(a: Float64Array, n: number, first: number): void {
  const b0 = first * n;
  const [b1, b2, b3] = [b0 + n, b0 + 2 * n, b0 + 3 * n];
  for (let row = first; row < n; row += 2) {
    const pair = row + 1 < n;
    const r0 = row * n;
    const r1 = pair ? r0 + n : r0;
    let [s0, s1, s2, s3, t0, t1, t2, t3] = [0, 0, 0, 0, 0, 0, 0, 0];
    for (let k = 0; k < first; k++) {
      const x = a[r0 + k] ?? 0;
      const y = a[r1 + k] ?? 0;
      const c0 = a[b0 + k] ?? 0;
      const c1 = a[b1 + k] ?? 0;
      const c2 = a[b2 + k] ?? 0;
      const c3 = a[b3 + k] ?? 0;
      s0 += x * c0;
      s1 += x * c1;
      s2 += x * c2;
      s3 += x * c3;
      t0 += y * c0;
      t1 += y * c1;
      t2 += y * c2;
      t3 += y * c3;
    }
    subtractFour(a, r0 + first, s0, s1, s2, s3);
    if (pair) subtractFour(a, r1 + first, t0, t1, t2, t3);
  }
}

function subtractFour(a: Float64Array, start: number, s0: number, s1: number, s2: number, s3: number): void {
  a[start] = (a[start] ?? 0) - s0;
  a[start + 1] = (a[start + 1] ?? 0) - s1;
  a[start + 2] = (a[start + 2] ?? 0) - s2;
  a[start + 3] = (a[start + 3] ?? 0) - s3;
}

/** L⁻ᵀ L⁻¹ side. */
function substitute(factor: Float64Array | Float32Array, n: number, side: Float64Array): Float64Array {
  const x = side.slice();
  for (let row = 0; row < n; row++) {
    let value = x[row] ?? 0;
    const start = row * n;
    for (let k = 0; k < row; k++) value -= (factor[start + k] ?? 0) * (x[k] ?? 0);
    x[row] = value / (factor[start + row] ?? 1);
  }
  for (let row = n - 1; row >= 0; row--) {
    const start = row * n;
    const value = (x[row] ?? 0) / (factor[start + row] ?? 1);
    x[row] = value;
    for (let k = 0; k < row; k++) x[k] = (x[k] ?? 0) - (factor[start + k] ?? 0) * value;
  }
  return x;
}

/** Conjugate gradients with a float32 factor as preconditioner; undefined where they do not get there. */
function refine(
  matrix: Float64Array,
  factor: Float32Array,
  n: number,
  side: Float64Array,
  refined: number,
): Float64Array | undefined {
  const goal = refined * Math.sqrt(dot(side, side));
  const x = new Float64Array(n);
  const residual = Float64Array.from(side);
  if (goal === 0) return x;
  let z = substitute(factor, n, residual);
  const search = Float64Array.from(z);
  let energy = dot(residual, z);
  for (let step = 0; step < MAX_REFINEMENTS; step++) {
    const image = multiply(matrix, n, search);
    const length = energy / dot(search, image);
    if (!Number.isFinite(length)) return undefined;
    for (let index = 0; index < n; index++) {
      x[index] = (x[index] ?? 0) + length * (search[index] ?? 0);
      residual[index] = (residual[index] ?? 0) - length * (image[index] ?? 0);
    }
    if (Math.sqrt(dot(residual, residual)) <= goal) return x;
    z = substitute(factor, n, residual);
    const next = dot(residual, z);
    const ratio = next / energy;
    energy = next;
    for (let index = 0; index < n; index++) search[index] = (z[index] ?? 0) + ratio * (search[index] ?? 0);
  }
  return undefined;
}

/**
 * The Cholesky factor in float32, panel by panel: the diagonal block on the host, what it does to the rest as two
 * products on the tensor backend. Undefined where float32 finds the matrix not positive definite.
 */
async function panelCholesky(matrix: Float64Array, n: number): Promise<Float32Array | undefined> {
  const factor = new Float32Array(matrix);
  for (let first = 0; first < n; first += PANEL) {
    const width = Math.min(PANEL, n - first);
    const block = new Float64Array(width * width);
    for (let row = 0; row < width; row++) {
      const start = (first + row) * n + first;
      block.set(factor.subarray(start, start + width), row * width);
    }
    if (!choleskyInPlace(block, width)) return undefined;
    for (let row = 0; row < width; row++) {
      factor.set(block.subarray(row * width, row * width + row + 1), (first + row) * n + first);
    }
    const below = n - first - width;
    if (below > 0) await eliminate(factor, n, first, width, invertLower(block, width));
  }
  return factor;
}

/** Below a factorised diagonal block L₁: L₂ = A₂ L₁⁻ᵀ, and the rest loses L₂ L₂ᵀ. */
async function eliminate(
  factor: Float32Array,
  n: number,
  first: number,
  width: number,
  inverse: Float32Array,
): Promise<void> {
  const next = first + width;
  const below = n - next;
  const panel = new Float32Array(below * width);
  for (let row = 0; row < below; row++) {
    const start = (next + row) * n + first;
    panel.set(factor.subarray(start, start + width), row * width);
  }
  const [scaled, update]: [tf.Tensor2D, tf.Tensor2D] = tf.tidy(() => {
    const solved: tf.Tensor2D = tf.matMul(
      tf.tensor2d(panel, [below, width]),
      tf.tensor2d(inverse, [width, width]),
      false,
      true,
    );
    return [solved, tf.matMul(solved, solved, false, true)];
  });
  const [solved, products] = await Promise.all([scaled.data<"float32">(), update.data<"float32">()]);
  tf.dispose([scaled, update]);
  for (let row = 0; row < below; row++) {
    const start = (next + row) * n;
    factor.set(solved.subarray(row * width, (row + 1) * width), start + first);
    for (let column = 0; column <= row; column++) {
      const index = start + next + column;
      factor[index] = (factor[index] ?? 0) - (products[row * below + column] ?? 0);
    }
  }
}

/** The inverse of a lower triangle, zeros above it. */
function invertLower(lower: Float64Array, n: number): Float32Array {
  const inverse = new Float64Array(n * n);
  for (let row = 0; row < n; row++) {
    const diagonal = lower[row * n + row] ?? 1;
    for (let k = 0; k < row; k++) {
      const value = lower[row * n + k] ?? 0;
      for (let column = 0; column <= k; column++) {
        const index = row * n + column;
        inverse[index] = (inverse[index] ?? 0) - value * (inverse[k * n + column] ?? 0);
      }
    }
    for (let column = 0; column < row; column++) {
      inverse[row * n + column] = (inverse[row * n + column] ?? 0) / diagonal;
    }
    inverse[row * n + row] = 1 / diagonal;
  }
  return new Float32Array(inverse);
}
