import { uniformStream } from "../runtime/random.js";
import type { ClassTarget, Groups, Target, ValueTarget } from "./data.js";

/** How well held-out scores tell a label, with confidence intervals that take groups, not rows, for independent. */

/** A measure and its bootstrap confidence interval. */
export interface Interval {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** Measures of a probe for classes. Accuracy is chance-adjusted only where it is balanced. */
export interface ClassScores {
  readonly kind: "classes";
  readonly accuracy: Interval;
  readonly balancedAccuracy: Interval; // mean over classes of the share of its rows that was recognised
  readonly auc: Interval; // area under the ROC curve; for several classes the mean of each against all others
}

/** Measures of a probe for a number. */
export interface ValueScores {
  readonly kind: "value";
  readonly r2: Interval; // 1 − squared error / variance; 0 is what the mean label reaches
}

export type Scores = ClassScores | ValueScores;

/** How intervals are made. */
export interface BootstrapOptions {
  readonly resamples?: number;
  readonly confidence?: number;
  readonly seed?: number;
}

const RESAMPLES = 1000;
const CURVE_RESAMPLES = 400; // for the area under the curve, which costs a pass over all rows each time
const CONFIDENCE = 0.95;

/**
 * Measures held-out scores. Intervals are percentiles over resamples of groups with replacement: windows of one track are
 * drawn together.
 *
 * @param scores [rows, C]
 * @param draws the resamples, where several measurements over the same groups share them
 */
export function measure(
  target: Target,
  scores: Float64Array,
  groups: Groups,
  options: BootstrapOptions = {},
  draws: GroupDraws = drawGroups(groups, options),
): Scores {
  return target.kind === "classes"
    ? measureClasses(target, scores, groups, options, draws)
    : measureValues(target, scores, groups, options, draws);
}

/** What a probe reaches that knows nothing: 1/C of balanced accuracy, 0 of R². */
export function chanceLevel(target: Target): number {
  return target.kind === "classes" ? 1 / target.names.length : 0;
}

/** The measure that a unit is judged by: balanced accuracy, or R². */
export function headline(scores: Scores): Interval {
  return scores.kind === "classes" ? scores.balancedAccuracy : scores.r2;
}

/** The name of the measure that {@link headline} takes. */
export function headlineName(target: Target): string {
  return target.kind === "classes" ? "balanced accuracy" : "R²";
}

/** Whether the whole interval lies above chance. */
export function isAboveChance(scores: Scores, target: Target): boolean {
  return headline(scores).low > chanceLevel(target);
}

function measureClasses(
  target: ClassTarget,
  scores: Float64Array,
  groups: Groups,
  options: BootstrapOptions,
  { whole, resamples }: GroupDraws,
): ClassScores {
  const shares = recognised(target, scores, groups);
  const curves = areas(target.classes, scores, target.names.length, groups);
  const drawn = resamples.map(shares);
  const interval = (value: number, draws: readonly number[]): Interval => percentiles(value, draws, options);
  const { accuracy, balanced } = shares(whole);
  return {
    kind: "classes",
    accuracy: interval(
      accuracy,
      drawn.map((draw) => draw.accuracy),
    ),
    balancedAccuracy: interval(
      balanced,
      drawn.map((draw) => draw.balanced),
    ),
    auc: interval(curves([whole])[0] ?? 0.5, curves(resamples.slice(0, CURVE_RESAMPLES))),
  };
}

/** A function from group weights to the share of rows that was recognised, of all rows and as the mean over classes. */
function recognised(
  { names, classes }: ClassTarget,
  scores: Float64Array,
  groups: Groups,
): (weights: Float64Array) => { readonly accuracy: number; readonly balanced: number } {
  const count = names.length;
  // Rows and hits of each class in each group are all that is needed; most groups hold one class.
  const present = [...groups.names.keys()];
  const rows = new Float64Array(groups.names.length * count);
  const hits = new Float64Array(rows.length);
  classes.forEach((own, row) => {
    const index = (groups.ofRow[row] ?? 0) * count + own;
    rows[index] = (rows[index] ?? 0) + 1;
    if (bestOf(scores, row, count) === own) hits[index] = (hits[index] ?? 0) + 1;
  });
  const rowsOf = names.map((_, own) => countsOf(rows, present, count, own));
  const hitsOf = names.map((_, own) => countsOf(hits, present, count, own));
  return (weights) => {
    const all = rowsOf.map((counts) => weighted(counts, weights));
    const right = hitsOf.map((counts) => weighted(counts, weights));
    const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
    const recalls = right.flatMap((value, own) => ((all[own] ?? 0) > 0 ? [value / (all[own] ?? 1)] : []));
    return { accuracy: sum(right) / sum(all), balanced: recalls.reduce((a, b) => a + b, 0) / recalls.length };
  };
}

/** The groups in which a class occurs, and how often. */
interface Counts {
  readonly group: Int32Array;
  readonly count: Float64Array;
}

function countsOf(table: Float64Array, groups: readonly number[], classes: number, own: number): Counts {
  const group = Int32Array.from(groups.filter((index) => (table[index * classes + own] ?? 0) > 0));
  return { group, count: Float64Array.from(group, (index) => table[index * classes + own] ?? 0) };
}

function weighted({ group, count }: Counts, weights: Float64Array): number {
  let sum = 0;
  for (let index = 0; index < group.length; index++) sum += (weights[group[index] ?? 0] ?? 0) * (count[index] ?? 0);
  return sum;
}

function bestOf(scores: Float64Array, row: number, count: number): number {
  let best = 0;
  for (let own = 1; own < count; own++) {
    if ((scores[row * count + own] ?? 0) > (scores[row * count + best] ?? 0)) best = own;
  }
  return best;
}

/** Rows by rising score: whether each is of the class, its group, and whether its score equals the one before. */
interface RankedRows {
  readonly positive: Int32Array;
  readonly group: Int32Array;
  readonly tied: Int32Array;
  readonly distinct: boolean; // no score occurs twice
}

/** One area per draw, undefined where one side is empty. */
function areasUnder(rows: RankedRows, draws: readonly Float64Array[]): readonly (number | undefined)[] {
  const pairs = rows.distinct ? pairsWonInEach(rows, draws) : draws.map((weights) => pairsWonWithTies(rows, weights));
  return pairs.map(({ won, positives, negatives }) =>
    positives > 0 && negatives > 0 ? won / (positives * negatives) : undefined,
  );
}

interface PairsWon {
  readonly won: number; // pairs in which the positive scores higher; ties count half
  readonly positives: number;
  readonly negatives: number;
}

/**
 * Most of what a bootstrap costs: a loop without closures, without a branch (which rows are positive is a matter of
 * chance), and for two draws at a time, whose chains of additions run side by side.
 */
function pairsWonInEach({ positive, group }: RankedRows, draws: readonly Float64Array[]): readonly PairsWon[] {
  const pairs: PairsWon[] = [];
  for (let draw = 0; draw < draws.length; draw += 2) {
    const one = draws[draw] ?? new Float64Array();
    const other = draws[draw + 1] ?? one;
    let [won, positives, negatives, otherWon, otherPositives, otherNegatives] = [0, 0, 0, 0, 0, 0];
    for (let index = 0; index < group.length; index++) {
      const own = group[index] ?? 0;
      const isPositive = positive[index] ?? 0;
      const weight = one[own] ?? 0;
      const otherWeight = other[own] ?? 0;
      const ofClass = weight * isPositive;
      const otherOfClass = otherWeight * isPositive;
      won += ofClass * negatives;
      otherWon += otherOfClass * otherNegatives;
      positives += ofClass;
      otherPositives += otherOfClass;
      negatives += weight - ofClass;
      otherNegatives += otherWeight - otherOfClass;
    }
    pairs.push({ won, positives, negatives });
    if (other !== one) pairs.push({ won: otherWon, positives: otherPositives, negatives: otherNegatives });
  }
  return pairs;
}

function pairsWonWithTies({ positive, group, tied }: RankedRows, weights: Float64Array): PairsWon {
  // Positives and negatives of one score meet at the end of their run.
  let [negatives, won, positives, runPositive, runNegative] = [0, 0, 0, 0, 0];
  for (let index = 0; index < group.length; index++) {
    const weight = weights[group[index] ?? 0] ?? 0;
    if (tied[index] === 0) {
      won += runPositive * (negatives + runNegative / 2);
      negatives += runNegative;
      runPositive = 0;
      runNegative = 0;
    }
    if (positive[index] === 1) {
      runPositive += weight;
      positives += weight;
    } else runNegative += weight;
  }
  won += runPositive * (negatives + runNegative / 2);
  return { won, positives, negatives: negatives + runNegative };
}

/** A function from draws of groups to the mean areas under the ROC curves; ties count half. */
function areas(
  classes: Int32Array,
  scores: Float64Array,
  count: number,
  groups: Groups,
): (draws: readonly Float64Array[]) => readonly number[] {
  const wanted = count === 2 ? [1] : Array.from({ length: count }, (_, own) => own);
  const orders = wanted.map((own) => {
    const scoreOf = (row: number): number => scores[row * count + own] ?? 0;
    const order = Int32Array.from(classes.keys()).sort((a, b) => scoreOf(a) - scoreOf(b));
    const tied = order.map((row, index) => (index > 0 && scoreOf(row) === scoreOf(order[index - 1] ?? row) ? 1 : 0));
    return {
      positive: order.map((row) => (classes[row] === own ? 1 : 0)),
      group: order.map((row) => groups.ofRow[row] ?? 0),
      tied,
      distinct: !tied.includes(1),
    };
  });
  return (draws) => {
    const areasOf = orders.map((order) => areasUnder(order, draws));
    return draws.map((_, draw) => {
      const values = areasOf.flatMap((own) => own[draw] ?? []);
      return values.length > 0 ? values.reduce((a, b) => a + b, 0) / values.length : 0.5;
    });
  };
}

function measureValues(
  target: ValueTarget,
  scores: Float64Array,
  groups: Groups,
  options: BootstrapOptions,
  { whole, resamples }: GroupDraws,
): ValueScores {
  const r2 = rSquared(target, scores, groups);
  return { kind: "value", r2: percentiles(r2(whole), resamples.map(r2), options) };
}

/** A function from group weights to R². */
function rSquared({ values }: ValueTarget, scores: Float64Array, groups: Groups): (weights: Float64Array) => number {
  // Per group: rows, Σ y, Σ y², Σ (y − prediction)²; y counted from its mean, so that the variance keeps its digits.
  const count = groups.names.length;
  const [rows, sums, squares, errors] = [0, 1, 2, 3].map(() => new Float64Array(count));
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const add = (into: Float64Array | undefined, group: number, value: number): void => {
    if (into) into[group] = (into[group] ?? 0) + value;
  };
  values.forEach((value, row) => {
    const group = groups.ofRow[row] ?? 0;
    add(rows, group, 1);
    add(sums, group, value - mean);
    add(squares, group, (value - mean) ** 2);
    add(errors, group, (value - (scores[row] ?? 0)) ** 2);
  });
  return (weights) => {
    const total = (of: Float64Array | undefined): number =>
      weights.reduce((sum, weight, group) => sum + weight * (of?.[group] ?? 0), 0);
    const spread = total(squares) - total(sums) ** 2 / total(rows);
    return spread > 0 ? 1 - total(errors) / spread : 0;
  };
}

/**
 * The headline of one set of held-out scores minus that of another, over the same rows. Its interval comes from drawing the
 * same groups for both, so that hard and easy groups cancel out.
 */
export function measureDifference(
  target: Target,
  one: Float64Array,
  other: Float64Array,
  groups: Groups,
  options: BootstrapOptions = {},
): Interval {
  const headlineBy = (scores: Float64Array): ((weights: Float64Array) => number) => {
    if (target.kind === "value") return rSquared(target, scores, groups);
    const shares = recognised(target, scores, groups);
    return (weights) => shares(weights).balanced;
  };
  const [first, second] = [headlineBy(one), headlineBy(other)];
  const difference = (weights: Float64Array): number => first(weights) - second(weights);
  const { whole, resamples } = drawGroups(groups, options);
  return percentiles(difference(whole), resamples.map(difference), options);
}

/** Resamples of groups with replacement, as how often each group was drawn: [groups] each. */
export interface GroupDraws {
  readonly whole: Float64Array; // each group that has a row once: the data as they are
  readonly resamples: readonly Float64Array[];
}

/**
 * Draws groups for confidence intervals. Draws are a sequence: fewer resamples are the first of more.
 *
 * @param groups those of all rows
 */
export function drawGroups(groups: Groups, { resamples = RESAMPLES, seed = 0 }: BootstrapOptions = {}): GroupDraws {
  const present = [...new Set(groups.ofRow)].toSorted((a, b) => a - b);
  const count = groups.names.length;
  const uniforms = uniformStream(seed, 5);
  const whole = new Float64Array(count);
  for (const group of present) whole[group] = 1;
  const drawn = Array.from({ length: resamples }, () => {
    const weights = new Float64Array(count);
    for (let draw = 0; draw < present.length; draw++) {
      const group = present[Math.floor(uniforms() * present.length)] ?? 0;
      weights[group] = (weights[group] ?? 0) + 1;
    }
    return weights;
  });
  return { whole, resamples: drawn };
}

function percentiles(value: number, draws: readonly number[], { confidence = CONFIDENCE }: BootstrapOptions): Interval {
  const sorted = draws.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))] ?? value;
  return { value, low: at((1 - confidence) / 2), high: at((1 + confidence) / 2) };
}
