import { UsageError } from "../errors.js";
import { uniformStream } from "../runtime/random.js";
import { conceptsOf, type Training } from "./data.js";
import { topEigenpair } from "./eigenpair.js";
import { addScaled, dot, unit, type Matrix } from "./linear-algebra.js";
import { sidesOf } from "./means.js";
import { calibrate, type Probe } from "./probe.js";
import { shuffled } from "./splits.js";

/**
 * The first principal component of paired differences (representation engineering, arXiv 2310.01405): each row of a
 * concept minus a row without it, the pairs being the caller's or drawn at random.
 *
 * Principal components are those of centred data, and centring would remove what all differences share, which is what is
 * sought. So each difference gets a sign at random first (as MusicRFM's code, arXiv 2510.19127). The sign of the result is
 * that of most pairs.
 */
export interface PcaOptions {
  /** Pairs [with, without] of rows for each concept. */
  readonly pairs?: readonly (readonly (readonly [number, number])[])[];
}

/** One unit direction per concept. */
export async function fitPca({ x, target, seed }: Training, { pairs }: PcaOptions = {}): Promise<Probe> {
  const concepts = conceptsOf(target).length;
  const directions = new Float64Array(concepts * x.columns);
  const sides = sidesOf(target);
  for (let concept = 0; concept < concepts; concept++) {
    const { towards = new Int32Array(), away = new Int32Array() } = sides[concept] ?? {};
    const own = pairs?.[concept] ?? drawPairs(towards, away, seed + concept);
    directions.set(principalDirection(differences(x, own), randomSigns(own.length, seed)), concept * x.columns);
  }
  return calibrate(directions, x, target, { seed, pairs: pairs ? "given" : "random" });
}

/** As many pairs as the longer side has rows; those of the shorter come round again. */
function drawPairs(towards: Int32Array, away: Int32Array, seed: number): readonly (readonly [number, number])[] {
  const [left, right] = [shuffled([...towards], seed), shuffled([...away], seed + 1)];
  return Array.from({ length: Math.max(left.length, right.length) }, (_, index) => {
    return [left[index % left.length] ?? 0, right[index % right.length] ?? 0] as const;
  });
}

function differences({ columns, values }: Matrix, pairs: readonly (readonly [number, number])[]): Matrix {
  const result = new Float32Array(pairs.length * columns);
  pairs.forEach(([one, other], pair) => {
    for (let index = 0; index < columns; index++) {
      result[pair * columns + index] = (values[one * columns + index] ?? 0) - (values[other * columns + index] ?? 0);
    }
  });
  return { rows: pairs.length, columns, values: result };
}

function randomSigns(count: number, seed: number): Float64Array {
  const uniforms = uniformStream(seed, 3);
  return Float64Array.from({ length: count }, () => (uniforms() < 0.5 ? -1 : 1));
}

/**
 * The top eigenvector of the covariance of signed differences, pointing the way of most differences: unit length, [d].
 *
 * @throws {UsageError} if there are fewer than two pairs, or they all are the same.
 */
export function principalDirection(pairs: Matrix, signs: Float64Array): Float64Array {
  const { rows, columns, values } = pairs;
  const rowOf = (row: number): Float32Array => values.subarray(row * columns, (row + 1) * columns);
  const mean = new Float64Array(columns);
  for (let row = 0; row < rows; row++) addScaled(mean, rowOf(row), (signs[row] ?? 1) / rows);
  const apply = (v: Float64Array): Float64Array => {
    const image = new Float64Array(columns);
    const offset = dot(v, mean);
    for (let row = 0; row < rows; row++) {
      const sign = signs[row] ?? 1;
      const weight = (sign * dot(v, rowOf(row)) - offset) / rows;
      addScaled(image, rowOf(row), sign * weight);
      addScaled(image, mean, -weight);
    }
    return image;
  };
  // The rows' own signed sum might be near zero; the first row with a random tilt is not orthogonal to anything.
  const start = Float64Array.from(rowOf(0));
  const uniforms = uniformStream(1, 4);
  const length = Math.sqrt(dot(start, start)) || 1;
  const { value, vector } = topEigenpair(
    apply,
    start.map((entry) => entry / length + 0.01 * (uniforms() - 0.5)),
  );
  if (rows < 2 || !(value > 0)) {
    throw new UsageError({
      asked: "find the principal component of paired differences",
      found: rows < 2 ? `${rows} pair` : "differences that are all the same",
      todo: "Capture more rows of each class, or use means",
    });
  }
  let votes = 0;
  for (let row = 0; row < rows; row++) votes += Math.sign(dot(vector, rowOf(row)));
  return unit(votes < 0 ? vector.map((entry) => -entry) : vector);
}
