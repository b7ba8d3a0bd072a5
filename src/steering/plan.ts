import type { Site } from "../activations/catalogue.js";
import { layerOf } from "../activations/activation.js";
import { selectSites } from "../activations/select.js";
import { SiteError, UsageError } from "../errors.js";
import type { MusicGenConfig } from "../model/checkpoint.js";
import { directionShape, requireSameModel, type SiteVectors, type SteeringVectors } from "../probes/vectors.js";
import { COMBINATION, conceptDirection, difference, projectOut, spanOf, unit, type Direction } from "./algebra.js";
import { invalid, show } from "./fields.js";
import type { InterventionSpec, SteeringSpec, Weighting } from "./spec.js";

/**
 * A spec made ready for one model: for each site the steps in the order in which they act, with directions as numbers.
 * Nothing here depends on the clip.
 */

/** What steering needs to know of a model; a `MusicGen` is one. */
export interface SteerableModel {
  readonly fingerprint: string;
  readonly config: Pick<MusicGenConfig, "decoder">;
  sites(): readonly Site[];
}

/** Vectors by the names that a spec calls them. */
export type NamedVectors = Readonly<Record<string, SteeringVectors>>;

/** An intervention with its place in the spec, by which its strengths are looked up. */
export interface PlannedIntervention {
  readonly spec: InterventionSpec;
  readonly path: string; // "segments[0].steer[1]"
  readonly segment: number;
  readonly index: number; // in its segment
}

/** One direction at one site. A site has U units of width W: its heads, or itself. */
export interface PlannedDirection {
  readonly intervention: number; // of the plan's
  /** What 1 of strength adds: v̂, v in its unit, or a mean; times the unit's weight. [U · W] */
  readonly step: Float32Array;
  /** v̂, for "clamp", "ablate" and "span": [U · W]. */
  readonly along: Float32Array;
  readonly weights: Float32Array; // [U]; 0: this unit is left alone
  readonly goals: Float32Array; // of "clamp" and "span", for each unit: [U]
}

/** Directions that move an activation in one step: several only for "convex". */
export interface PlannedStep {
  readonly operator: InterventionSpec["operator"];
  readonly restoreNorm: boolean;
  readonly directions: readonly PlannedDirection[];
}

/** Everything that happens at one site. */
export interface PlannedSite {
  readonly site: string;
  readonly number: number; // in the model's catalogue; random draws depend on it
  readonly units: number; // U
  readonly hasHeads: boolean; // [R, T, H, Dh] rather than [R, T, D]
  readonly steps: readonly PlannedStep[];
}

/** A spec made ready for a model. */
export interface Plan {
  readonly interventions: readonly PlannedIntervention[];
  readonly sites: readonly PlannedSite[];
}

/**
 * Makes a spec ready for a model.
 *
 * @throws {UsageError} with the field's path for sites, layers, heads, concepts and vectors that don't exist, directions of
 *   zeros and options that contradict each other; {@link CheckpointError} for vectors of another model.
 */
export function makePlan(model: SteerableModel, spec: SteeringSpec, vectors: NamedVectors): Plan {
  checkVectors(model, spec, vectors);
  const catalogue = model.sites();
  const interventions = spec.segments.flatMap(({ steer }, segment) =>
    steer.map((intervention, index): PlannedIntervention => ({
      spec: intervention,
      path: `segments[${segment}].steer[${index}]`,
      segment,
      index,
    })),
  );
  const directions = interventions.map((intervention, number) =>
    planDirections(intervention, number, model, catalogue, vectors),
  );
  const names = new Set(directions.flatMap((bySite) => [...bySite.keys()]));
  const sites = catalogue.flatMap(({ site }, number): readonly PlannedSite[] => {
    if (!names.has(site)) return [];
    const shape = directionShape(site, model.config.decoder) ?? [];
    const here = directions.flatMap((bySite) => bySite.get(site) ?? []);
    const hasHeads = shape.length === 2;
    return [{ site, number, units: hasHeads ? (shape[0] ?? 1) : 1, hasHeads, steps: planSteps(here, interventions) }];
  });
  return { interventions, sites };
}

/** The sites that a selection of a spec stands for: those of the decoder that have directions. */
export function steerableSites(
  selection: string | readonly string[],
  path: string,
  model: SteerableModel,
  catalogue: readonly Site[],
): readonly string[] {
  let selected: ReadonlySet<string>;
  try {
    selected = selectSites(selection, catalogue);
  } catch (error) {
    if (error instanceof SiteError) throw invalid(path, error.found, error.todo);
    throw error;
  }
  return [...selected].map((site) => {
    const overTokens = /\.cross_attn\.hook_[kv]$/.test(site); // its positions are text tokens, which no schedule knows
    if (!overTokens && directionShape(site, model.config.decoder) !== undefined) return site;
    throw invalid(
      path,
      `${site}, which has no direction over time to steer by`,
      "Choose sites of shape [rows, positions, width] or [rows, positions, heads, head width], such as hook_resid_post",
    );
  });
}

/** The vectors at a site. @throws {UsageError} if there are none. */
export function vectorsAt(vectors: SteeringVectors, name: string, site: string, path: string): SiteVectors {
  const found = vectors.sites.get(site);
  if (found) return found;
  const sites = [...vectors.sites.keys()];
  const shown = sites.slice(0, 4).join(", ") + (sites.length > 4 ? ` and ${sites.length - 4} more` : "");
  throw invalid(path, `${site}, for which "${name}" has no vectors`, `It has vectors at ${shown}`);
}

/** The place of a concept. @throws {UsageError} naming those there are. */
export function conceptIndex(vectors: SteeringVectors, name: string, concept: string, path: string): number {
  const index = vectors.concepts.indexOf(concept);
  if (index >= 0) return index;
  const known = vectors.concepts.map((known) => `"${known}"`).join(", ");
  throw invalid(path, `${show(concept)}, a concept that "${name}" lacks`, `Choose one of ${known}`);
}

function checkVectors(model: SteerableModel, spec: SteeringSpec, vectors: NamedVectors): void {
  for (const name of Object.keys(spec.vectors)) {
    const given = vectors[name];
    if (!given) throw invalid(`vectors.${name}`, "no vectors of that name were given", "Give them beside the spec");
    requireSameModel(given, { fingerprint: model.fingerprint, config: model.config.decoder });
  }
}

function required(vectors: NamedVectors, name: string): SteeringVectors {
  const found = vectors[name];
  if (!found) throw new RangeError(`the spec was parsed without vectors "${name}"`);
  return found;
}

/** The directions of one intervention at each of its sites: one, or with "span" a basis, along which it clamps one after the other. */
function planDirections(
  { spec, path }: PlannedIntervention,
  number: number,
  model: SteerableModel,
  catalogue: readonly Site[],
  named: NamedVectors,
): ReadonlyMap<string, readonly PlannedDirection[]> {
  const vectors = required(named, spec.vectors);
  const sites = steerableSites(spec.sites, `${path}.sites`, model, catalogue);
  checkConcepts(vectors, spec, path);
  checkStatistics(vectors, spec, path);
  const sources = sites.map((site) => {
    const source = vectorsAt(
      vectors,
      spec.vectors,
      spec.vectorSite ?? site,
      `${path}.${spec.vectorSite === null ? "sites" : "vectorSite"}`,
    );
    const shape = directionShape(site, model.config.decoder) ?? [];
    if (source.shape.join() !== shape.join()) {
      const found = `${source.site} of shape [${source.shape.join(", ")}], for ${site} of [${shape.join(", ")}]`;
      throw invalid(`${path}.vectorSite`, found, "Take a site of the same shape");
    }
    return { site, source };
  });
  const weights = unitWeights(sources, spec.weighting, `${path}.weighting`);
  return new Map(
    sources.map(({ site, source }, index) => {
      const own = weights[index] ?? new Float32Array(0);
      const planned =
        spec.operator === "span"
          ? planSpan(vectors, source, spec, path, own)
          : [planDirection(vectors, source, spec, path, own)];
      return [site, planned.map((direction) => ({ intervention: number, ...direction }))];
    }),
  );
}

function checkConcepts(vectors: SteeringVectors, spec: InterventionSpec, path: string): void {
  conceptIndex(vectors, spec.vectors, spec.concept, `${path}.concept`);
  if (spec.minus !== null) conceptIndex(vectors, spec.vectors, spec.minus, `${path}.minus`);
  spec.without.forEach((concept) => conceptIndex(vectors, spec.vectors, concept, `${path}.without`));
}

/** Refuses what needs means or deviations from vectors that have none. */
function checkStatistics(vectors: SteeringVectors, spec: InterventionSpec, path: string): void {
  if (vectors.estimator !== COMBINATION) return;
  const byMeans = ["replace", "span", "adjust"].includes(spec.operator) || spec.target === "mean";
  if (!byMeans && spec.unit !== "deviation") return;
  const field = spec.unit === "deviation" ? "unit" : spec.target === "mean" ? "target" : "operator";
  throw invalid(
    `${path}.${field}`,
    `${show(spec[field])} with "${spec.vectors}", a combination of directions without statistics of its own`,
    "Steer by the vectors that it was made of, or choose another one",
  );
}

function planDirection(
  vectors: SteeringVectors,
  source: SiteVectors,
  spec: InterventionSpec,
  path: string,
  weights: Float32Array,
): Omit<PlannedDirection, "intervention"> {
  const units = weights.length;
  const concept = vectors.concepts.indexOf(spec.concept);
  const meanOf = (index: number): Float32Array => part(source.mean, index, vectors.concepts.length);
  const goals = new Float32Array(units);
  if (spec.operator === "replace" || spec.operator === "adjust") {
    const mean = meanOf(concept);
    const minus = spec.minus === null ? undefined : meanOf(vectors.concepts.indexOf(spec.minus));
    const step = mean.map((value, index) => value - (minus?.[index] ?? 0));
    return { step: weighted(step, weights), along: step, weights, goals };
  }
  const raw = rawDirection(vectors, source.site, spec, path);
  const along = unitVectors(raw, weights, `${path}.concept`);
  if (spec.operator === "clamp") {
    const mean = meanOf(concept);
    goals.forEach(
      (_, index) =>
        (goals[index] = spec.target === "mean" ? projection(mean, along, index, units) : (spec.target ?? 0)),
    );
  }
  const scale = (index: number): number => {
    if (spec.unit === "norm") return source.norm[index] ?? NaN;
    return spec.unit === "deviation" ? (source.deviation[concept * units + index] ?? NaN) : 1;
  };
  const step = spec.unit === "raw" ? raw.values : along;
  return {
    step: weighted(
      step,
      weights.map((weight, index) => weight * scale(index)),
    ),
    along,
    weights,
    goals,
  };
}

/**
 * What the means of all concepts span, seen from the concept's own: an orthonormal basis, and the goal's projection on each of its
 * directions. Clamping along one of them leaves the others alone.
 */
function planSpan(
  vectors: SteeringVectors,
  source: SiteVectors,
  spec: InterventionSpec,
  path: string,
  weights: Float32Array,
): readonly Omit<PlannedDirection, "intervention">[] {
  const means = vectors.concepts.map((_, index) => part(source.mean, index, vectors.concepts.length));
  const [concept, minus] = [spec.concept, spec.minus].map((name) => means[vectors.concepts.indexOf(name ?? "")]);
  if (!concept) throw new RangeError(`the plan was checked without "${spec.concept}"`);
  const from =
    minus ?? concept.map((_, place) => means.reduce((sum, mean) => sum + (mean[place] ?? NaN), 0) / means.length);
  const goal = concept.map((value, place) => {
    const base = from[place] ?? NaN;
    return base + (spec.beyond ?? 1) * (value - base);
  });
  const { site, shape } = source;
  const differences = means
    .filter((mean) => mean !== concept)
    .map((mean): Direction => {
      const values = concept.map((value, place) => value - (mean[place] ?? NaN));
      return { name: spec.concept, model: vectors.model, site, shape, values };
    });
  const basis = spanOf(differences);
  if (!basis.some(({ values }) => values.some((value) => value !== 0))) {
    const found = `"span" with "${spec.vectors}", whose ${means.length} concepts have one mean at ${site}`;
    throw invalid(`${path}.operator`, found, "Give vectors of several classes in one file");
  }
  return basis.map(({ values: along }) => {
    const goals = weights.map((_, index) => projection(goal, along, index, weights.length));
    return { step: weighted(along, weights), along, weights, goals };
  });
}

/** The direction of a concept, away from `minus`, without what lies along `without`. */
function rawDirection(vectors: SteeringVectors, site: string, spec: InterventionSpec, path: string): Direction {
  try {
    const concept = conceptDirection(vectors, site, spec.concept);
    const away = spec.minus === null ? concept : difference(concept, conceptDirection(vectors, site, spec.minus));
    if (spec.without.length === 0) return away;
    return projectOut(away, ...spec.without.map((other) => conceptDirection(vectors, site, other)));
  } catch (error) {
    if (error instanceof UsageError) throw invalid(path, `${error.asked}: ${error.found}`, error.todo);
    throw error;
  }
}

/** v̂ for each unit; units of weight 0 may be anything, and are zeros. */
function unitVectors(direction: Direction, weights: Float32Array, path: string): Float32Array {
  const steered = { ...direction, values: direction.values.slice() };
  const width = steered.values.length / weights.length;
  weights.forEach((weight, index) => {
    if (weight === 0) steered.values.fill(1, index * width, (index + 1) * width); // any length but 0
  });
  try {
    return weighted(
      unit(steered).values,
      weights.map((weight) => (weight === 0 ? 0 : 1)),
    );
  } catch (error) {
    if (error instanceof UsageError) throw invalid(path, `at ${direction.site} ${error.found}`, error.todo);
    throw error;
  }
}

/** The weight of every unit of every site. */
function unitWeights(
  sources: readonly { readonly site: string; readonly source: SiteVectors }[],
  weighting: Weighting,
  path: string,
): readonly Float32Array[] {
  const scores = sources.map(({ source }) => source.score);
  if (weighting === "uniform") return scores.map((score) => score.map(() => 1));
  if ("heads" in weighting) return headWeights(sources, weighting.heads, path);
  const all = scores.flatMap((score) => [...score]);
  if ("power" in weighting) {
    const lowest = Math.min(...all);
    const range = Math.max(...all) - lowest;
    if (range === 0) {
      throw invalid(
        `${path}.power`,
        `${all.length} units with one score`,
        'Weights need scores that differ: choose "uniform"',
      );
    }
    return scores.map((score) => score.map((value) => ((value - lowest) / range) ** weighting.power));
  }
  if (weighting.top > all.length)
    throw invalid(`${path}.top`, `${weighting.top} of ${all.length} units`, `Give 1 … ${all.length}`);
  const best = new Set(bestUnits(scores, weighting.top).map(({ site, unit: index }) => `${site} ${index}`));
  return scores.map((score, site) => score.map((_, index) => (best.has(`${site} ${index}`) ? 1 : 0)));
}

/** The units with the highest scores, the earlier one of equals first. */
export function bestUnits(
  scores: readonly Float32Array[],
  count: number,
): readonly { readonly site: number; readonly unit: number; readonly score: number }[] {
  return scores
    .flatMap((score, site) => Array.from(score, (value, index) => ({ site, unit: index, score: value })))
    .toSorted((a, b) => b.score - a.score)
    .slice(0, count);
}

function headWeights(
  sources: readonly { readonly site: string; readonly source: SiteVectors }[],
  heads: readonly (readonly [number, number])[],
  path: string,
): readonly Float32Array[] {
  const weights = sources.map(({ source }) => new Float32Array(source.score.length));
  heads.forEach(([layer, head], number) => {
    const index = sources.findIndex(({ site, source }) => layerOf(site) === layer && source.shape.length === 2);
    const found = weights[index];
    if (!found) {
      const layers = sources.filter(({ source }) => source.shape.length === 2).map(({ site }) => layerOf(site));
      const todo =
        layers.length > 0 ? `The chosen sites with heads are in layers ${layers.join(", ")}` : "Choose hook_z";
      throw invalid(`${path}.heads[${number}]`, `layer ${layer}, where no site with heads is chosen`, todo);
    }
    if (head >= found.length) {
      throw invalid(`${path}.heads[${number}]`, `head ${head} of ${found.length}`, `Give 0 … ${found.length - 1}`);
    }
    found[head] = 1;
  });
  return weights;
}

/** Steps at a site in the order of the spec; the convex ones of one segment are joint, where the first of them stands. */
function planSteps(
  directions: readonly PlannedDirection[],
  interventions: readonly PlannedIntervention[],
): readonly PlannedStep[] {
  const steps: { readonly step: PlannedStep; readonly segment: number; readonly directions: PlannedDirection[] }[] = [];
  for (const direction of directions) {
    const planned = interventions[direction.intervention];
    if (!planned) continue;
    const { spec, segment, path } = planned;
    const joint = steps.find(
      (other) => spec.operator === "convex" && other.step.operator === "convex" && other.segment === segment,
    );
    if (joint) {
      if (joint.step.restoreNorm !== spec.restoreNorm) {
        const found = `${spec.restoreNorm}, while another convex intervention at the same site has ${joint.step.restoreNorm}`;
        throw invalid(`${path}.restoreNorm`, found, "They are one joint step: give both the same");
      }
      joint.directions.push(direction);
      continue;
    }
    const together = [direction];
    const { operator, restoreNorm } = spec;
    steps.push({ step: { operator, restoreNorm, directions: together }, segment, directions: together });
  }
  return steps.map(({ step }) => step);
}

function weighted(values: Float32Array, weights: Float32Array): Float32Array {
  const width = values.length / weights.length;
  return values.map((value, index) => value * (weights[Math.floor(index / width)] ?? NaN));
}

function part(values: Float32Array, index: number, parts: number): Float32Array {
  const size = values.length / parts;
  return values.subarray(index * size, (index + 1) * size);
}

/** µ · v̂ of one unit. */
function projection(mean: Float32Array, along: Float32Array, index: number, units: number): number {
  const direction = part(along, index, units);
  return part(mean, index, units).reduce((total, value, place) => total + value * (direction[place] ?? NaN), 0);
}
