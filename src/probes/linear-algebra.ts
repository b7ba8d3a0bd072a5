import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import { compiledCholesky, type CompiledCholesky } from "../runtime/cholesky.js";

/**
 * The dense linear algebra of probes. Large products run on the tensor backend in float32; what must be exact (sums,
 * solutions, eigenvectors) is float64 on the host. Matrices are row-major and square ones hold both triangles.
 */

/** Rows of float32 features on the host: [rows, columns]. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

/** Linear equations with one symmetric positive definite matrix, factorised once. */
export interface Factorised {
  /** Solves for several right-hand sides, each contiguous: [count, n] → [count, n]. */
  readonly solve: (rightSides: Float64Array) => Float64Array;
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
    solve: (sides) => {
      const solutions = refine(matrix, rough, n, sides, refined);
      return eachSide(sides, n, (side, index) => solutions[index] ?? substitute(exact(), n, side));
    },
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

function eachSide(
  sides: Float64Array,
  n: number,
  solve: (side: Float64Array, index: number) => Float64Array,
): Float64Array {
  const solutions = new Float64Array(sides.length);
  for (let start = 0; start < sides.length; start += n) {
    solutions.set(solve(sides.subarray(start, start + n), start / n), start);
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

/** One right-hand side on its way to a solution. */
interface Refinement {
  readonly goal: number; // the residual's norm at which it ends
  readonly x: Float64Array;
  readonly residual: Float64Array;
  readonly search: Float64Array;
  energy: number;
  state: "running" | "done" | "failed";
}

/**
 * Conjugate gradients with a float32 factor as preconditioner, for all right-hand sides in step: each reading of the
 * matrix serves all that are still on their way. Undefined where they do not get there.
 */
function refine(
  matrix: Float64Array,
  factor: Float32Array,
  n: number,
  sides: Float64Array,
  refined: number,
): readonly (Float64Array | undefined)[] {
  const starts = Array.from({ length: sides.length / n }, (_, index) => sides.slice(index * n, (index + 1) * n));
  const firsts = substituteEach(factor, n, starts);
  const all = starts.map((residual, index): Refinement => {
    const search = firsts[index] ?? new Float64Array(n);
    const goal = refined * Math.sqrt(dot(residual, residual));
    const state = goal === 0 ? "done" : "running";
    return { goal, x: new Float64Array(n), residual, search, energy: dot(residual, search), state };
  });
  const running = (): Refinement[] => all.filter(({ state }) => state === "running");
  for (let step = 0; step < MAX_REFINEMENTS && running().length > 0; step++) {
    const current = running();
    const images = multiplyEach(
      matrix,
      n,
      current.map(({ search }) => search),
    );
    current.forEach((own, index) => {
      stepAlong(own, images[index] ?? new Float64Array(n));
    });
    const left = running();
    const preconditioned = substituteEach(
      factor,
      n,
      left.map(({ residual }) => residual),
    );
    left.forEach((own, index) => {
      const z = preconditioned[index] ?? new Float64Array(n);
      const next = dot(own.residual, z);
      const ratio = next / own.energy;
      own.energy = next;
      for (let at = 0; at < n; at++) own.search[at] = (z[at] ?? 0) + ratio * (own.search[at] ?? 0);
    });
  }
  return all.map(({ state, x }) => (state === "done" ? x : undefined));
}

/** @param image matrix · search */
function stepAlong(own: Refinement, image: Float64Array): void {
  const length = own.energy / dot(own.search, image);
  if (!Number.isFinite(length)) {
    own.state = "failed";
    return;
  }
  addScaled(own.x, own.search, length);
  addScaled(own.residual, image, -length);
  if (Math.sqrt(dot(own.residual, own.residual)) <= own.goal) own.state = "done";
}

/** L⁻ᵀ L⁻¹ side for several sides, four at a time. */
function substituteEach(factor: Float32Array, n: number, sides: readonly Float64Array[]): Float64Array[] {
  const solutions: Float64Array[] = [];
  for (let first = 0; first < sides.length; first += 4) {
    const some = sides.slice(first, first + 4);
    if (some.length < 4) solutions.push(...some.map((side) => substitute(factor, n, side)));
    else solutions.push(...substituteFour(factor, n, some));
  }
  return solutions;
}

/** Two rows at a time: each of the four sides read takes part in two products. */
function substituteFour(factor: Float32Array, n: number, sides: readonly Float64Array[]): Float64Array[] {
  const copies = sides.map((side) => side.slice());
  const [a = new Float64Array(n), b = a, c = a, d = a] = copies;
  const even = n - (n % 2);
  for (let row = 0; row < n; row += 2) {
    const start = row * n;
    const below = row < even ? start + n : start;
    let [a0, b0, c0, d0, a1, b1, c1, d1] = [0, 0, 0, 0, 0, 0, 0, 0];
    for (let k = 0; k < row; k++) {
      const weight = factor[start + k] ?? 0;
      const other = factor[below + k] ?? 0;
      const ak = a[k] ?? 0;
      const bk = b[k] ?? 0;
      const ck = c[k] ?? 0;
      const dk = d[k] ?? 0;
      a0 += weight * ak;
      b0 += weight * bk;
      c0 += weight * ck;
      d0 += weight * dk;
      a1 += other * ak;
      b1 += other * bk;
      c1 += other * ck;
      d1 += other * dk;
    }
    const diagonal = factor[start + row] ?? 1;
    a[row] = a0 = ((a[row] ?? 0) - a0) / diagonal;
    b[row] = b0 = ((b[row] ?? 0) - b0) / diagonal;
    c[row] = c0 = ((c[row] ?? 0) - c0) / diagonal;
    d[row] = d0 = ((d[row] ?? 0) - d0) / diagonal;
    if (row >= even) continue;
    const [beside, corner] = [factor[below + row] ?? 0, factor[below + row + 1] ?? 1];
    a[row + 1] = ((a[row + 1] ?? 0) - a1 - beside * a0) / corner;
    b[row + 1] = ((b[row + 1] ?? 0) - b1 - beside * b0) / corner;
    c[row + 1] = ((c[row + 1] ?? 0) - c1 - beside * c0) / corner;
    d[row + 1] = ((d[row + 1] ?? 0) - d1 - beside * d0) / corner;
  }
  for (let row = n - 1; row >= 0; row -= 2) {
    const start = row * n;
    const above = row > 0 ? start - n : start; // the row before; weightless where there is none
    const diagonal = factor[start + row] ?? 1;
    const [a0, b0, c0, d0] = [
      divided(a, row, diagonal),
      divided(b, row, diagonal),
      divided(c, row, diagonal),
      divided(d, row, diagonal),
    ];
    if (row === 0) break;
    const [beside, corner] = [factor[start + row - 1] ?? 0, factor[above + row - 1] ?? 1];
    const a1 = divided(a, row - 1, corner, beside * a0);
    const b1 = divided(b, row - 1, corner, beside * b0);
    const c1 = divided(c, row - 1, corner, beside * c0);
    const d1 = divided(d, row - 1, corner, beside * d0);
    for (let k = 0; k < row - 1; k++) {
      const weight = factor[start + k] ?? 0;
      const other = factor[above + k] ?? 0;
      a[k] = (a[k] ?? 0) - weight * a0 - other * a1;
      b[k] = (b[k] ?? 0) - weight * b0 - other * b1;
      c[k] = (c[k] ?? 0) - weight * c0 - other * c1;
      d[k] = (d[k] ?? 0) - weight * d0 - other * d1;
    }
  }
  return copies;
}

/** x[row] = (x[row] − less) / diagonal, which is returned. */
function divided(x: Float64Array, row: number, diagonal: number, less = 0): number {
  return (x[row] = ((x[row] ?? 0) - less) / diagonal);
}

/** matrix · x in float64 for several x, four at a time. */
function multiplyEach(matrix: Float64Array, n: number, xs: readonly Float64Array[]): Float64Array[] {
  const products: Float64Array[] = [];
  for (let first = 0; first < xs.length; first += 4) {
    const some = xs.slice(first, first + 4);
    if (some.length < 4) products.push(...some.map((x) => multiply(matrix, n, x)));
    else products.push(...multiplyFour(matrix, n, some));
  }
  return products;
}

function multiplyFour(matrix: Float64Array, n: number, xs: readonly Float64Array[]): Float64Array[] {
  const [a = new Float64Array(n), b = a, c = a, d = a] = xs;
  const products = xs.map(() => new Float64Array(n));
  const [y = new Float64Array(n), z = y, p = y, q = y] = products;
  for (let row = 0; row < n; row += 2) {
    const start = row * n;
    const below = row + 1 < n ? start + n : start;
    let [a0, b0, c0, d0, a1, b1, c1, d1] = [0, 0, 0, 0, 0, 0, 0, 0];
    for (let k = 0; k < n; k++) {
      const weight = matrix[start + k] ?? 0;
      const other = matrix[below + k] ?? 0;
      const ak = a[k] ?? 0;
      const bk = b[k] ?? 0;
      const ck = c[k] ?? 0;
      const dk = d[k] ?? 0;
      a0 += weight * ak;
      b0 += weight * bk;
      c0 += weight * ck;
      d0 += weight * dk;
      a1 += other * ak;
      b1 += other * bk;
      c1 += other * ck;
      d1 += other * dk;
    }
    [y[row], z[row], p[row], q[row]] = [a0, b0, c0, d0];
    if (below > start) [y[row + 1], z[row + 1], p[row + 1], q[row + 1]] = [a1, b1, c1, d1];
  }
  return products;
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

const MAX_LANCZOS = 300;
const EIGEN_TOLERANCE = 1e-11;

/** A unit eigenvector and its eigenvalue. */
export interface Eigenpair {
  readonly value: number;
  readonly vector: Float64Array;
}

/**
 * The eigenvector of the largest eigenvalue of a symmetric matrix that is known by its products alone: the Lanczos method
 * with full reorthogonalisation. Its sign is arbitrary.
 *
 * @param apply x ↦ matrix · x, in float64
 * @param start where to begin: any vector that is not orthogonal to the one sought
 */
export function topEigenpair(apply: (x: Float64Array) => Float64Array, start: Float64Array): Eigenpair {
  const n = start.length;
  const basis: Float64Array[] = [];
  const diagonal: number[] = [];
  const beside: number[] = [];
  let next = unit(start);
  let best: Eigenpair = { value: 0, vector: next };
  for (let step = 0; step < Math.min(n, MAX_LANCZOS); step++) {
    basis.push(next);
    const image = apply(next);
    diagonal.push(dot(image, next));
    for (let pass = 0; pass < 2; pass++) for (const vector of basis) addScaled(image, vector, -dot(image, vector));
    const norm = Math.sqrt(dot(image, image));
    const { value, vector: weights } = topOfTridiagonal(diagonal, beside);
    const error = norm * Math.abs(weights.at(-1) ?? 0);
    if (error <= EIGEN_TOLERANCE * Math.abs(value) || norm === 0 || step === Math.min(n, MAX_LANCZOS) - 1) {
      const vector = new Float64Array(n);
      basis.forEach((direction, index) => {
        addScaled(vector, direction, weights[index] ?? 0);
      });
      best = { value, vector: unit(vector) };
      break;
    }
    beside.push(norm);
    next = image.map((entry) => entry / norm);
  }
  return best;
}

/** Largest eigenvalue by bisection, its vector by inverse iteration. */
function topOfTridiagonal(diagonal: readonly number[], beside: readonly number[]): Eigenpair {
  const n = diagonal.length;
  const reach = (row: number): number => Math.abs(beside[row - 1] ?? 0) + Math.abs(beside[row] ?? 0);
  let low = Math.max(...diagonal);
  let high = Math.max(...diagonal.map((value, row) => value + reach(row)));
  for (let step = 0; step < 80 && high > low; step++) {
    const middle = (low + high) / 2;
    if (middle === low || middle === high) break;
    // All pivots of T − middle are negative exactly where no eigenvalue exceeds it.
    let pivot = -1;
    let above = false;
    for (let row = 0; row < n && !above; row++) {
      const coupling = row === 0 ? 0 : (beside[row - 1] ?? 0) ** 2 / pivot;
      pivot = (diagonal[row] ?? 0) - middle - coupling;
      above = pivot >= 0;
    }
    if (above) low = middle;
    else high = middle;
  }
  const shift = high + 1e-14 * Math.max(Math.abs(high), Number.MIN_VALUE);
  let vector: Float64Array = new Float64Array(n).fill(1);
  for (let step = 0; step < 4; step++) vector = unit(solveTridiagonal(diagonal, beside, shift, vector));
  return { value: high, vector };
}

/** (T − shift)⁻¹ side by elimination; T − shift is negative definite, so no pivoting is needed. */
function solveTridiagonal(
  diagonal: readonly number[],
  beside: readonly number[],
  shift: number,
  side: Float64Array,
): Float64Array {
  const n = diagonal.length;
  const pivots = new Float64Array(n);
  const x = side.slice();
  for (let row = 0; row < n; row++) {
    const above = row === 0 ? 0 : (beside[row - 1] ?? 0) / (pivots[row - 1] ?? 1);
    const pivot = (diagonal[row] ?? 0) - shift - above * (row === 0 ? 0 : (beside[row - 1] ?? 0));
    pivots[row] = Math.abs(pivot) < Number.MIN_VALUE ? -Number.MIN_VALUE : pivot;
    if (row > 0) x[row] = (x[row] ?? 0) - above * (x[row - 1] ?? 0);
  }
  for (let row = n - 1; row >= 0; row--) {
    const rest = row + 1 < n ? (beside[row] ?? 0) * (x[row + 1] ?? 0) : 0;
    x[row] = ((x[row] ?? 0) - rest) / (pivots[row] ?? 1);
  }
  return x;
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
