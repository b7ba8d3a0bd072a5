import { uniformStream } from "../runtime/random.js";
import { conceptsOf, type Training } from "./data.js";
import { dot, unit } from "./linear-algebra.js";
import { meanDifferences } from "./means.js";
import { calibrate, type Probe } from "./probe.js";

/**
 * The control that every direction has to beat: a direction drawn at random, as long as the difference of means, so that
 * steering with it moves activations as far.
 */
export async function fitRandom({ x, target, seed }: Training): Promise<Probe> {
  const references = meanDifferences(x, target);
  const concepts = conceptsOf(target).length;
  const directions = new Float64Array(concepts * x.columns);
  for (let concept = 0; concept < concepts; concept++) {
    const reference = references.subarray(concept * x.columns, (concept + 1) * x.columns);
    const length = Math.sqrt(dot(reference, reference));
    const own = randomDirection(x.columns, seed, concept);
    directions.set(
      own.map((value) => value * length),
      concept * x.columns,
    );
  }
  return calibrate(directions, x, target, { seed });
}

/** A unit vector uniform over all directions: normal numbers (Box and Muller), normalised. */
export function randomDirection(width: number, seed: number, index: number): Float64Array {
  const uniforms = uniformStream(seed, 1000 + index);
  return unit(
    Float64Array.from({ length: width }, () => {
      return Math.sqrt(-2 * Math.log(1 - uniforms())) * Math.cos(2 * Math.PI * uniforms());
    }),
  );
}
