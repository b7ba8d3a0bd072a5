import { UsageError } from "../errors.js";
import { uniformStream } from "../runtime/random.js";
import { conceptsOf, takeGroups, takeTarget, targetColumns, type Training } from "./data.js";
import { topEigenpair } from "./eigenpair.js";
import { factorise } from "./equations.js";
import { dot, multiply, product, takeRows, type Matrix } from "./linear-algebra.js";
import { centredRows, featureScales, probeMoments } from "./moments.js";
import { calibrate, projectionsOf, type Probe } from "./probe.js";
import { randomDirection } from "./random.js";
import { groupedFolds, rowsOf } from "./splits.js";

/**
 * Recursive feature machine (Radhakrishnan et al., Science 2024; for MusicGen arXiv 2510.19127): kernel ridge regression
 * whose metric M is learnt from its own gradients, in turns.
 *
 *     K_ij = exp(−(‖x_i − x_j‖_M / b)^q),  ‖u‖_M² = uᵀ M u,  M₀ = I
 *     α    = (K + λ I)⁻¹ y
 *     g_i  = ∇f(x_i) = −Σ_j α_j K_ij (q / b^q) ‖x_i − x_j‖_M^(q−2) M (x_i − x_j)
 *     M    = (1/n) Σ g_i g_iᵀ, or of g_i − ḡ          (average gradient outer product)
 *
 * The direction is the top eigenvector of the best M, its sign that of the correlation of projection and label. Each class
 * is fitted against all others.
 *
 * Two choices differ from the paper's, so that one setting serves every site: M is scaled to the trace of I after each
 * turn, and b is a multiple of the median distance of rows. The paper's random search over settings is there for the
 * asking: see {@link RfmOptions.draws}.
 */
export interface RfmOptions {
  readonly turns?: number;
  readonly bandwidth?: number; // b, in median distances of the standardised rows
  readonly exponent?: number; // q
  readonly penalty?: number; // λ
  readonly centre?: boolean; // subtract ḡ, which is all there is of a concept that is linear
  readonly standardize?: boolean;
  /**
   * How many settings to draw at random, as the paper does (100 a layer); the one with the least squared error on held-out
   * groups is taken, for each concept by itself. 0 takes the settings as they are given. Drawn are b from 0.2 to 5 median
   * distances and λ from 1e-5 to 10, both evenly in their logarithms, q from 0.7 to 1.4, and whether to centre.
   */
  readonly draws?: number;
}

const MAX_ROWS = 6000; // K has n² entries
const WORSE = 1.1; // turns end where the held-out error exceeds the best by this factor, as in the paper's code

/**
 * One unit direction per concept, taken from the turn with the least squared error on held-out groups.
 *
 * @throws {UsageError} if an option is out of range or there are too many rows for a kernel.
 */
export async function fitRfm(training: Training, options: RfmOptions = {}): Promise<Probe> {
  const { x, target, groups, seed } = training;
  const { turns = 15, bandwidth = 1, exponent = 1, penalty = 1e-3, centre = false, standardize = true } = options;
  const { draws = 0 } = options;
  if (
    !(bandwidth > 0 && exponent > 0 && exponent <= 2 && penalty > 0 && turns >= 1 && draws >= 0) ||
    x.rows > MAX_ROWS
  ) {
    throw new UsageError({
      asked: `a recursive feature machine on ${x.rows} rows`,
      found: `bandwidth ${bandwidth}, exponent ${exponent}, penalty ${penalty}, ${turns} turns, ${draws} draws`,
      todo: `Bandwidth and penalty are positive, the exponent up to 2, turns from 1 on, draws from 0 on, rows up to ${MAX_ROWS}`,
    });
  }
  const folds = groupedFolds(target, groups, 4, seed);
  const [kept, held] = [rowsOf(folds, [0], { except: true }), rowsOf(folds, [0])];
  const inner = { x: takeRows(x, kept), target: takeTarget(target, kept), groups: takeGroups(groups, kept) };
  const moments = await probeMoments(inner.x, new Float64Array(kept.length), { scatter: "diagonal" });
  const scales = featureScales(moments, standardize);
  const rows = centredRows(inner.x, moments.mean, scales);
  const outside = centredRows(takeRows(x, held), moments.mean, scales);
  const { count, values } = targetColumns(inner.target);
  const heldValues = targetColumns(takeTarget(target, held)).values;

  const given = { turns, bandwidth, exponent, penalty, centre, draws };
  const concepts = conceptsOf(target).length;
  const directions = new Float64Array(concepts * x.columns);
  for (let column = 0; column < count; column++) {
    const y = values.slice(column * kept.length, (column + 1) * kept.length);
    const expected = heldValues.slice(column * held.length, (column + 1) * held.length);
    let learnt: Learnt | undefined;
    for (const settings of given.draws === 0 ? [given] : drawSettings(given, seed)) {
      const next = await learn(rows, y, outside, expected, settings);
      if (learnt === undefined || next.error < learnt.error) learnt = next;
    }
    const direction = learnt?.direction ?? new Float64Array(x.columns);
    const raw = direction.map((value, index) => value * (scales[index] ?? 0));
    const length = Math.sqrt(dot(raw, raw)) || 1;
    const concept = concepts === 2 ? 1 : column;
    directions.set(
      raw.map((value) => value / length),
      concept * x.columns,
    );
    if (concepts === 2) directions.set(raw.map((value) => -value / length));
  }
  return calibrate(directions, x, target, { ...given, standardize });
}

type Settings = Required<Omit<RfmOptions, "standardize">>;

/** A direction and the squared error on held-out groups of the machine that it comes from. */
interface Learnt {
  readonly direction: Float64Array;
  readonly error: number;
}

const BANDWIDTHS = [0.2, 5] as const;
const PENALTIES = [1e-5, 10] as const;
const EXPONENTS = [0.7, 1.4] as const;

function drawSettings(given: Settings, seed: number): readonly Settings[] {
  const uniforms = uniformStream(seed, 6);
  const evenly = ([low, high]: readonly [number, number]): number => low + (high - low) * uniforms();
  const byFactors = ([low, high]: readonly [number, number]): number => low * (high / low) ** uniforms();
  return Array.from({ length: given.draws }, () => ({
    ...given,
    bandwidth: byFactors(BANDWIDTHS),
    penalty: byFactors(PENALTIES),
    exponent: evenly(EXPONENTS),
    centre: uniforms() < 0.5,
  }));
}

async function learn(
  x: Matrix,
  labels: Float64Array,
  held: Matrix,
  heldLabels: Float64Array,
  settings: Settings,
): Promise<Learnt> {
  const mean = labels.reduce((sum, value) => sum + value, 0) / labels.length;
  const y = labels.map((value) => value - mean);
  const wanted = heldLabels.map((value) => value - mean);
  let metric: Float64Array | undefined;
  let best: { readonly error: number; readonly metric: Float64Array } | undefined;
  const bandwidth = settings.bandwidth * (await medianDistance(x));
  for (let turn = 0; turn < settings.turns; turn++) {
    const step = await rfmTurn(x, y, metric, { ...settings, bandwidth });
    const predicted = await step.predict(held);
    const error = predicted.reduce((sum, value, row) => sum + (value - (wanted[row] ?? 0)) ** 2, 0);
    // What this turn learnt is judged by the machine that fitted it: its metric is what the gradients came from.
    if (best === undefined || error < best.error) best = { error, metric: step.metric };
    else if (error > WORSE * best.error) break;
    metric = step.metric;
  }
  const top = topDirection(best?.metric ?? new Float64Array(x.columns ** 2), x.columns);
  const projections = projectionsOf(x, top);
  const direction = dot(projections, y) < 0 ? top.map((value) => -value) : top;
  return { direction, error: best?.error ?? Infinity };
}

/** The unit top eigenvector of a metric [d, d]; its sign is arbitrary. */
export function topDirection(metric: Float64Array, d: number): Float64Array {
  return topEigenpair((v) => multiply(metric, d, v), randomDirection(d, 0, 0)).vector;
}

/** What one turn of the machine gives. */
export interface RfmTurn {
  readonly metric: Float64Array; // the next M, its trace d: [d, d]
  readonly coefficients: Float64Array; // α: [n]
  readonly predict: (rows: Matrix) => Promise<Float64Array>;
}

/** One turn: fit with a metric (undefined stands for I), then learn the next. `bandwidth` is b itself here. */
export async function rfmTurn(
  x: Matrix,
  y: Float64Array,
  metric: Float64Array | undefined,
  { bandwidth, exponent, penalty, centre }: Pick<Settings, "bandwidth" | "exponent" | "penalty" | "centre">,
): Promise<RfmTurn> {
  const { rows: n, columns: d } = x;
  const mapped = await mapRows(x, metric);
  const distances = await squaredDistances(x, mapped, x, mapped);
  const kernel = Float64Array.from(distances, (value) => Math.exp(-((Math.sqrt(value) / bandwidth) ** exponent)));
  const regular = Float64Array.from(kernel);
  for (let row = 0; row < n; row++) {
    kernel[row * (n + 1)] = 1;
    regular[row * (n + 1)] = 1 + penalty;
  }
  const coefficients = (await factorise(regular, n)).solve(y);

  // g_i = −(x_i Σ_j w_ij − Σ_j w_ij x_j) M with w_ij = α_j K_ij (q / b^q) r_ij^(q−2), which is 0 where the rows coincide.
  const weights = new Float32Array(n * n);
  const sums = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const squared = distances[i * n + j] ?? 0;
      if (i === j || squared === 0) continue;
      const slope = (exponent / bandwidth ** exponent) * squared ** (exponent / 2 - 1);
      const weight = (coefficients[j] ?? 0) * (kernel[i * n + j] ?? 0) * slope;
      weights[i * n + j] = weight;
      sums[i] = (sums[i] ?? 0) + weight;
    }
  }
  const gathered = await product({ rows: n, columns: n, values: weights }, mapped);
  const gradients = new Float32Array(n * d);
  for (let index = 0; index < gradients.length; index++) {
    const own = (sums[Math.floor(index / d)] ?? 0) * (mapped.values[index] ?? 0);
    gradients[index] = (gathered.values[index] ?? 0) - own;
  }
  return {
    metric: await outerProduct({ rows: n, columns: d, values: gradients }, centre),
    coefficients,
    async predict(rows) {
      const across = await squaredDistances(rows, await mapRows(rows, metric), x, mapped);
      return Float64Array.from({ length: rows.rows }, (_, row) => {
        let sum = 0;
        for (let j = 0; j < n; j++) {
          const distance = Math.sqrt(across[row * n + j] ?? 0);
          sum += (coefficients[j] ?? 0) * Math.exp(-((distance / bandwidth) ** exponent));
        }
        return sum;
      });
    },
  };
}

/** x M: [n, d] */
async function mapRows(x: Matrix, metric: Float64Array | undefined): Promise<Matrix> {
  if (metric === undefined) return x;
  return product(x, { rows: x.columns, columns: x.columns, values: Float32Array.from(metric) });
}

/** ‖a_i − b_j‖_M² by aᵀMa + bᵀMb − 2 aᵀMb, never below 0: [a.rows, b.rows] */
async function squaredDistances(a: Matrix, mappedA: Matrix, b: Matrix, mappedB: Matrix): Promise<Float64Array> {
  const inner = await product(mappedA, b, { transposeB: true });
  const [lengthsA, lengthsB] = [selfProducts(a, mappedA), selfProducts(b, mappedB)];
  return Float64Array.from(inner.values, (value, index) => {
    const [i, j] = [Math.floor(index / b.rows), index % b.rows];
    if (a === b && i === j) return 0;
    return Math.max(0, (lengthsA[i] ?? 0) + (lengthsB[j] ?? 0) - 2 * value);
  });
}

function selfProducts({ rows, columns, values }: Matrix, mapped: Matrix): Float64Array {
  return Float64Array.from({ length: rows }, (_, row) => {
    const [start, end] = [row * columns, (row + 1) * columns];
    return dot(values.subarray(start, end), mapped.values.subarray(start, end));
  });
}

/** (1/n) Σ g gᵀ, centred where asked, scaled to the trace d. */
async function outerProduct(gradients: Matrix, centre: boolean): Promise<Float64Array> {
  const { rows, columns: d } = gradients;
  const mean = new Float64Array(d);
  if (centre) gradients.values.forEach((value, index) => (mean[index % d] = (mean[index % d] ?? 0) + value / rows));
  const centred = centredRows(gradients, mean);
  const { values } = await product(centred, centred, { transposeA: true });
  let trace = 0;
  for (let index = 0; index < d; index++) trace += values[index * (d + 1)] ?? 0;
  return Float64Array.from(values, (value) => (trace > 0 ? (value * d) / trace : 0));
}

async function medianDistance(x: Matrix): Promise<number> {
  const distances = await squaredDistances(x, x, x, x);
  const above: number[] = [];
  for (let i = 0; i < x.rows; i++) for (let j = 0; j < i; j++) above.push(distances[i * x.rows + j] ?? 0);
  return Math.sqrt(above.toSorted((a, b) => a - b)[Math.floor(above.length / 2)] ?? 1) || 1;
}
