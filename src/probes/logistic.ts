import { UsageError } from "../errors.js";
import { takeGroups, type ClassTarget, type Training } from "./data.js";
import { addScaled, dot, product, takeRows, type Matrix } from "./linear-algebra.js";
import { centredRows, featureScales, probeMoments } from "./moments.js";
import { probeOfColumns, scoresOf, type Probe } from "./probe.js";
import { smallestIndex } from "./ridge.js";
import { groupedFolds, rowsOf } from "./splits.js";

/**
 * Logistic regression, for several classes softmax regression: cross-entropy with a ridge penalty,
 *
 *     argmin (1/n) Σ −log p(class of x | x) + (λ/2) ‖W‖²,   bias unpenalised
 *
 * over standardised features, by L-BFGS (Liu and Nocedal 1989). scikit-learn's C is 1/(nλ). Two classes have one weight
 * vector, as there. The weights returned are those of the features as given.
 */
export interface LogisticOptions {
  readonly penalties?: readonly number[];
  readonly standardize?: boolean;
}

export const LOGISTIC_PENALTIES: readonly number[] = [1e-3, 1e-2, 1e-1, 1];
const INNER_FOLDS = 3;

/**
 * Fits the classes of a training side. Where there are several penalties, the one with the least cross-entropy on held-out
 * groups of that side is taken.
 *
 * @throws {UsageError} if the label is a number.
 */
export async function fitLogistic(training: Training, options: LogisticOptions = {}): Promise<Probe> {
  const { x, target, groups, seed } = training;
  const { penalties = LOGISTIC_PENALTIES, standardize = true } = options;
  if (target.kind === "value") {
    throw new UsageError({
      asked: `logistic regression for "${target.label}"`,
      found: "numbers",
      todo: "Probe for classes, or use ridge, which takes numbers",
    });
  }
  const losses = new Float64Array(penalties.length);
  if (penalties.length > 1) {
    const folds = groupedFolds(target, groups, INNER_FOLDS, seed);
    for (let fold = 0; fold < folds.count; fold++) {
      const kept = rowsOf(folds, [fold], { except: true });
      const held = rowsOf(folds, [fold]);
      const side = { x: takeRows(x, kept), target: takeClasses(target, kept), groups: takeGroups(groups, kept) };
      const probes = await path(side.x, side.target, penalties, standardize);
      probes.forEach((probe, index) => {
        losses[index] = (losses[index] ?? 0) + crossEntropy(probe, takeRows(x, held), takeClasses(target, held));
      });
    }
  }
  const chosen = penalties[smallestIndex(losses)] ?? 1;
  const [probe] = await path(x, target, [chosen], standardize);
  if (probe) return probe;
  throw new UsageError({ asked: "fit logistic regression", found: "no penalty", todo: "Give one penalty at least" });
}

function takeClasses(target: ClassTarget, rows: Int32Array): ClassTarget {
  return { ...target, classes: rows.map((row) => target.classes[row] ?? 0) };
}

/** Fits for each penalty, strongest first, each from the one before; in the order asked. */
async function path(
  x: Matrix,
  target: ClassTarget,
  penalties: readonly number[],
  standardize: boolean,
): Promise<readonly Probe[]> {
  const moments = await probeMoments(x, new Float64Array(x.rows), { scatter: "diagonal" });
  const scales = featureScales(moments, standardize);
  const scaled = centredRows(x, moments.mean, scales);
  const outputs = target.names.length === 2 ? 1 : target.names.length;
  const fitted = new Map<number, Probe>();
  let start = new Float64Array(outputs * (x.columns + 1));
  for (const penalty of penalties.toSorted((a, b) => b - a)) {
    start = await minimize((point) => loss(scaled, target, outputs, penalty, point), start);
    const weights = start.slice(0, outputs * x.columns).map((value, index) => value * (scales[index % x.columns] ?? 0));
    const bias = start.slice(outputs * x.columns).map((value, output) => {
      return value - dot(weights.subarray(output * x.columns, (output + 1) * x.columns), moments.mean);
    });
    fitted.set(penalty, probeOfColumns(target, weights, bias, { penalty, standardize }, 0));
  }
  return penalties.flatMap((penalty) => fitted.get(penalty) ?? []);
}

interface Evaluated {
  readonly loss: number;
  readonly gradient: Float64Array;
}

/** @param point weights [outputs, d], then biases [outputs] */
async function loss(
  x: Matrix,
  target: ClassTarget,
  outputs: number,
  penalty: number,
  point: Float64Array,
): Promise<Evaluated> {
  const { rows, columns } = x;
  const size = outputs * columns;
  const logits = (await multiplyRows(x, point.subarray(0, size), outputs)).map(
    (value, index) => value + (point[size + (index % outputs)] ?? 0),
  );
  const { total, residuals } = residualsOf(logits, target, outputs);
  const slopes = await weighRows(x, residuals, outputs);
  const gradient = new Float64Array(point.length);
  let squares = 0;
  for (let index = 0; index < size; index++) {
    const weight = point[index] ?? 0;
    squares += weight * weight;
    gradient[index] = (slopes[index] ?? 0) / rows + penalty * weight;
  }
  residuals.forEach((value, index) => {
    const into = size + (index % outputs);
    gradient[into] = (gradient[into] ?? 0) + value / rows;
  });
  return { loss: total / rows + (penalty / 2) * squares, gradient };
}

/** Cross-entropy and its gradient by the logits [rows, outputs]. */
function residualsOf(
  logits: Float64Array,
  { classes }: ClassTarget,
  outputs: number,
): { readonly total: number; readonly residuals: Float64Array } {
  const residuals = new Float64Array(logits.length);
  let total = 0;
  classes.forEach((own, row) => {
    if (outputs === 1) {
      const logit = logits[row] ?? 0;
      const signed = own === 1 ? logit : -logit;
      total += signed > 0 ? Math.log1p(Math.exp(-signed)) : Math.log1p(Math.exp(signed)) - signed;
      residuals[row] = 1 / (1 + Math.exp(-logit)) - own;
      return;
    }
    const mine = logits.subarray(row * outputs, (row + 1) * outputs);
    const top = mine.reduce((a, b) => Math.max(a, b), -Infinity);
    const sum = mine.reduce((a, b) => a + Math.exp(b - top), 0);
    total += Math.log(sum) + top - (mine[own] ?? 0);
    mine.forEach((value, output) => {
      residuals[row * outputs + output] = Math.exp(value - top) / sum - (output === own ? 1 : 0);
    });
  });
  return { total, residuals };
}

const HOST_WORK = 3e5; // multiplications that cost the host less than a call to a backend, and are exact

/** x · weightsᵀ, the weights being [outputs, d]: [rows, outputs] */
async function multiplyRows(x: Matrix, weights: Float64Array, outputs: number): Promise<Float64Array> {
  if (x.values.length * outputs > HOST_WORK) {
    const right = { rows: outputs, columns: x.columns, values: Float32Array.from(weights) };
    return Float64Array.from((await product(x, right, { transposeB: true })).values);
  }
  const result = new Float64Array(x.rows * outputs);
  for (let index = 0; index < result.length; index++) {
    const [row, output] = [Math.floor(index / outputs), index % outputs];
    result[index] = dot(
      weights.subarray(output * x.columns, (output + 1) * x.columns),
      x.values.subarray(row * x.columns, (row + 1) * x.columns),
    );
  }
  return result;
}

/** residualsᵀ · x: [outputs, d] */
async function weighRows(x: Matrix, residuals: Float64Array, outputs: number): Promise<ArrayLike<number>> {
  if (x.values.length * outputs > HOST_WORK) {
    const left = { rows: x.rows, columns: outputs, values: Float32Array.from(residuals) };
    return (await product(left, x, { transposeA: true })).values;
  }
  const sums = new Float64Array(outputs * x.columns);
  residuals.forEach((weight, index) => {
    const row = Math.floor(index / outputs);
    const output = index % outputs;
    const own = sums.subarray(output * x.columns, (output + 1) * x.columns);
    addScaled(own, x.values.subarray(row * x.columns, (row + 1) * x.columns), weight);
  });
  return sums;
}

function crossEntropy(probe: Probe, x: Matrix, target: ClassTarget): number {
  const scores = scoresOf(probe, x);
  if (target.names.length > 2) return residualsOf(scores, target, target.names.length).total;
  return residualsOf(
    scores.filter((_, index) => index % 2 === 1),
    target,
    1,
  ).total;
}

const MEMORY = 10; // steps that the curvature is remembered of
const MAX_STEPS = 300;
const FLAT = 1e-6; // largest entry of the gradient, of a loss per row
const MAX_HALVINGS = 20;

/** L-BFGS with backtracking. Returns the best point where float32 products allow no further descent. */
async function minimize(
  evaluate: (point: Float64Array) => Promise<Evaluated>,
  start: Float64Array,
): Promise<Float64Array<ArrayBuffer>> {
  let point = Float64Array.from(start);
  let now = await evaluate(point);
  const history: { readonly step: Float64Array; readonly change: Float64Array; readonly scale: number }[] = [];
  for (let count = 0; count < MAX_STEPS && largest(now.gradient) > FLAT; count++) {
    const direction = descent(now.gradient, history);
    const slope = dot(direction, now.gradient);
    let length = history.length === 0 ? Math.min(1, 1 / Math.sqrt(dot(now.gradient, now.gradient))) : 1;
    let next: { readonly point: Float64Array<ArrayBuffer>; readonly value: Evaluated } | undefined;
    for (let halving = 0; halving < MAX_HALVINGS && next === undefined; halving++, length /= 2) {
      const trial = point.map((value, index) => value + length * (direction[index] ?? 0));
      const value = await evaluate(trial);
      if (value.loss <= now.loss + 1e-4 * length * slope) next = { point: trial, value };
    }
    if (next === undefined) break;
    const { point: reached, value: there } = next;
    const step = reached.map((value, index) => value - (point[index] ?? 0));
    const change = there.gradient.map((value, index) => value - (now.gradient[index] ?? 0));
    const curvature = dot(step, change);
    if (curvature > 1e-14 * dot(change, change)) history.push({ step, change, scale: 1 / curvature });
    if (history.length > MEMORY) history.shift();
    point = reached;
    now = there;
  }
  return point;
}

/** −H⁻¹ · gradient by the two-loop recursion. */
function descent(
  gradient: Float64Array,
  history: readonly { readonly step: Float64Array; readonly change: Float64Array; readonly scale: number }[],
): Float64Array {
  const direction = gradient.map((value) => -value);
  const weights = history.map(() => 0);
  for (let index = history.length - 1; index >= 0; index--) {
    const past = history[index];
    if (!past) continue;
    const weight = past.scale * dot(past.step, direction);
    weights[index] = weight;
    addScaled(direction, past.change, -weight);
  }
  const last = history.at(-1);
  if (last) {
    const factor = 1 / (last.scale * dot(last.change, last.change));
    for (let index = 0; index < direction.length; index++) direction[index] = (direction[index] ?? 0) * factor;
  }
  history.forEach((past, index) => {
    addScaled(direction, past.step, (weights[index] ?? 0) - past.scale * dot(past.change, direction));
  });
  return direction;
}

function largest(values: Float64Array): number {
  return values.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
}
