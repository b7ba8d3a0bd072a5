import { UsageError } from "../errors.js";
import type { ActivationData } from "./data.js";
import { headline, measureDifference, type Interval } from "./metrics.js";
import { cosine } from "./probe.js";
import { sweepProbes, type EstimatorName, type ProbeSweep, type ProbeOptions, type UnitResult } from "./sweep.js";

/** One unit under two estimators. */
export interface ComparedUnit {
  readonly site: string;
  readonly head: number | undefined;
  readonly first: Interval;
  readonly second: Interval;
  readonly difference: Interval; // first minus second; the same groups are drawn for both
  readonly cosines: readonly number[]; // between the two directions of each concept
}

/** Two estimators on the same rows and folds. */
export interface Comparison {
  readonly estimators: readonly [EstimatorName, EstimatorName];
  readonly sweeps: readonly [ProbeSweep, ProbeSweep];
  readonly units: readonly ComparedUnit[];
  /** Units at which one is better, its whole interval on one side of 0. */
  readonly wins: readonly [first: number, second: number];
}

/**
 * Compares two estimators by their held-out scores: `["ridge", "logistic"]` asks whether squared error beats cross-entropy,
 * as arXiv 2506.10225 claims of steering. A better score is no better steering; that takes a listener that isn't the probe.
 *
 * @throws {UsageError} if the two are one estimator, and as {@link sweepProbes}.
 */
export async function compareEstimators(
  data: ActivationData,
  [first, second]: readonly [EstimatorName, EstimatorName],
  options: Omit<ProbeOptions, "estimator">,
): Promise<Comparison> {
  if (first === second) {
    throw new UsageError({ asked: `compare ${first} with ${second}`, found: "one estimator", todo: "Name two" });
  }
  const sweeps = [
    await sweepProbes(data, { ...options, estimator: first }),
    await sweepProbes(data, { ...options, estimator: second }),
  ] as const;
  const units = sweeps[0].units.flatMap((unit, index) => {
    const other = sweeps[1].units[index];
    return other ? [compareUnit(sweeps[0], unit, other, options)] : [];
  });
  const wins = [
    units.filter(({ difference }) => difference.low > 0).length,
    units.filter(({ difference }) => difference.high < 0).length,
  ] as const;
  return { estimators: [first, second], sweeps, units, wins };
}

function compareUnit(
  { target, groupsOfRows }: ProbeSweep,
  one: UnitResult,
  other: UnitResult,
  { seed = 0, bootstrap }: Omit<ProbeOptions, "estimator">,
): ComparedUnit {
  const { width, concepts } = one.probe;
  return {
    site: one.site,
    head: one.head,
    first: headline(one.scores),
    second: headline(other.scores),
    difference: measureDifference(target, one.heldOut, other.heldOut, groupsOfRows, { seed, ...bootstrap }),
    cosines: concepts.map((_, concept) => {
      const [start, end] = [concept * width, (concept + 1) * width];
      return cosine(one.probe.directions.subarray(start, end), other.probe.directions.subarray(start, end));
    }),
  };
}
