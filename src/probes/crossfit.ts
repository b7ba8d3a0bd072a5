import { takeGroups, takeTarget, targetColumns, type Groups, type Target, type Training } from "./data.js";
import { takeRows, type Matrix } from "./linear-algebra.js";
import { probeOfColumns, scoresOf, type Probe } from "./probe.js";
import { RIDGE_PENALTIES, ridgeFolds, smallestIndex, type RidgeOptions, type RidgeSolution } from "./ridge.js";
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
    const solutions = await shared.solveWithout([fold], distinct);
    targets.forEach((target, index) => {
      const solution = solutions[distinct.indexOf(wanted[index] ?? 0)];
      const probe = probeOf(target, solution, firsts[index] ?? 0, columns[index]?.count ?? 0, x.columns, {});
      placeScores(scores[index] ?? new Float64Array(), probe, x, rowsOf(folds, [fold]));
    });
  }
  const finals = targets.map((_, index) => median(chosen[index] ?? []));
  const distinct = [...new Set(finals)];
  const solutions = await shared.solveWithout([], distinct);
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
  shared: Awaited<ReturnType<typeof ridgeFolds>>,
  penalties: readonly number[],
  columns: readonly { readonly count: number }[],
  firsts: readonly number[],
): Promise<readonly (readonly number[])[]> {
  const { count } = shared;
  if (penalties.length === 1) return columns.map(() => new Array<number>(count).fill(penalties[0] ?? 1));
  const errors = columns.map(() => Array.from({ length: count }, () => new Float64Array(penalties.length)));
  for (let fold = 0; fold < count; fold++) {
    const neighbour = (fold + 1) % count;
    const solutions = await shared.solveWithout([fold, neighbour], penalties);
    solutions.forEach((solution, penalty) => {
      // The error on one fold is evidence for the other, whose rows it has not seen.
      for (const [tested, served] of [
        [fold, neighbour],
        [neighbour, fold],
      ] as const) {
        const own = shared.errors(solution, tested);
        columns.forEach((column, target) => {
          const first = firsts[target] ?? 0;
          const sum = own.subarray(first, first + column.count).reduce((a, b) => a + b, 0);
          const into = errors[target]?.[served];
          if (into) into[penalty] = (into[penalty] ?? 0) + sum;
        });
      }
    });
  }
  return errors.map((folds) => folds.map((own) => penalties[smallestIndex(own)] ?? 1));
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
