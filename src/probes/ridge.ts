import { targetColumns, type Training } from "./data.js";
import { dot, factorise, product, takeRows, type Matrix } from "./linear-algebra.js";
import { centredRows, featureScales, mergeProbeMoments, probeMoments, type ProbeMoments } from "./moments.js";
import { probeOfColumns, type Probe } from "./probe.js";
import { groupedFolds, rowsOf, type Folds } from "./splits.js";

/**
 * Ridge regression: mean squared error in closed form. With centred features and targets
 *
 *     w = argmin (1/n) Σ (w·x − y)² + λ ‖w‖²,   bias = ȳ − w·x̄
 *
 * over features divided by their standard deviation (or by the root of the mean variance), so that λ has no unit and means
 * the same at every site. Classes are indicators {0, 1}; centring them is what keeps the mean that all classes share out
 * of the directions. The weights returned are those of the features as given.
 */
export interface RidgeOptions {
  /** Penalties λ to choose from; one alone is taken as it is. */
  readonly penalties?: readonly number[];
  /** Divide each feature by its standard deviation over the rows fitted on. */
  readonly standardize?: boolean;
}

export const RIDGE_PENALTIES: readonly number[] = [1e-2, 1e-1, 1, 10];

/** Weights of target columns for one penalty. */
export interface RidgeSolution {
  readonly weights: Float64Array; // [c, d]
  readonly bias: Float64Array; // [c]
}

/**
 * Ridge from running sums: what a capture larger than memory, or one in shards, is fitted with.
 *
 * @param refined as in {@link factorise}
 * @returns one solution per penalty.
 */
export async function ridgeFromMoments(
  moments: ProbeMoments,
  penalties: readonly number[],
  standardize: boolean,
  refined?: number,
): Promise<readonly RidgeSolution[]> {
  const { rows, features: d, targets } = moments;
  const scales = featureScales(moments, standardize);
  const sides = moments.cross.map((value, index) => value * (scales[index % d] ?? 0));
  const scaled = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    const own = scales[i] ?? 0;
    for (let j = 0; j < d; j++) scaled[i * d + j] = (moments.scatter[i * d + j] ?? 0) * own * (scales[j] ?? 0);
  }
  const diagonal = Float64Array.from({ length: d }, (_, index) => scaled[index * (d + 1)] ?? 0);
  const solutions: RidgeSolution[] = [];
  for (const penalty of penalties) {
    for (let index = 0; index < d; index++) scaled[index * (d + 1)] = (diagonal[index] ?? 0) + penalty * rows;
    const { solve } = await factorise(scaled, d, refined);
    const weights = solve(sides).map((value, index) => value * (scales[index % d] ?? 0));
    solutions.push({ weights, bias: biases(weights, moments, targets) });
  }
  return solutions;
}

/** The same from the rows themselves, through their n × n products: cheaper where there are fewer rows than features. */
export async function ridgeFromRows(
  x: Matrix,
  y: Float64Array,
  penalties: readonly number[],
  standardize: boolean,
): Promise<readonly RidgeSolution[]> {
  const { rows, columns: d } = x;
  const moments = await probeMoments(x, y, { scatter: "diagonal" });
  const { targets } = moments;
  const scales = featureScales(moments, standardize);
  const scaled = centredRows(x, moments.mean, scales);
  const kernel = await rowProducts(scaled);
  const sides = y.map((value, index) => value - (moments.targetMean[Math.floor(index / rows)] ?? 0));
  const diagonal = Float64Array.from({ length: rows }, (_, index) => kernel[index * (rows + 1)] ?? 0);
  const solutions: RidgeSolution[] = [];
  for (const penalty of penalties) {
    for (let index = 0; index < rows; index++) kernel[index * (rows + 1)] = (diagonal[index] ?? 0) + penalty * rows;
    const { solve } = await factorise(kernel, rows);
    const dual = solve(sides);
    const weights = new Float64Array(targets * d);
    for (let index = 0; index < targets * rows; index++) {
      const start = (index % rows) * d;
      const into = Math.floor(index / rows) * d;
      const weight = dual[index] ?? 0;
      for (let k = 0; k < d; k++) {
        weights[into + k] = (weights[into + k] ?? 0) + weight * (scaled.values[start + k] ?? 0) * (scales[k] ?? 0);
      }
    }
    solutions.push({ weights, bias: biases(weights, moments, targets) });
  }
  return solutions;
}

const EXACT_WORK = 4e6; // multiplications that the host does in float64 as fast as a backend is called

/** x xᵀ: [n, n] */
async function rowProducts(x: Matrix): Promise<Float64Array> {
  const { rows, columns, values } = x;
  if (rows * rows * columns > EXACT_WORK) return Float64Array.from((await product(x, x, { transposeB: true })).values);
  const products = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) {
    const own = values.subarray(i * columns, (i + 1) * columns);
    for (let j = 0; j <= i; j++) {
      const value = dot(own, values.subarray(j * columns, (j + 1) * columns));
      products[i * rows + j] = value;
      products[j * rows + i] = value;
    }
  }
  return products;
}

function biases(weights: Float64Array, { mean, targetMean, features }: ProbeMoments, targets: number): Float64Array {
  return Float64Array.from(
    { length: targets },
    (_, column) => (targetMean[column] ?? 0) - dot(weights.subarray(column * features, (column + 1) * features), mean),
  );
}

/**
 * Ridge on the rows of a training side. Where there are several penalties, the one with the least squared error on held-out
 * groups of that side is taken.
 */
export async function fitRidge(training: Training, options: RidgeOptions = {}): Promise<Probe> {
  const { x, target, groups, seed } = training;
  const { penalties = RIDGE_PENALTIES, standardize = true } = options;
  const y = targetColumns(target).values;
  const chosen =
    penalties.length === 1
      ? (penalties[0] ?? 1)
      : await choosePenalty(
          await ridgeFolds(x, y, groupedFolds(target, groups, INNER_FOLDS, seed), standardize),
          penalties,
        );
  const solve = x.rows < x.columns ? ridgeFromRows(x, y, [chosen], standardize) : undefined;
  const [solution] =
    (await solve) ?? (await ridgeFromMoments(await probeMoments(x, y, precisionFor(x)), [chosen], standardize));
  const { weights, bias } = solution ?? { weights: new Float64Array(x.columns), bias: new Float64Array(1) };
  return probeOfColumns(target, weights, bias, { penalty: chosen, standardize });
}

const INNER_FOLDS = 4;

async function choosePenalty(folds: RidgeFolds, penalties: readonly number[]): Promise<number> {
  const errors = new Float64Array(penalties.length);
  for (let fold = 0; fold < folds.count; fold++) {
    const solutions = await folds.solveWithout([fold], penalties);
    solutions.forEach((solution, index) => {
      const own = folds.errors(solution, fold);
      errors[index] = (errors[index] ?? 0) + own.reduce((sum, value) => sum + value, 0);
    });
  }
  return penalties[smallestIndex(errors)] ?? 1;
}

/** The index of the smallest value; of equal ones the last, which is the stronger penalty. */
export function smallestIndex(values: Float64Array): number {
  return values.reduce((best, value, index) => (value <= (values[best] ?? Infinity) ? index : best), 0);
}

function precisionFor({ rows, columns }: Matrix): { precision: "float32" | "float64" } {
  return { precision: rows * columns * columns > EXACT_WORK ? "float32" : "float64" };
}

/** Rows in folds, whose sums are computed once and shared by every fit that leaves some folds out. */
export interface RidgeFolds {
  readonly count: number;
  readonly solveWithout: (left: readonly number[], penalties: readonly number[]) => Promise<readonly RidgeSolution[]>;
  /** Summed squared error of a solution on one fold, per column: [c] */
  readonly errors: (solution: RidgeSolution, fold: number) => Float64Array;
}

/** @param y columns of target values, one after another: [c, rows] */
export async function ridgeFolds(x: Matrix, y: Float64Array, folds: Folds, standardize: boolean): Promise<RidgeFolds> {
  const parts = Array.from({ length: folds.count }, (_, fold) => {
    const rows = rowsOf(folds, [fold]);
    return { rows: takeRows(x, rows), targets: takeColumnRows(y, x.rows, rows) };
  });
  const sums: (ProbeMoments | undefined)[] = [];
  const wide = (left: number): boolean => x.rows - left < x.columns;
  const sumsOf = async (fold: number): Promise<ProbeMoments> => {
    const part = parts[fold] ?? { rows: takeRows(x, new Int32Array()), targets: new Float64Array() };
    return (sums[fold] ??= await probeMoments(part.rows, part.targets, precisionFor(x)));
  };
  return {
    count: folds.count,
    async solveWithout(left, penalties) {
      const kept = Array.from(parts.keys()).filter((fold) => !left.includes(fold));
      if (wide(left.reduce((sum, fold) => sum + (parts[fold]?.rows.rows ?? 0), 0))) {
        const rows = rowsOf(folds, kept);
        return ridgeFromRows(takeRows(x, rows), takeColumnRows(y, x.rows, rows), penalties, standardize);
      }
      const wanted: ProbeMoments[] = [];
      for (const fold of kept) wanted.push(await sumsOf(fold));
      // Penalties are compared by their errors: six digits of the weights are more than that takes.
      const refined = penalties.length > 2 ? 1e-6 : undefined;
      return ridgeFromMoments(mergeProbeMoments(...wanted), penalties, standardize, refined);
    },
    errors({ weights, bias }, fold) {
      const part = parts[fold];
      return Float64Array.from(bias, (offset, column) => {
        if (!part) return 0;
        const { rows, columns, values } = part.rows;
        const own = weights.subarray(column * columns, (column + 1) * columns);
        let error = 0;
        for (let row = 0; row < rows; row++) {
          const predicted = dot(own, values.subarray(row * columns, (row + 1) * columns)) + offset;
          error += (predicted - (part.targets[column * rows + row] ?? 0)) ** 2;
        }
        return error;
      });
    },
  };
}

/** The given rows of each column: [c, rows] → [c, taken] */
export function takeColumnRows(y: Float64Array, rows: number, taken: Int32Array): Float64Array {
  const columns = y.length / rows;
  const out = new Float64Array(columns * taken.length);
  for (let column = 0; column < columns; column++) {
    taken.forEach((row, index) => (out[column * taken.length + index] = y[column * rows + row] ?? 0));
  }
  return out;
}
