import { conceptsOf, targetColumns, type Training } from "./data.js";
import { featureScales, probeMoments, type ProbeMoments } from "./moments.js";
import { calibrate, type Probe } from "./probe.js";

/**
 * The covariance of activations and label, Xᵀy over n with both centred: the direction that ridge turns to as its penalty
 * grows. For a class it is parallel to the difference of means; with `standardize` it is the covariance of standardised
 * features, taken back to the features as given, which weighs each by one over its variance.
 */
export interface CovarianceOptions {
  readonly standardize?: boolean;
}

/** Fits {@link CovarianceOptions}'s direction. */
export async function fitCovariance(
  { x, target }: Training,
  { standardize = false }: CovarianceOptions = {},
): Promise<Probe> {
  const moments = await probeMoments(x, targetColumns(target).values, { scatter: "diagonal" });
  const columns = covarianceFromMoments(moments, standardize);
  const concepts = conceptsOf(target).length;
  if (concepts !== 2) return calibrate(columns, x, target, { standardize });
  const directions = new Float64Array(2 * x.columns);
  directions.set(columns.map((value) => -value));
  directions.set(columns, x.columns);
  return calibrate(directions, x, target, { standardize });
}

/** One direction per target column from running sums: [c, d] */
export function covarianceFromMoments(moments: ProbeMoments, standardize: boolean): Float64Array {
  const { rows, features, cross } = moments;
  const scales = featureScales(moments, standardize);
  return cross.map((value, index) => (value / rows) * (standardize ? (scales[index % features] ?? 0) ** 2 : 1));
}
