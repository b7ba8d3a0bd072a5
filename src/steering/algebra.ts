import { CheckpointError, UsageError } from "../errors.js";
import { directionOf, type SteeringVectors } from "../probes/vectors.js";

/**
 * Algebra of directions. A site with heads has one direction for each head: norms, projections and orthogonality are
 * taken head by head. Everything is on the host and in float64 until it is stored.
 */

/** A direction at one site of one model. */
export interface Direction {
  readonly name: string; // for errors: "jazz", "jazz − rock"
  readonly model: string; // fingerprint of the weights
  readonly site: string;
  readonly shape: readonly number[]; // [D], or [H, Dh]
  readonly values: Float32Array; // D, or H · Dh
}

/** The direction of a concept at a site, as the file has it. @throws {CheckpointError} if there is none. */
export function conceptDirection(vectors: SteeringVectors, site: string, concept: string): Direction {
  const values = directionOf(vectors, site, concept);
  const shape = vectors.sites.get(site)?.shape ?? [values.length];
  return { name: concept, model: vectors.model, site, shape, values };
}

/** a + b + … @throws {CheckpointError} if they are of different models or sites. */
export function sum(first: Direction, ...others: readonly Direction[]): Direction {
  others.forEach((other) => requireAlike(first, other));
  const values = first.values.map((value, index) =>
    others.reduce((total, { values: v }) => total + at(v, index), value),
  );
  return { ...first, name: [first, ...others].map(({ name }) => name).join(" + "), values };
}

/** factor · a */
export function scale(direction: Direction, factor: number): Direction {
  const values = direction.values.map((value) => factor * value);
  return { ...direction, name: `${factor} ${direction.name}`, values };
}

/** −a */
export function negate(direction: Direction): Direction {
  return { ...scale(direction, -1), name: `− ${direction.name}` };
}

/**
 * From one concept to another: target / ‖target‖ − source / ‖source‖, each head for itself.
 *
 * @throws {CheckpointError} if they are of different models or sites; {@link UsageError} if one of them is zero.
 */
export function difference(target: Direction, source: Direction): Direction {
  return { ...sum(unit(target), negate(unit(source))), name: `${target.name} − ${source.name}` };
}

/**
 * (1 − t) · a + t · b
 *
 * @throws {CheckpointError} if they are of different models or sites; {@link UsageError} if t is not finite.
 */
export function interpolate(a: Direction, b: Direction, t: number): Direction {
  if (!Number.isFinite(t)) {
    throw new UsageError({
      asked: `interpolate from ${a.name} to ${b.name}`,
      found: `t = ${t}`,
      todo: "Give a finite t: 0 is the first direction, 1 the second",
    });
  }
  return sum(scale(a, 1 - t), scale(b, t));
}

/**
 * What of a direction lies in none of the others: the others are made orthonormal first, so that their order is of no
 * matter.
 *
 * @throws {UsageError} if nothing is left; {@link CheckpointError} if they are of different models or sites.
 */
export function projectOut(direction: Direction, ...others: readonly Direction[]): Direction {
  const rest = gramSchmidt([...others, direction]).at(-1);
  if (rest === undefined) return direction;
  return { ...rest, name: `${direction.name} without ${others.map(({ name }) => name).join(", ")}` };
}

/**
 * Gram–Schmidt with priority: the first direction stays as it is, each next one loses what the ones before it have, so
 * that steering by it leaves their projections alone. Lengths are kept as they come out, not normalised.
 *
 * @throws {UsageError} if one of them is a combination of those before it; {@link CheckpointError} if they are of different models
 *   or sites.
 */
export function gramSchmidt(byPriority: readonly Direction[]): readonly Direction[] {
  const bases: Float64Array[][] = []; // of each direction so far, its unit vectors by unit
  return byPriority.map((direction) => {
    const [first = direction] = byPriority;
    requireAlike(first, direction);
    const parts = splitUnits(direction).map((part, index) => {
      const rest = restOf(
        part,
        bases.map((basis) => basis[index]),
      );
      if (rest) return rest;
      throw new UsageError({
        asked: `take the directions before it out of ${direction.name} at ${direction.site}`,
        found: length(part) === 0 ? "a direction of zeros" : "nothing is left: it is made of them",
        todo: "Leave one of these directions away",
      });
    });
    bases.push(parts.map(normalized));
    return { ...direction, values: joinUnits(parts) };
  });
}

/**
 * An orthonormal basis of what directions span, each head for itself: as many directions as are given. One that is made of those before
 * it, as the last ones of a head narrower than their number are, adds nothing: there it is zeros.
 *
 * @throws {CheckpointError} if they are of different models or sites.
 */
export function spanOf(directions: readonly Direction[]): readonly Direction[] {
  const bases: Float64Array[][] = [];
  return directions.map((direction) => {
    const [first = direction] = directions;
    requireAlike(first, direction);
    const parts = splitUnits(direction).map((part, index) => {
      const before = bases.map((basis) => basis[index]);
      const rest = restOf(part, before);
      return rest ? normalized(rest) : new Float64Array(part.length);
    });
    bases.push(parts);
    return { ...direction, name: `the span of ${first.name}, …`, values: joinUnits(parts) };
  });
}

/** a / ‖a‖, each head for itself. @throws {UsageError} if a head's direction, or the only one, is zero. */
export function unit(direction: Direction): Direction {
  const parts = splitUnits(direction).map((part, index) => {
    if (length(part) > 0) return normalized(part);
    throw new UsageError({
      asked: `normalise the direction ${direction.name} at ${direction.site}`,
      found: direction.shape.length === 2 ? `zeros for head ${index}` : "zeros",
      todo: "A direction of zeros points nowhere: fit the probe again, or leave it away",
    });
  });
  return { ...direction, values: joinUnits(parts) };
}

/** Cosine of the angle between two directions: one number for each head, or the only one. @throws {CheckpointError} */
export function cosine(a: Direction, b: Direction): readonly number[] {
  requireAlike(a, b);
  const others = splitUnits(b);
  return splitUnits(a).map((part, index) => {
    const other = others[index] ?? part;
    return dot(part, other) / (length(part) * length(other));
  });
}

/** Euclidean norm: one number for each head, or the only one. */
export function norms(direction: Direction): readonly number[] {
  return splitUnits(direction).map(length);
}

/** Estimator of vectors made by {@link combine}: they have a direction, but no probe, mean or deviation of their own. */
export const COMBINATION = "combination";

/**
 * Vectors with one new concept, made at every site from the directions of those there are; to be saved with
 * `writeVectors`. They can be steered by in the units "unit", "raw" and "norm".
 *
 * @param make gets the direction of a concept by name
 */
export function combine(
  vectors: SteeringVectors,
  concept: string,
  make: (of: (concept: string) => Direction) => Direction,
): SteeringVectors {
  const sites = [...vectors.sites.values()].map((found) => {
    const { name, values } = make((other) => conceptDirection(vectors, found.site, other));
    const units = found.norm.length;
    return {
      name,
      vectors: {
        ...found,
        directions: values,
        gain: new Float32Array(units).fill(1),
        bias: new Float32Array(units),
        deviation: new Float32Array(units),
        mean: new Float32Array(values.length),
      },
    };
  });
  return {
    ...vectors,
    concepts: [concept],
    estimator: COMBINATION,
    settings: { ...vectors.settings, of: vectors.estimator, made: sites[0]?.name ?? "" },
    sites: new Map(sites.map((made) => [made.vectors.site, made.vectors])),
  };
}

const PARALLEL = 1e-6; // less than this part of a float32 direction is rounding

function requireAlike(a: Direction, b: Direction): void {
  const asked = `combine the directions ${a.name} and ${b.name}`;
  const refuse = (found: string, todo: string): never => {
    throw new CheckpointError({ asked, found, todo });
  };
  if (a.model !== b.model) {
    refuse(
      `one of the model ${a.model.slice(0, 12)} and one of ${b.model.slice(0, 12)}`,
      "Directions of two models have nothing in common: fit both on activations of one",
    );
  }
  if (a.site !== b.site) refuse(`one at ${a.site} and one at ${b.site}`, "Take both at one site");
  if (a.shape.join() !== b.shape.join()) {
    refuse(`shapes [${a.shape.join(", ")}] and [${b.shape.join(", ")}]`, "Take both of one file");
  }
}

/** One part for each head of [H, Dh]; the whole for [D]. Views. */
function splitUnits({ shape, values }: Direction): readonly Float32Array[] {
  const width = shape.at(-1) ?? values.length;
  return Array.from({ length: values.length / width }, (_, index) =>
    values.subarray(index * width, (index + 1) * width),
  );
}

function joinUnits(parts: readonly Float64Array[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

/** What of a vector lies in none of orthonormal ones; undefined where that is nothing but rounding. */
function restOf(vector: ArrayLike<number>, bases: readonly (Float64Array | undefined)[]): Float64Array | undefined {
  const rest = Float64Array.from(vector);
  // Twice: the first pass leaves rounding behind where directions are nearly parallel.
  for (let pass = 0; pass < 2; pass++) bases.forEach((basis) => subtractProjection(rest, basis));
  return length(rest) > PARALLEL * length(vector) ? rest : undefined;
}

function subtractProjection(vector: Float64Array, basis: Float64Array | undefined): void {
  if (!basis) return;
  const along = dot(vector, basis);
  vector.forEach((value, index) => (vector[index] = value - along * at(basis, index)));
}

function normalized(vector: ArrayLike<number>): Float64Array {
  const norm = length(vector);
  return Float64Array.from(vector, (value) => value / norm);
}

function length(vector: ArrayLike<number>): number {
  return Math.sqrt(dot(vector, vector));
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let total = 0;
  for (let index = 0; index < a.length; index++) total += at(a, index) * at(b, index);
  return total;
}

function at(values: ArrayLike<number>, index: number): number {
  return values[index] ?? NaN;
}
