import { UsageError } from "../errors.js";
import { conceptsOf, targetColumns, type Target } from "./data.js";
import { dot, type Matrix } from "./linear-algebra.js";

/**
 * A linear reading of one unit's activations: a direction per concept. For classes the concept with the highest score
 * wins; for a number the one score is the prediction.
 */
export interface Probe {
  readonly concepts: readonly string[]; // C
  readonly width: number; // d
  readonly directions: Float64Array; // [C, d], in the units of the activations
  readonly gain: Float64Array; // [C]: score = gain · (direction · x) + bias
  readonly bias: Float64Array; // [C]
  readonly settings: Readonly<Record<string, string | number | boolean>>;
}

/** Scores of rows: [rows, C]. */
export function scoresOf({ concepts, width, directions, gain, bias }: Probe, x: Matrix): Float64Array {
  if (x.columns !== width) {
    throw new UsageError({
      asked: `score rows of ${x.columns} features`,
      found: `a probe of ${width}`,
      todo: "Use a probe fitted at this site of this model",
    });
  }
  const scores = new Float64Array(x.rows * concepts.length);
  for (let row = 0; row < x.rows; row++) {
    const own = x.values.subarray(row * width, (row + 1) * width);
    for (let concept = 0; concept < concepts.length; concept++) {
      const projection = dot(directions.subarray(concept * width, (concept + 1) * width), own);
      scores[row * concepts.length + concept] = (gain[concept] ?? 1) * projection + (bias[concept] ?? 0);
    }
  }
  return scores;
}

/** Weights of target columns, as {@link targetColumns} makes them, as a probe with a direction for every concept. */
export function probeOfColumns(
  target: Target,
  weights: Float64Array,
  bias: Float64Array,
  settings: Probe["settings"],
  /** What the scores of two classes add up to: 1 for least squares on {0, 1}, 0 for logits. */
  total = 1,
): Probe {
  const concepts = conceptsOf(target);
  const width = weights.length / bias.length;
  const gain = new Float64Array(concepts.length).fill(1);
  if (concepts.length !== 2) return { concepts, width, directions: weights, gain, bias, settings };
  const directions = new Float64Array(2 * width);
  directions.set(weights.map((value) => -value));
  directions.set(weights, width);
  const second = bias[0] ?? 0;
  return { concepts, width, directions, gain, bias: Float64Array.of(total - second, second), settings };
}

/**
 * Makes a probe of directions that come without a threshold (means, principal components, random ones): along each
 * direction a regression on one number, least squares of the class's indicator, or of the label's value.
 *
 * @param directions one per concept: [C, d]
 */
export function calibrate(directions: Float64Array, x: Matrix, target: Target, settings: Probe["settings"]): Probe {
  const concepts = conceptsOf(target);
  const { rows, columns: width } = x;
  const gain = new Float64Array(concepts.length);
  const bias = new Float64Array(concepts.length);
  const columns = targetColumns(target);
  for (let concept = 0; concept < concepts.length; concept++) {
    const direction = directions.subarray(concept * width, (concept + 1) * width);
    const projections = projectionsOf(x, direction);
    const mean = projections.reduce((sum, value) => sum + value, 0) / rows;
    // Of two classes the first's indicator is one minus the second's.
    const mirrored = concepts.length === 2 && concept === 0;
    const column = columns.count === 1 ? 0 : concept;
    const wanted = columns.values.subarray(column * rows, (column + 1) * rows);
    const expected = wanted.map((value) => (mirrored ? 1 - value : value));
    const average = expected.reduce((sum, value) => sum + value, 0) / rows;
    let [shared, spread] = [0, 0];
    projections.forEach((value, row) => {
      shared += (value - mean) * ((expected[row] ?? 0) - average);
      spread += (value - mean) ** 2;
    });
    gain[concept] = spread === 0 ? 0 : shared / spread;
    bias[concept] = average - (gain[concept] ?? 0) * mean;
  }
  return { concepts, width, directions, gain, bias, settings };
}

/** x · direction for every row: [rows] */
export function projectionsOf({ rows, columns, values }: Matrix, direction: Float64Array): Float64Array {
  return Float64Array.from({ length: rows }, (_, row) =>
    dot(direction, values.subarray(row * columns, (row + 1) * columns)),
  );
}

/** Cosine of the angle between two directions; 0 where one of them is zero. */
export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const norms = Math.sqrt(dot(a, a) * dot(b, b));
  return norms === 0 ? 0 : dot(a, b) / norms;
}
