import { randomDirection } from "../probes/random.js";
import type { SiteVectors, SteeringVectors } from "../probes/vectors.js";
import { uniformStream } from "../runtime/random.js";
import { spanOf, type Direction } from "../steering/algebra.js";
import type { PushNorms } from "./push.js";

/** The control that every direction has to beat: one that only chance has chosen, and that moves activations as far. */

/**
 * The same vectors with random directions of the same norms, and with the class means turned into a random span: seen from one of them they
 * lie as far off and as far from each other as before, in as many directions; only which ones these are is drawn. Each head for itself.
 *
 * @param options.from the class whose mean stays where it is; null: the mean of all means does
 * @throws {TypeError} if there is no such class
 */
export function randomized(
  vectors: SteeringVectors,
  { seed = 1, from = null }: { readonly seed?: number; readonly from?: string | null } = {},
): SteeringVectors {
  const source = from === null ? null : vectors.concepts.indexOf(from);
  if (source !== null && source < 0) throw new TypeError(`there is no mean of ${from}`);
  const sites = [...vectors.sites.values()].map((found, number) => {
    const directions = randomDirections(found, seed, number);
    return [found.site, { ...found, directions, mean: randomMeans(vectors, found, source, seed, number) }] as const;
  });
  return { ...vectors, estimator: "random", sites: new Map(sites) };
}

/**
 * Random directions of given lengths, as vectors of one concept at the sites that have lengths: to be added as they are.
 *
 * @throws {TypeError} if there are no vectors at one of these sites
 */
export function randomOfLengths(
  vectors: SteeringVectors,
  concept: string,
  norms: PushNorms,
  seed = 1,
): SteeringVectors {
  const sites = Object.entries(norms).map(([site, lengths], number) => {
    const found = vectors.sites.get(site);
    if (!found) throw new TypeError(`there are no vectors at ${site}`);
    const width = found.shape.at(-1) ?? 1;
    const units = lengths.length;
    const directions = Float32Array.from(
      lengths.flatMap((length, unit) =>
        [...randomDirection(width, seed, 64 * number + unit)].map((value) => value * length),
      ),
    );
    const none = { gain: new Float32Array(units), bias: new Float32Array(units), deviation: new Float32Array(units) };
    return [site, { ...found, ...none, directions, mean: new Float32Array(directions.length) }] as const;
  });
  return { ...vectors, concepts: [concept], estimator: "random", sites: new Map(sites) };
}

function randomDirections(found: SiteVectors, seed: number, number: number): Float32Array {
  const uniform = uniformStream(seed, number);
  const gaussian = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const width = found.shape.at(-1) ?? 1;
  const directions = Float32Array.from(found.directions, gaussian);
  for (let start = 0; start < directions.length; start += width) {
    const own = directions.subarray(start, start + width);
    const factor = Math.hypot(...found.directions.subarray(start, start + width)) / Math.hypot(...own);
    own.forEach((value, place) => (own[place] = value * factor));
  }
  return directions;
}

function randomMeans(
  { concepts, model }: SteeringVectors,
  { site, shape, mean }: SiteVectors,
  source: number | null,
  seed: number,
  number: number,
): Float32Array {
  const size = mean.length / concepts.length;
  const width = shape.at(-1) ?? size;
  const means = concepts.map((_, index) => mean.subarray(index * size, (index + 1) * size));
  const centre = (place: number): number => means.reduce((sum, one) => sum + (one[place] ?? NaN), 0) / means.length;
  const fixed =
    (source === null ? undefined : means[source]) ?? Float32Array.from({ length: size }, (_, at) => centre(at));
  const direction = (name: string, values: Float32Array): Direction => ({ name, model, site, shape, values });
  const differences = means.map((one, index) => {
    const values = one.map((value, place) => value - (fixed[place] ?? NaN));
    return direction(concepts[index] ?? "", values);
  });
  const random = spanOf(
    differences.map(({ name }, index) => {
      const drawn = Array.from({ length: size / width }, (_, head) => 64 * (64 * number + index) + head);
      return direction(name, Float32Array.from(drawn.flatMap((own) => [...randomDirection(width, seed, own)])));
    }),
  );
  const basis = spanOf(differences);
  return Float32Array.from(
    differences.flatMap(({ values }) =>
      [...turned(values, basis, random, width)].map((value, place) => value + (fixed[place] ?? NaN)),
    ),
  );
}

/** A vector's coordinates along one basis, taken along another, each head for itself. */
function turned(
  values: Float32Array,
  basis: readonly Direction[],
  other: readonly Direction[],
  width: number,
): Float32Array {
  const out = new Float32Array(values.length);
  for (let start = 0; start < values.length; start += width) {
    const part = (all: Float32Array): Float32Array => all.subarray(start, start + width);
    const into = part(out);
    basis.forEach((one, index) => {
      const own = part(one.values);
      const along = part(values).reduce((sum, value, place) => sum + value * (own[place] ?? NaN), 0);
      part(other[index]?.values ?? own).forEach((value, place) => (into[place] = (into[place] ?? NaN) + along * value));
    });
  }
  return out;
}
