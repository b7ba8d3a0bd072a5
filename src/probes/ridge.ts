import { targetColumns, type Training } from "./data.js";
import { factorise } from "./equations.js";
import { dot, product, takeRows, type Matrix } from "./linear-algebra.js";
import { centredRows, featureScales, mergeProbeMoments, probeMoments, type ProbeMoments } from "./moments.js";
import { probeOfColumns, projectionsOf, type Probe } from "./probe.js";
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

/** How exactly weights are solved for that only choose between penalties, a factor of ten apart. */
export const REFINED_FOR_CHOICE = 1e-4;

/** The same for weights that only score held-out rows, which are float32 themselves. */
export const REFINED_FOR_SCORES = 1e-8;

/** Weights of target columns for one penalty. */
export interface RidgeSolution {
  readonly weights: Float64Array; // [c, d]
  readonly bias: Float64Array; // [c]
}

/** Ridge on one set of rows, prepared for several penalties. */
export interface RidgeSystem {
  /** @param refined as in {@link factorise} */
  readonly solve: (penalty: number, refined?: number) => Promise<RidgeSolution>;
}

/**
 * Ridge from running sums: what a capture larger than memory, or one in shards, is fitted with.
 *
 * @returns one solution per penalty.
 */
export async function ridgeFromMoments(
  moments: ProbeMoments,
  penalties: readonly number[],
  standardize: boolean,
): Promise<readonly RidgeSolution[]> {
  return solveEach(systemOfMoments(moments, standardize), penalties);
}

async function solveEach(system: RidgeSystem, penalties: readonly number[]): Promise<readonly RidgeSolution[]> {
  const solutions: RidgeSolution[] = [];
  for (const penalty of penalties) solutions.push(await system.solve(penalty));
  return solutions;
}

function systemOfMoments(moments: ProbeMoments, standardize: boolean): RidgeSystem {
  const { rows, features: d, targets } = moments;
  const scales = featureScales(moments, standardize);
  const sides = moments.cross.map((value, index) => value * (scales[index % d] ?? 0));
  const scaled = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    const own = scales[i] ?? 0;
    for (let j = 0; j < d; j++) scaled[i * d + j] = (moments.scatter[i * d + j] ?? 0) * own * (scales[j] ?? 0);
  }
  const diagonal = diagonalOf(scaled, d);
  return {
    async solve(penalty, refined) {
      for (let index = 0; index < d; index++) scaled[index * (d + 1)] = (diagonal[index] ?? 0) + penalty * rows;
      const { solve } = await factorise(scaled, d, refined);
      const weights = solve(sides).map((value, index) => value * (scales[index % d] ?? 0));
      return { weights, bias: biases(weights, moments, targets) };
    },
  };
}

/** The same from the rows themselves, through their n × n products: cheaper where there are fewer rows than features. */
export async function ridgeFromRows(
  x: Matrix,
  y: Float64Array,
  penalties: readonly number[],
  standardize: boolean,
): Promise<readonly RidgeSolution[]> {
  return solveEach(await systemOfRows(x, y, standardize), penalties);
}

async function systemOfRows(x: Matrix, y: Float64Array, standardize: boolean): Promise<RidgeSystem> {
  const { rows, columns: d } = x;
  const moments = await probeMoments(x, y, { scatter: "diagonal" });
  const { targets } = moments;
  const scales = featureScales(moments, standardize);
  const scaled = centredRows(x, moments.mean, scales);
  const kernel = await rowProducts(scaled);
  const sides = y.map((value, index) => value - (moments.targetMean[Math.floor(index / rows)] ?? 0));
  const diagonal = diagonalOf(kernel, rows);
  return {
    async solve(penalty, refined) {
      for (let index = 0; index < rows; index++) kernel[index * (rows + 1)] = (diagonal[index] ?? 0) + penalty * rows;
      const { solve } = await factorise(kernel, rows, refined);
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
      return { weights, bias: biases(weights, moments, targets) };
    },
  };
}

function diagonalOf(matrix: Float64Array, n: number): Float64Array {
  return Float64Array.from({ length: n }, (_, index) => matrix[index * (n + 1)] ?? 0);
}

const EXACT_WORK = 4e6; // multiplications that the host does in float64 as fast as a backend is called
const EXACT_PREDICTIONS = 1e5;

/** x xᵀ: [n, n] */
async function rowProducts(x: Matrix): Promise<Float64Array> {
  const { rows, columns, values } = x;
  if (rows * rows * columns > EXACT_WORK) return new Float64Array((await product(x, x, { transposeB: true })).values);
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

async function choosePenalty(folds: RidgeFolds, choices: readonly number[]): Promise<number> {
  const penalties = choices.toSorted((a, b) => b - a);
  const errors = new Float64Array(penalties.length);
  for (let fold = 0; fold < folds.count; fold++) {
    const { solve } = await folds.without([fold]);
    for (const [index, penalty] of penalties.entries()) {
      const own = await folds.errors(await solve(penalty, REFINED_FOR_CHOICE), fold);
      errors[index] = (errors[index] ?? 0) + own.reduce((sum, value) => sum + value, 0);
    }
  }
  return penalties[smallestIndex(errors)] ?? 1;
}

/** The index of the smallest value; of equal ones the first, which among falling penalties is the stronger. */
export function smallestIndex(values: Float64Array): number {
  return values.reduce((best, value, index) => (value < (values[best] ?? Infinity) ? index : best), 0);
}

function precisionFor({ rows, columns }: Matrix): { precision: "float32" | "float64" } {
  return { precision: rows * columns * columns > EXACT_WORK ? "float32" : "float64" };
}

/** Rows in folds, whose sums are computed once and shared by every fit that leaves some folds out. */
export interface RidgeFolds {
  readonly count: number;
  /** Ridge on the rows of all other folds. */
  readonly without: (left: readonly number[]) => Promise<RidgeSystem>;
  /** Summed squared error of a solution on one fold, per column: [c]. Six digits: it is compared. */
  readonly errors: (solution: RidgeSolution, fold: number) => Promise<Float64Array>;
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
    async without(left) {
      const kept = Array.from(parts.keys()).filter((fold) => !left.includes(fold));
      if (wide(left.reduce((sum, fold) => sum + (parts[fold]?.rows.rows ?? 0), 0))) {
        const rows = rowsOf(folds, kept);
        return systemOfRows(takeRows(x, rows), takeColumnRows(y, x.rows, rows), standardize);
      }
      const wanted: ProbeMoments[] = [];
      for (const fold of kept) wanted.push(await sumsOf(fold));
      return systemOfMoments(mergeProbeMoments(...wanted), standardize);
    },
    async errors({ weights, bias }, fold) {
      const part = parts[fold];
      if (!part) return new Float64Array(bias.length);
      const { rows } = part.rows;
      const predicted = await predictions(part.rows, weights);
      return bias.map((offset, column) => {
        const own = predicted.subarray(column * rows, (column + 1) * rows);
        const wanted = part.targets.subarray(column * rows, (column + 1) * rows);
        return wanted.reduce((sum, value, row) => sum + ((own[row] ?? 0) + offset - value) ** 2, 0);
      });
    },
  };
}

/** w · x for every column of weights, without the bias: [c, rows] */
async function predictions(x: Matrix, weights: Float64Array): Promise<Float32Array | Float64Array> {
  const columns = weights.length / x.columns;
  if (x.rows * weights.length > EXACT_PREDICTIONS) {
    const all = { rows: columns, columns: x.columns, values: new Float32Array(weights) };
    return (await product(all, x, { transposeB: true })).values;
  }
  const exact = new Float64Array(columns * x.rows);
  for (let column = 0; column < columns; column++) {
    exact.set(projectionsOf(x, weights.subarray(column * x.columns, (column + 1) * x.columns)), column * x.rows);
  }
  return exact;
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
