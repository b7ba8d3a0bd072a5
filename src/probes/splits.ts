import { UsageError } from "../errors.js";
import { uniformStream } from "../runtime/random.js";
import type { Groups, Target } from "./data.js";

/** Grouped splits: all windows of one track are on one side, so that a probe can't be right by knowing the track. */

/** Rows cut into folds. */
export interface Folds {
  readonly count: number;
  readonly ofRow: Int32Array; // [rows]
}

/** The smallest number of groups per class: one to test on, one to choose the penalty on, one to fit on. */
export const MIN_GROUPS = 3;

const VALUE_BINS = 5; // numbers are spread over folds by quintile

/**
 * Cuts rows into folds that hold whole groups and, as far as groups allow, each class in equal shares; numbers are spread
 * by quintile. The result depends on the groups' names, their labels and the seed, not on the order of rows.
 *
 * Groups are taken in a seeded order, largest first, each into the fold where the shares of classes then differ least
 * (as scikit-learn's StratifiedGroupKFold does it).
 *
 * @param wanted number of folds; fewer where a class has fewer groups, never less than {@link MIN_GROUPS}.
 * @throws {UsageError} if a class has too few groups.
 */
export function groupedFolds(target: Target, groups: Groups, wanted: number, seed: number): Folds {
  if (!Number.isInteger(wanted) || wanted < MIN_GROUPS) {
    throw new UsageError({
      asked: `split into ${wanted} folds`,
      found: "too few for a side to test on, one to choose the penalty on and one to fit on",
      todo: `Ask for ${MIN_GROUPS} folds at least`,
    });
  }
  const { strata, names } = strataOf(target);
  const sizes = Array.from({ length: groups.names.length }, () => new Int32Array(names.length));
  groups.ofRow.forEach((group, row) => {
    const own = sizes[group];
    const stratum = strata[row] ?? 0;
    if (own) own[stratum] = (own[stratum] ?? 0) + 1;
  });
  const present = sizes.flatMap((own, group) => (own.some((count) => count > 0) ? [group] : []));
  const count = Math.min(wanted, smallestClass(target, sizes, names), present.length);

  const totals = names.map((_, stratum) => sizes.reduce((sum, own) => sum + (own[stratum] ?? 0), 0));
  const held = Array.from({ length: count }, () => new Float64Array(names.length));
  const foldOf = new Int32Array(groups.names.length);
  for (const group of bySizeThenChance(present, sizes, seed)) {
    const own = sizes[group] ?? new Int32Array(names.length);
    const costs = held.map((fold, index) => ({ index, cost: imbalance(held, fold, own, totals), rows: total(fold) }));
    const best = costs.reduce((a, b) => (b.cost < a.cost || (b.cost === a.cost && b.rows < a.rows) ? b : a));
    foldOf[group] = best.index;
    held[best.index]?.forEach((value, stratum, fold) => (fold[stratum] = value + (own[stratum] ?? 0)));
  }
  return { count, ofRow: groups.ofRow.map((group) => foldOf[group] ?? 0) };
}

/** Classes, or quintiles of numbers. */
function strataOf(target: Target): { readonly strata: Int32Array; readonly names: readonly string[] } {
  if (target.kind === "classes") return { strata: target.classes, names: target.names };
  const sorted = target.values.toSorted();
  const edges = Array.from({ length: VALUE_BINS - 1 }, (_, bin) => {
    return sorted[Math.floor(((bin + 1) * sorted.length) / VALUE_BINS)] ?? 0;
  });
  return {
    strata: Int32Array.from(target.values, (value) => edges.filter((edge) => value >= edge).length),
    names: Array.from({ length: VALUE_BINS }, (_, bin) => `quintile ${bin + 1}`),
  };
}

function smallestClass(target: Target, sizes: readonly Int32Array[], names: readonly string[]): number {
  const groupsOf = (stratum: number): number => sizes.filter((own) => (own[stratum] ?? 0) > 0).length;
  const fewest =
    target.kind === "value"
      ? { name: "all rows", groups: sizes.filter((own) => own.some((count) => count > 0)).length }
      : names
          .map((name, stratum) => ({ name: `class "${name}"`, groups: groupsOf(stratum) }))
          .reduce((a, b) => (b.groups < a.groups ? b : a));
  if (fewest.groups < MIN_GROUPS) {
    throw new UsageError({
      asked: `split the rows of "${target.label}" by group`,
      found: `${fewest.name} with ${fewest.groups} ${fewest.groups === 1 ? "group" : "groups"}`,
      todo: `Capture ${MIN_GROUPS} tracks of each class at least: one to test on, one to choose the penalty on, one to fit on`,
    });
  }
  return fewest.groups;
}

function bySizeThenChance(present: readonly number[], sizes: readonly Int32Array[], seed: number): readonly number[] {
  const uniforms = uniformStream(seed, 0);
  return present
    .map((group) => ({ group, rows: total(sizes[group] ?? []), chance: uniforms() }))
    .toSorted((a, b) => b.rows - a.rows || a.chance - b.chance)
    .map(({ group }) => group);
}

/** How unequally classes would lie over the folds, were `own` added to `chosen`: variance of each class's shares. */
function imbalance(
  held: readonly Float64Array[],
  chosen: Float64Array,
  own: Int32Array,
  totals: readonly number[],
): number {
  let sum = 0;
  totals.forEach((all, stratum) => {
    if (all === 0) return;
    const shares = held.map((fold) => ((fold[stratum] ?? 0) + (fold === chosen ? (own[stratum] ?? 0) : 0)) / all);
    const mean = shares.reduce((a, b) => a + b, 0) / shares.length;
    sum += Math.sqrt(shares.reduce((a, share) => a + (share - mean) ** 2, 0) / shares.length);
  });
  return sum;
}

function total(counts: ArrayLike<number>): number {
  let sum = 0;
  for (let index = 0; index < counts.length; index++) sum += counts[index] ?? 0;
  return sum;
}

/** The rows of some folds, or with `except` those of all others. */
export function rowsOf(
  { ofRow }: Folds,
  folds: readonly number[],
  { except = false }: { readonly except?: boolean } = {},
): Int32Array {
  const rows: number[] = [];
  ofRow.forEach((fold, row) => {
    if (folds.includes(fold) !== except) rows.push(row);
  });
  return Int32Array.from(rows);
}

/**
 * The control: the same labels, dealt anew. Where all rows of each group share one label, groups exchange their labels,
 * so that the control keeps the structure that makes grouped data easy; otherwise rows exchange theirs.
 */
export function shuffleTarget(target: Target, groups: Groups, seed: number): Target {
  const rows = groups.ofRow.length;
  const firstRow = new Int32Array(groups.names.length).fill(-1);
  const valueAt = (row: number): number => (target.kind === "classes" ? target.classes[row] : target.values[row]) ?? 0;
  groups.ofRow.forEach((group, row) => {
    if ((firstRow[group] ?? -1) < 0) firstRow[group] = row;
  });
  const uniform = groups.ofRow.every((group, row) => valueAt(firstRow[group] ?? row) === valueAt(row));
  const present = Array.from(firstRow.keys()).filter((group) => (firstRow[group] ?? -1) >= 0);
  const sources = new Int32Array(rows);
  if (uniform && present.length < rows) {
    const dealt = shuffled(present, seed);
    const from = new Int32Array(groups.names.length);
    present.forEach((group, index) => (from[group] = firstRow[dealt[index] ?? 0] ?? 0));
    groups.ofRow.forEach((group, row) => (sources[row] = from[group] ?? 0));
  } else {
    const order = Array.from({ length: rows }, (_, row) => row);
    shuffled(order, seed).forEach((source, row) => (sources[row] = source));
  }
  return target.kind === "classes"
    ? { ...target, classes: sources.map((row) => target.classes[row] ?? 0) }
    : { ...target, values: Float64Array.from(sources, (row) => target.values[row] ?? 0) };
}

/** A seeded permutation (Fisher and Yates). */
export function shuffled<T>(items: readonly T[], seed: number): T[] {
  const uniforms = uniformStream(seed, 1);
  const order = [...items];
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(uniforms() * (last + 1));
    const [a, b] = [order[last], order[other]];
    if (a !== undefined && b !== undefined) [order[last], order[other]] = [b, a];
  }
  return order;
}
