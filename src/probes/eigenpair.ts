import { addScaled, dot, unit } from "./linear-algebra.js";

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
