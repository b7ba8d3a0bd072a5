import { layerOf } from "../activations/activation.js";
import { UsageError } from "../errors.js";
import { VERSION } from "../version.js";
import { fitAdam, type AdamOptions } from "./adam.js";
import { fitCovariance, type CovarianceOptions } from "./covariance.js";
import { crossFit, crossFitRidge, type CrossFit, type FitProbe } from "./crossfit.js";
import {
  conceptsOf,
  dataHash,
  readGroups,
  readTarget,
  readUnits,
  type ActivationData,
  type Groups,
  type Target,
} from "./data.js";
import { dot, type Matrix } from "./linear-algebra.js";
import { fitLogistic, type LogisticOptions } from "./logistic.js";
import { fitMeans, meanOfRows, sidesOf } from "./means.js";
import {
  drawGroups,
  headline,
  headlineName,
  isAboveChance,
  measure,
  type BootstrapOptions,
  type GroupDraws,
  type Scores,
} from "./metrics.js";
import { fitPca } from "./pca.js";
import { projectionsOf, type Probe } from "./probe.js";
import { fitRandom } from "./random.js";
import { fitRfm, type RfmOptions } from "./rfm.js";
import type { RidgeOptions } from "./ridge.js";
import { groupedFolds, shuffleTarget, type Folds } from "./splits.js";
import type { SiteVectors, SteeringVectors } from "./vectors.js";

/** The estimators by name. */
export const ESTIMATORS = ["ridge", "logistic", "adam", "means", "covariance", "pca", "rfm", "random"] as const;

export type EstimatorName = (typeof ESTIMATORS)[number];

/** Options of every estimator; each reads its own. */
export interface EstimatorOptions {
  readonly ridge?: RidgeOptions;
  readonly logistic?: LogisticOptions;
  readonly adam?: AdamOptions;
  readonly covariance?: CovarianceOptions;
  readonly rfm?: RfmOptions;
}

/** What to probe for, and how. */
export interface ProbeOptions {
  readonly label: string; // column
  readonly kind?: Target["kind"] | undefined; // without it: numbers as numbers, all else as classes
  readonly group?: string | undefined; // column; without it the clip, or each row by itself
  readonly estimator: EstimatorName;
  readonly options?: EstimatorOptions | undefined;
  readonly normalize?: boolean | undefined; // rows of length 1; without it as the estimator's paper: Adam does, others don't
  readonly folds?: number | undefined;
  readonly seed?: number | undefined;
  readonly bootstrap?: BootstrapOptions | undefined;
  /** Whether to fit shuffled labels too, without which selectivity is unknown. */
  readonly control?: boolean | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined; // sites
  readonly signal?: AbortSignal | undefined;
}

/** What was found at one unit: a site, or one head of it. */
export interface UnitResult {
  readonly site: string;
  readonly layer: number | undefined;
  readonly head: number | undefined;
  readonly scores: Scores; // held out
  readonly control: Scores | undefined; // the same with shuffled labels
  /** Headline score minus the control's; undefined without a control. */
  readonly selectivity: number | undefined;
  readonly aboveChance: boolean; // whether the whole confidence interval is
  readonly heldOut: Float64Array; // the score of each row: [rows, C]
  readonly probe: Probe; // of all rows
}

/** Probes at every unit of a capture. */
export interface ProbeSweep {
  readonly target: Target;
  readonly rows: number;
  readonly groupsOfRows: Groups;
  readonly groups: number;
  readonly grouped: boolean; // false where each row counted as independent
  readonly folds: number;
  readonly units: readonly UnitResult[];
  readonly vectors: SteeringVectors;
}

const FOLDS = 5;
const CONTROL_RESAMPLES = 200; // its interval is there to be looked at, nothing is decided by it

/**
 * Fits a probe at every unit of every site, on one set of grouped folds: for all heads of all layers in one call. Scores are
 * held out: each row is scored by a probe that has seen no row of its group. Vectors are fitted on all rows.
 *
 * Owns nothing on the tensor backend when it returns. Reads one site at a time.
 *
 * @throws {UsageError} if labels, groups or activations can't carry a probe; the sentence says which, and why.
 */
export async function sweepProbes(data: ActivationData, options: ProbeOptions): Promise<ProbeSweep> {
  const { label, kind, estimator, seed = 0, control = true, onProgress, signal } = options;
  const normalize = options.normalize ?? estimator === "adam";
  const target = readTarget(data, label, kind);
  const column = options.group ?? data.clipColumn;
  const groups = readGroups(data, column);
  const folds = groupedFolds(target, groups, options.folds ?? FOLDS, seed);
  const targets = control ? [target, shuffleTarget(target, groups, seed)] : [target];
  checkSites(data);
  const bootstrap = { seed, ...options.bootstrap };
  const draws = drawGroups(groups, bootstrap);

  const units: UnitResult[] = [];
  const sites = new Map<string, SiteVectors>();
  for (const [index, features] of data.sites.entries()) {
    signal?.throwIfAborted();
    onProgress?.(index, data.sites.length);
    const matrices = await readUnits(features, data.rows, normalize);
    const results: UnitResult[] = [];
    for (const [head, x] of matrices.entries()) {
      const [own, shuffledFit] = await fitUnit(estimator, options.options ?? {}, x, targets, groups, folds, seed);
      if (!own) continue;
      const result = judge(own, shuffledFit, targets, groups, bootstrap, draws);
      const place = { site: features.site, layer: layerOf(features.site) };
      results.push({ ...place, head: matrices.length > 1 ? head : undefined, ...result });
    }
    const raw = normalize ? await readUnits(features, data.rows, false) : matrices;
    sites.set(features.site, siteVectors(features.site, features.shape, results, raw, target));
    units.push(...results);
  }
  onProgress?.(data.sites.length, data.sites.length);
  const vectors: SteeringVectors = {
    concepts: conceptsOf(target),
    label,
    target: target.kind,
    estimator,
    settings: { folds: folds.count, group: column ?? "", ...commonSettings(units) },
    scoring: headlineName(target),
    normalized: normalize,
    model: data.model,
    data: dataHash(data, target, groups),
    seed,
    tonearm: VERSION,
    sites,
  };
  const present = new Set(groups.ofRow).size;
  return {
    target,
    rows: data.rows,
    groupsOfRows: groups,
    groups: present,
    grouped: present < data.rows,
    folds: folds.count,
    units,
    vectors,
  };
}

/** The settings that all units share: a penalty that each chose for itself is none of them. */
function commonSettings(units: readonly UnitResult[]): Probe["settings"] {
  const [first, ...others] = units;
  const shared = Object.entries(first?.probe.settings ?? {}).filter(([key, value]) =>
    others.every(({ probe }) => probe.settings[key] === value),
  );
  return Object.fromEntries(shared);
}

function checkSites(data: ActivationData): void {
  const names = data.sites.map(({ site }) => site);
  const twice = names.find((site, index) => names.indexOf(site) !== index);
  if (names.length === 0 || twice !== undefined) {
    throw new UsageError({
      asked: "probe a capture",
      found: twice === undefined ? "no site" : `the site ${twice} twice`,
      todo: "Capture one site at least, each once",
    });
  }
}

/** Cross-fits each target at one unit. */
async function fitUnit(
  estimator: EstimatorName,
  options: EstimatorOptions,
  x: Matrix,
  targets: readonly Target[],
  groups: Groups,
  folds: Folds,
  seed: number,
): Promise<readonly CrossFit[]> {
  if (estimator === "ridge") return crossFitRidge(x, targets, folds, options.ridge);
  const fit = estimatorNamed(estimator, options);
  const fits: CrossFit[] = [];
  for (const target of targets) fits.push(await crossFit(fit, x, target, groups, folds, seed));
  return fits;
}

/** An estimator with its options, as a function of a training side. */
export function estimatorNamed(name: Exclude<EstimatorName, "ridge">, options: EstimatorOptions): FitProbe {
  switch (name) {
    case "logistic":
      return (training) => fitLogistic(training, options.logistic);
    case "adam":
      return (training) => fitAdam(training, options.adam);
    case "means":
      return fitMeans;
    case "covariance":
      return (training) => fitCovariance(training, options.covariance);
    case "pca":
      return (training) => fitPca(training);
    case "rfm":
      return (training) => fitRfm(training, options.rfm);
    case "random":
      return fitRandom;
  }
}

function judge(
  own: CrossFit,
  shuffledFit: CrossFit | undefined,
  [target, shuffledTarget]: readonly Target[],
  groups: Groups,
  bootstrap: BootstrapOptions,
  draws: GroupDraws,
): Pick<UnitResult, "scores" | "control" | "selectivity" | "aboveChance" | "heldOut" | "probe"> {
  if (!target) throw new TypeError("there is no target");
  const scores = measure(target, own.scores, groups, bootstrap, draws);
  const fewer = { ...draws, resamples: draws.resamples.slice(0, CONTROL_RESAMPLES) };
  const control =
    shuffledFit && shuffledTarget ? measure(shuffledTarget, shuffledFit.scores, groups, bootstrap, fewer) : undefined;
  return {
    scores,
    control,
    selectivity: control && headline(scores).value - headline(control).value,
    aboveChance: isAboveChance(scores, target),
    heldOut: own.scores,
    probe: own.probe,
  };
}

/** What steering needs to know of a site, from the activations as they are, whatever the probe read. */
function siteVectors(
  site: string,
  shape: readonly number[],
  results: readonly UnitResult[],
  units: readonly Matrix[],
  target: Target,
): SiteVectors {
  const concepts = conceptsOf(target);
  const width = shape.at(-1) ?? 1;
  const [C, U] = [concepts.length, units.length];
  const vectors = {
    site,
    shape,
    directions: new Float32Array(C * U * width),
    gain: new Float32Array(C * U),
    bias: new Float32Array(C * U),
    score: new Float32Array(U),
    deviation: new Float32Array(C * U),
    mean: new Float32Array(C * U * width),
    norm: new Float32Array(U),
  };
  const sides = target.kind === "classes" ? sidesOf(target) : [];
  results.forEach(({ probe, scores }, unit) => {
    const x = units[unit];
    if (!x) return;
    vectors.score[unit] = headline(scores).value;
    vectors.norm[unit] = meanNorm(x);
    for (let concept = 0; concept < C; concept++) {
      const direction = probe.directions.subarray(concept * width, (concept + 1) * width);
      const at = concept * U + unit;
      vectors.directions.set(direction, at * width);
      vectors.gain[at] = probe.gain[concept] ?? 1;
      vectors.bias[at] = probe.bias[concept] ?? 0;
      vectors.deviation[at] = deviationAlong(x, direction);
      const rows = sides[concept]?.towards ?? Int32Array.from({ length: x.rows }, (_, row) => row);
      vectors.mean.set(meanOfRows(x, rows), at * width);
    }
  });
  return vectors;
}

function meanNorm({ rows, columns, values }: Matrix): number {
  let sum = 0;
  for (let row = 0; row < rows; row++) {
    const own = values.subarray(row * columns, (row + 1) * columns);
    sum += Math.sqrt(dot(own, own));
  }
  return sum / rows;
}

function deviationAlong(x: Matrix, direction: Float64Array): number {
  const length = Math.sqrt(dot(direction, direction));
  if (length === 0) return 0;
  const projections = projectionsOf(x, direction);
  const mean = projections.reduce((sum, value) => sum + value, 0) / x.rows;
  const variance = projections.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.rows;
  return Math.sqrt(variance) / length;
}
