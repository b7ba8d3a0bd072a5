import type { Interval } from "../probes/metrics.js";
import { uniformStream } from "../runtime/random.js";

/** Confidence intervals of 95 % for what an experiment counts and measures. */

const Z = 1.959964; // of the normal distribution, 97.5 %
const RESAMPLES = 1000;

/** A share, with the number of trials it comes from. */
export interface Share extends Interval {
  readonly hits: number;
  readonly trials: number;
}

/**
 * The share of hits with Wilson's interval (Wilson 1927), which also holds for few trials and for shares of 0 and 1.
 *
 * @returns without trials: 0 to 1 around NaN
 */
export function shareOf(hits: number, trials: number): Share {
  if (trials === 0) return { value: NaN, low: 0, high: 1, hits, trials };
  const share = hits / trials;
  const denominator = 1 + Z ** 2 / trials;
  const centre = (share + Z ** 2 / (2 * trials)) / denominator;
  const reach = (Z / denominator) * Math.sqrt((share * (1 - share)) / trials + Z ** 2 / (4 * trials ** 2));
  return { value: share, low: Math.max(0, centre - reach), high: Math.min(1, centre + reach), hits, trials };
}

/** The mean with percentiles of means over resamples with replacement; undefined without values. */
export function meanOf(values: readonly number[], seed = 0): Interval | undefined {
  if (values.length === 0) return undefined;
  const uniform = uniformStream(seed, 0);
  const mean = (pick: (index: number) => number): number =>
    values.reduce((sum, _, index) => sum + (values[pick(index)] ?? 0), 0) / values.length;
  const means = Array.from({ length: RESAMPLES }, () => mean(() => Math.floor(uniform() * values.length))).toSorted(
    (a, b) => a - b,
  );
  const at = (part: number): number => means[Math.round(part * (RESAMPLES - 1))] ?? NaN;
  return { value: mean((index) => index), low: at(0.025), high: at(0.975) };
}

/** Whether the first interval lies wholly above the second. */
export function isAbove(a: Interval, b: Interval): boolean {
  return a.low > b.high;
}
