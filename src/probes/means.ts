import { UsageError } from "../errors.js";
import { conceptsOf, type Target, type Training } from "./data.js";
import type { Matrix } from "./linear-algebra.js";
import type { ProbeMoments } from "./moments.js";
import { calibrate, type Probe } from "./probe.js";

const QUANTILE = 0.2;

/**
 * Difference of means (contrastive activation addition, arXiv 2312.06681; mass mean in inference-time intervention, arXiv
 * 2306.03341): the mean of a class's rows minus the mean of all others'. For a number: the rows of its highest fifth minus
 * those of its lowest. Its length is the distance between the two means.
 */
export async function fitMeans({ x, target }: Training): Promise<Probe> {
  return calibrate(meanDifferences(x, target), x, target, { quantile: target.kind === "value" ? QUANTILE : 0 });
}

/** One direction per concept: [C, d] */
export function meanDifferences(x: Matrix, target: Target): Float64Array {
  const directions = new Float64Array(conceptsOf(target).length * x.columns);
  sidesOf(target).forEach(({ towards, away }, concept) => {
    const [high, low] = [meanOfRows(x, towards), meanOfRows(x, away)];
    const difference = high.map((value, index) => value - (low[index] ?? 0));
    directions.set(difference, concept * x.columns);
  });
  return directions;
}

/** For each concept the rows that have it and those that have not. */
export function sidesOf(target: Target): readonly { readonly towards: Int32Array; readonly away: Int32Array }[] {
  if (target.kind === "classes") {
    return target.names.map((_, concept) => ({
      towards: rowsWhere(target.classes, (own) => own === concept),
      away: rowsWhere(target.classes, (own) => own !== concept),
    }));
  }
  const sorted = target.values.toSorted();
  const low = sorted[Math.ceil(QUANTILE * sorted.length) - 1] ?? 0;
  const high = sorted[sorted.length - Math.ceil(QUANTILE * sorted.length)] ?? 0;
  if (!(high > low)) {
    throw new UsageError({
      asked: `compare the highest and the lowest fifth of "${target.label}"`,
      found: `${low} at both ends`,
      todo: "Most rows have one value: probe for it as classes, or use ridge",
    });
  }
  return [
    { towards: rowsWhere(target.values, (own) => own >= high), away: rowsWhere(target.values, (own) => own <= low) },
  ];
}

/**
 * Differences of class means from running sums, their targets being one indicator per class, or that of the second of two:
 * for shards and captures larger than memory.
 *
 * @returns one direction per target column: [c, d]
 */
export function meanDifferencesFromMoments({ rows, features, targets, targetMean, cross }: ProbeMoments): Float64Array {
  const directions = new Float64Array(targets * features);
  for (let column = 0; column < targets; column++) {
    const share = targetMean[column] ?? 0;
    // Σ (y − ȳ)(x − x̄) = n ȳ (1 − ȳ) (mean of y = 1 − mean of y = 0)
    const scale = 1 / (rows * share * (1 - share));
    for (let index = 0; index < features; index++) {
      directions[column * features + index] = (cross[column * features + index] ?? 0) * scale;
    }
  }
  return directions;
}

/** Mean of some rows: [d] */
export function meanOfRows({ columns, values }: Matrix, rows: Int32Array): Float64Array {
  const sum = new Float64Array(columns);
  for (const row of rows) {
    const start = row * columns;
    for (let index = 0; index < columns; index++) sum[index] = (sum[index] ?? 0) + (values[start + index] ?? 0);
  }
  return sum.map((value) => value / rows.length);
}

function rowsWhere(labels: Int32Array | Float64Array, accept: (label: number) => boolean): Int32Array {
  const rows: number[] = [];
  labels.forEach((label, row) => {
    if (accept(label)) rows.push(row);
  });
  return Int32Array.from(rows);
}
