import { UsageError } from "../errors.js";
import { product, type Matrix } from "./linear-algebra.js";

/**
 * Running sums from which ridge, means and covariance are fitted: count, means and centred second moments in float64.
 * Sums of any cut of the rows merge to those of the whole (Chan, Golub and LeVeque 1979), so a capture larger than memory
 * is fitted in one pass, and shards are fitted apart.
 */
export interface ProbeMoments {
  readonly rows: number;
  readonly features: number; // d
  readonly targets: number; // c
  readonly mean: Float64Array; // [d]
  readonly targetMean: Float64Array; // [c]
  /** Σ (x − mean)(x − mean)ᵀ: [d, d], or its diagonal alone [d] where only means are wanted. */
  readonly scatter: Float64Array;
  readonly cross: Float64Array; // Σ (y − targetMean)(x − mean)ᵀ: [c, d]
}

/** How moments are computed. */
export interface MomentOptions {
  /** Keep the whole scatter (ridge needs it), or its diagonal alone. */
  readonly scatter?: "full" | "diagonal";
  /** Products of rows in float64 on the host, or in float32 on the tensor backend, which is faster on large data. */
  readonly precision?: "float64" | "float32";
}

/**
 * The moments of a batch of rows.
 *
 * @param y columns of target values, one after another: [c, rows]
 * @throws {UsageError} if there is no row.
 */
export async function probeMoments(
  x: Matrix,
  y: Float64Array,
  { scatter = "full", precision = "float64" }: MomentOptions = {},
): Promise<ProbeMoments> {
  const { rows, columns: features } = x;
  if (rows === 0) throw new UsageError({ asked: "sum activations", found: "no row", todo: "Give one row at least" });
  const targets = y.length / rows;
  const mean = columnMeans(x);
  const targetMean = new Float64Array(targets);
  const centredTargets = new Float64Array(y.length);
  for (let target = 0; target < targets; target++) {
    const own = y.subarray(target * rows, (target + 1) * rows);
    const average = own.reduce((sum, value) => sum + value, 0) / rows;
    targetMean[target] = average;
    own.forEach((value, row) => (centredTargets[target * rows + row] = value - average));
  }
  const cross = crossMoments(x, mean, centredTargets, targets);
  const moments = { rows, features, targets, mean, targetMean, cross };
  if (scatter === "diagonal") return { ...moments, scatter: squares(x, mean) };
  if (precision === "float64") return { ...moments, scatter: exactScatter(x, mean) };
  const centred = centredRows(x, mean);
  const { values } = await product(centred, centred, { transposeA: true });
  return { ...moments, scatter: new Float64Array(values) };
}

/**
 * The moments of several sets of rows together: Σ_k S_k + Σ_k n_k (m_k − m)(m_k − m)ᵀ.
 *
 * @throws {UsageError} if there is none, or they are of different features, targets or kinds.
 */
export function mergeProbeMoments(...parts: readonly ProbeMoments[]): ProbeMoments {
  const [first] = parts;
  if (!first) throw new UsageError({ asked: "merge sums", found: "none", todo: "Give those of one shard at least" });
  const { features: d, targets: c } = first;
  const odd = parts.find((part) => {
    return part.features !== d || part.targets !== c || part.scatter.length !== first.scatter.length;
  });
  if (odd) {
    throw new UsageError({
      asked: "merge the sums of two shards",
      found: `${d} features and ${c} targets in one, ${odd.features} and ${odd.targets} in the other`,
      todo: "Merge sums of one site and one label",
    });
  }
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const mean = weightedMean(
    parts.map((part) => part.mean),
    parts,
    rows,
  );
  const targetMean = weightedMean(
    parts.map((part) => part.targetMean),
    parts,
    rows,
  );
  const steps = parts.map((part) => part.mean.map((value, index) => value - (mean[index] ?? 0)));
  const targetSteps = parts.map((part) => part.targetMean.map((value, index) => value - (targetMean[index] ?? 0)));
  const scatters = parts.map((part) => part.scatter);
  const weights = parts.map((part) => part.rows);
  const full = first.scatter.length === d * d;
  return {
    rows,
    features: d,
    targets: c,
    mean,
    targetMean,
    scatter: full ? sumWithOuters(scatters, steps, steps, weights) : sumWithSquares(scatters, steps, weights),
    cross: sumWithOuters(
      parts.map((part) => part.cross),
      targetSteps,
      steps,
      weights,
    ),
  };
}

function weightedMean(means: readonly Float64Array[], parts: readonly ProbeMoments[], rows: number): Float64Array {
  const mean = new Float64Array(means[0]?.length ?? 0);
  means.forEach((own, part) => {
    const share = (parts[part]?.rows ?? 0) / rows;
    for (let index = 0; index < mean.length; index++) mean[index] = (mean[index] ?? 0) + share * (own[index] ?? 0);
  });
  return mean;
}

/** Σ_k parts_k + weights_k · lefts_k rights_kᵀ, row by row: each row of the sum stays in the cache while it is made. */
function sumWithOuters(
  parts: readonly Float64Array[],
  lefts: readonly Float64Array[],
  rights: readonly Float64Array[],
  weights: readonly number[],
): Float64Array {
  const height = lefts[0]?.length ?? 0;
  const width = rights[0]?.length ?? 0;
  const sum = new Float64Array(height * width);
  for (let i = 0; i < height; i++) {
    parts.forEach((part, k) => {
      const right = rights[k] ?? new Float64Array(width);
      addRow(sum, part, i * width, (weights[k] ?? 0) * (lefts[k]?.[i] ?? 0), right);
    });
  }
  return sum;
}

function addRow(sum: Float64Array, part: Float64Array, start: number, weight: number, right: Float64Array): void {
  for (let j = 0; j < right.length; j++) {
    sum[start + j] = (sum[start + j] ?? 0) + (part[start + j] ?? 0) + weight * (right[j] ?? 0);
  }
}

/** Σ_k parts_k + weights_k · steps_k² */
function sumWithSquares(
  parts: readonly Float64Array[],
  steps: readonly Float64Array[],
  weights: readonly number[],
): Float64Array {
  const own = (k: number, index: number): number =>
    (parts[k]?.[index] ?? 0) + (weights[k] ?? 0) * (steps[k]?.[index] ?? 0) ** 2;
  return new Float64Array(parts[0]?.length ?? 0).map((_, index) =>
    parts.reduce((sum, __, k) => sum + own(k, index), 0),
  );
}

/** Variance of each feature: [d]. */
export function variances({ rows, features, scatter }: ProbeMoments): Float64Array {
  const stride = scatter.length === features ? 1 : features + 1;
  return Float64Array.from({ length: features }, (_, index) => (scatter[index * stride] ?? 0) / rows);
}

const CONSTANT = 1e-6; // relative to the mean: what float32 rounding alone makes of a constant

/**
 * What each feature is multiplied by before fitting: one over its standard deviation, or with `standardize` false one over
 * the root of the mean variance, so that a penalty means the same at every site. A constant feature gets 0: it tells
 * nothing, and its weight is exactly 0.
 *
 * @throws {UsageError} if all features are constant.
 */
export function featureScales(moments: ProbeMoments, standardize: boolean): Float64Array {
  const variance = variances(moments);
  const constant = variance.map((value, index) =>
    Math.sqrt(value) <= CONSTANT * Math.abs(moments.mean[index] ?? 0) ? 1 : 0,
  );
  const varying = variance.filter((_, index) => constant[index] === 0);
  if (varying.length === 0) {
    throw new UsageError({
      asked: `fit a probe on ${moments.features} features`,
      found: `the same activations in all of ${moments.rows} rows`,
      todo: "Choose another site, or capture more than one clip",
    });
  }
  const overall = varying.reduce((sum, value) => sum + value, 0) / varying.length;
  return variance.map((value, index) => (constant[index] === 1 ? 0 : 1 / Math.sqrt(standardize ? value : overall)));
}

/** x − mean, times scale where given: [rows, d] */
export function centredRows({ rows, columns, values }: Matrix, mean: Float64Array, scale?: Float64Array): Matrix {
  const centred = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let index = 0; index < columns; index++) {
      centred[start + index] = ((values[start + index] ?? 0) - (mean[index] ?? 0)) * (scale ? (scale[index] ?? 0) : 1);
    }
  }
  return { rows, columns, values: centred };
}

function columnMeans({ rows, columns, values }: Matrix): Float64Array {
  const sums = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let index = 0; index < columns; index++) sums[index] = (sums[index] ?? 0) + (values[start + index] ?? 0);
  }
  return sums.map((sum) => sum / rows);
}

function crossMoments({ rows, columns, values }: Matrix, mean: Float64Array, y: Float64Array, c: number): Float64Array {
  const cross = new Float64Array(c * columns);
  for (let target = 0; target < c; target++) {
    const own = cross.subarray(target * columns, (target + 1) * columns);
    for (let row = 0; row < rows; row++) {
      const weight = y[target * rows + row] ?? 0;
      const start = row * columns;
      if (weight === 0) continue;
      for (let index = 0; index < columns; index++) {
        own[index] = (own[index] ?? 0) + weight * ((values[start + index] ?? 0) - (mean[index] ?? 0));
      }
    }
  }
  return cross;
}

function squares({ rows, columns, values }: Matrix, mean: Float64Array): Float64Array {
  const sums = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let index = 0; index < columns; index++) {
      sums[index] = (sums[index] ?? 0) + ((values[start + index] ?? 0) - (mean[index] ?? 0)) ** 2;
    }
  }
  return sums;
}

const BLOCK = 4; // rows added at once: each sum is read and written once for four products

/** Σ (x − mean)(x − mean)ᵀ in float64. */
function exactScatter({ rows, columns: d, values }: Matrix, mean: Float64Array): Float64Array {
  const sums = new Float64Array(d * d);
  const block = Array.from({ length: BLOCK }, () => new Float64Array(d));
  const [a = new Float64Array(d), b = a, c = a, e = a] = block;
  for (let first = 0; first < rows; first += BLOCK) {
    block.forEach((centred, offset) => {
      const row = first + offset;
      for (let index = 0; index < d; index++) {
        centred[index] = row < rows ? (values[row * d + index] ?? 0) - (mean[index] ?? 0) : 0;
      }
    });
    for (let i = 0; i < d; i++) {
      const [ai, bi, ci, ei] = [a[i] ?? 0, b[i] ?? 0, c[i] ?? 0, e[i] ?? 0];
      const start = i * d;
      for (let j = 0; j <= i; j++) {
        const added = ai * (a[j] ?? 0) + bi * (b[j] ?? 0) + ci * (c[j] ?? 0) + ei * (e[j] ?? 0);
        sums[start + j] = (sums[start + j] ?? 0) + added;
      }
    }
  }
  for (let i = 0; i < d; i++) for (let j = 0; j < i; j++) sums[j * d + i] = sums[i * d + j] ?? 0;
  return sums;
}
