import { takeGroups, takeTarget, targetColumns, type Groups, type Target, type Training } from "./data.js";
import { takeRows, type Matrix } from "./linear-algebra.js";
import { probeOfColumns, scoresOf, type Probe } from "./probe.js";
import {
  REFINED_FOR_CHOICE,
  REFINED_FOR_SCORES,
  RIDGE_PENALTIES,
  ridgeFolds,
  type RidgeFolds,
  smallestIndex,
  type RidgeOptions,
  type RidgeSolution,
} from "./ridge.js";
import { rowsOf, type Folds } from "./splits.js";

/**
 * Held-out scores of every row, each from a probe that has seen no row of its group, and the probe of all rows whose
 * direction is kept.
 */
export interface CrossFit {
  readonly scores: Float64Array; // [rows, C]
  readonly probe: Probe;
}

/** Fits a probe on the rows of a training side. */
export type FitProbe = (training: Training) => Promise<Probe>;

/** Cross-fits any estimator: once per fold, and once on all rows. */
export async function crossFit(
  fit: FitProbe,
  x: Matrix,
  target: Target,
  groups: Groups,
  folds: Folds,
  seed: number,
): Promise<CrossFit> {
  const probe = await fit({ x, target, groups, seed });
  const concepts = probe.concepts.length;
  const scores = new Float64Array(x.rows * concepts);
  for (let fold = 0; fold < folds.count; fold++) {
    const kept = rowsOf(folds, [fold], { except: true });
    const own = await fit({
      x: takeRows(x, kept),
      target: takeTarget(target, kept),
      groups: takeGroups(groups, kept),
      seed,
    });
    placeScores(scores, own, x, rowsOf(folds, [fold]));
  }
  return { scores, probe };
}

function placeScores(scores: Float64Array, probe: Probe, x: Matrix, rows: Int32Array): void {
  const concepts = probe.concepts.length;
  const own = scoresOf(probe, takeRows(x, rows));
  rows.forEach((row, index) => scores.set(own.subarray(index * concepts, (index + 1) * concepts), row * concepts));
}

/**
 * Cross-fits ridge for several targets over the same rows at once: sums of each fold are computed once, and each
 * factorisation serves all targets.
 *
 * The penalty of a fold is chosen inside its training side: on each of its two neighbour folds in turn, fitted without
 * both. A fit without two folds serves either of them, which is why neighbours are enough. The probe of all rows has the
 * median of the penalties that the folds chose.
 */
export async function crossFitRidge(
  x: Matrix,
  targets: readonly Target[],
  folds: Folds,
  { penalties = RIDGE_PENALTIES, standardize = true }: RidgeOptions = {},
): Promise<readonly CrossFit[]> {
  const columns = targets.map((target) => targetColumns(target));
  const firsts = columns.map((_, index) => columns.slice(0, index).reduce((sum, { count }) => sum + count, 0));
  const y = new Float64Array(columns.reduce((sum, { values }) => sum + values.length, 0));
  columns.forEach(({ values }, index) => {
    y.set(values, (firsts[index] ?? 0) * x.rows);
  });
  const shared = await ridgeFolds(x, y, folds, standardize);
  const chosen = await choosePenalties(shared, penalties, columns, firsts);

  const scores = targets.map((target) => new Float64Array(x.rows * conceptCount(target)));
  for (let fold = 0; fold < folds.count; fold++) {
    const wanted = targets.map((_, index) => chosen[index]?.[fold] ?? 0);
    const distinct = [...new Set(wanted)];
    const { solve } = await shared.without([fold]);
    const solutions: RidgeSolution[] = [];
    for (const penalty of distinct) solutions.push(await solve(penalty, REFINED_FOR_SCORES));
    targets.forEach((target, index) => {
      const solution = solutions[distinct.indexOf(wanted[index] ?? 0)];
      const probe = probeOf(target, solution, firsts[index] ?? 0, columns[index]?.count ?? 0, x.columns, {});
      placeScores(scores[index] ?? new Float64Array(), probe, x, rowsOf(folds, [fold]));
    });
  }
  const finals = targets.map((_, index) => median(chosen[index] ?? []));
  const distinct = [...new Set(finals)];
  const { solve } = await shared.without([]);
  const solutions: RidgeSolution[] = [];
  for (const penalty of distinct) solutions.push(await solve(penalty));
  return targets.map((target, index) => {
    const penalty = finals[index] ?? 0;
    const solution = solutions[distinct.indexOf(penalty)];
    const settings = { penalty, standardize };
    const probe = probeOf(target, solution, firsts[index] ?? 0, columns[index]?.count ?? 0, x.columns, settings);
    return { scores: scores[index] ?? new Float64Array(), probe };
  });
}

/** For each target the penalty of each fold. */
async function choosePenalties(
  shared: RidgeFolds,
  penalties: readonly number[],
  columns: readonly { readonly count: number }[],
  firsts: readonly number[],
): Promise<readonly (readonly number[])[]> {
  const { count } = shared;
  const falling = penalties.toSorted((a, b) => b - a);
  if (falling.length === 1) return columns.map(() => new Array<number>(count).fill(falling[0] ?? 1));
  const targetSums = (errors: Float64Array): readonly number[] =>
    columns.map((column, target) => {
      const first = firsts[target] ?? 0;
      return errors.subarray(first, first + column.count).reduce((a, b) => a + b, 0);
    });
  const pairs: (readonly PairErrors[])[] = [];
  for (let fold = 0; fold < count; fold++) {
    pairs.push(await tryPenalties(shared, falling, fold, (fold + 1) % count, targetSums));
  }
  return columns.map((_, target) =>
    Array.from({ length: count }, (__, fold) => {
      const errors = falling.map((___, index) => {
        // The error on one fold is evidence for the other, whose rows it has not seen.
        const after = triedAt(pairs[fold], index)?.onNeighbour[target] ?? 0;
        const before = triedAt(pairs[(fold + count - 1) % count], index)?.onFold[target] ?? 0;
        return after + before;
      });
      return falling[smallestIndex(Float64Array.from(errors))] ?? 1;
    }),
  );
}

/** Squared errors of one penalty, fitted without two folds, on each of them: per target. */
interface PairErrors {
  readonly onFold: readonly number[];
  readonly onNeighbour: readonly number[];
}

/**
 * Tries penalties from the strongest on, no further than to where the error of every target on both folds has risen: along
 * the penalty it falls and then rises.
 */
async function tryPenalties(
  shared: RidgeFolds,
  falling: readonly number[],
  fold: number,
  neighbour: number,
  targetSums: (errors: Float64Array) => readonly number[],
): Promise<readonly PairErrors[]> {
  const { solve } = await shared.without([fold, neighbour]);
  const tried: PairErrors[] = [];
  for (const penalty of falling) {
    const solution = await solve(penalty, REFINED_FOR_CHOICE);
    const onFold = targetSums(await shared.errors(solution, fold));
    const onNeighbour = targetSums(await shared.errors(solution, neighbour));
    const before = tried.at(-1);
    tried.push({ onFold, onNeighbour });
    if (before && rose(before.onFold, onFold) && rose(before.onNeighbour, onNeighbour)) break;
  }
  return tried;
}

function rose(before: readonly number[], now: readonly number[]): boolean {
  return now.every((error, target) => error >= (before[target] ?? 0));
}

/** What was not tried counts as the last that was. */
function triedAt(tried: readonly PairErrors[] | undefined, index: number): PairErrors | undefined {
  return tried?.[Math.min(index, tried.length - 1)];
}

function probeOf(
  target: Target,
  solution: RidgeSolution | undefined,
  first: number,
  count: number,
  width: number,
  settings: Probe["settings"],
): Probe {
  const weights = solution?.weights.slice(first * width, (first + count) * width) ?? new Float64Array(count * width);
  const bias = solution?.bias.slice(first, first + count) ?? new Float64Array(count);
  return probeOfColumns(target, weights, bias, settings);
}

function conceptCount(target: Target): number {
  return target.kind === "classes" ? target.names.length : 1;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
