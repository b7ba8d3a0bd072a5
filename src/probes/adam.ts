import { UsageError } from "../errors.js";
import { uniformStream } from "../runtime/random.js";
import { conceptsOf, type Target, type Training } from "./data.js";
import { multiply, product, type Matrix } from "./linear-algebra.js";
import { probeMoments } from "./moments.js";
import type { Probe } from "./probe.js";

/**
 * The probe of arXiv 2506.10225 as published: no bias, rows of Euclidean length 1 (which is the data set's matter), Adam
 * (Kingma and Ba 2015) on the full batch, no weight decay, no early stopping. Repaired: targets are one column per class.
 * The released code regresses every output on the ordinal class index, which makes the directions of all classes one.
 */
export interface AdamOptions {
  readonly loss?: "mse" | "cross-entropy";
  /** With mean squared error: an indicator {0, 1} per class, or ±1. */
  readonly targets?: "one-hot" | "signed";
  readonly learningRate?: number;
  readonly epochs?: number;
  /** Weights to start from [C, d]; without them uniform in ±1/√d as PyTorch's linear layer, seeded. */
  readonly start?: Float64Array;
}

const [BETA_1, BETA_2, EPSILON] = [0.9, 0.999, 1e-8];

/**
 * Fits one output per class, or one for a number, which is standardised first.
 *
 * @throws {UsageError} if a number is asked for with cross-entropy, or an option is out of range.
 */
export async function fitAdam(training: Training, options: AdamOptions = {}): Promise<Probe> {
  const { x, target, seed } = training;
  const { loss = "mse", targets = "one-hot", learningRate = 5e-3, epochs = 250 } = options;
  if (target.kind === "value" && loss === "cross-entropy") {
    throw new UsageError({
      asked: `cross-entropy for "${target.label}"`,
      found: "numbers",
      todo: "Probe for classes, or use the squared error",
    });
  }
  if (!(learningRate > 0) || !Number.isInteger(epochs) || epochs < 1) {
    throw new UsageError({
      asked: `Adam with learning rate ${learningRate} for ${epochs} epochs`,
      found: "a rate or a number of epochs that is not positive",
      todo: "The published values are 0.005 and 250",
    });
  }
  const concepts = conceptsOf(target);
  const uniforms = uniformStream(seed, 2);
  const bound = 1 / Math.sqrt(x.columns);
  const weights = Float64Array.from(
    options.start ?? { length: concepts.length * x.columns },
    (value: number | undefined) => value ?? bound * (2 * uniforms() - 1),
  );
  const { columns, mean, deviation } = wantedOutputs(target, targets);
  const gradientAt =
    loss === "mse" ? await squaredError(x, columns, concepts.length) : crossEntropy(x, target, concepts.length);

  const first = new Float64Array(weights.length);
  const second = new Float64Array(weights.length);
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const gradient = await gradientAt(weights);
    const [correction1, correction2] = [1 - BETA_1 ** epoch, 1 - BETA_2 ** epoch];
    for (let index = 0; index < weights.length; index++) {
      const slope = gradient[index] ?? 0;
      const one = BETA_1 * (first[index] ?? 0) + (1 - BETA_1) * slope;
      const two = BETA_2 * (second[index] ?? 0) + (1 - BETA_2) * slope * slope;
      first[index] = one;
      second[index] = two;
      const step = (learningRate * (one / correction1)) / (Math.sqrt(two / correction2) + EPSILON);
      weights[index] = (weights[index] ?? 0) - step;
    }
  }
  return {
    concepts,
    width: x.columns,
    directions: weights,
    gain: new Float64Array(concepts.length).fill(deviation),
    bias: new Float64Array(concepts.length).fill(mean),
    settings: { loss, targets: loss === "mse" ? targets : "classes", learningRate, epochs },
  };
}

/** One column per output [C, rows]; a number standardised, and what takes it back. */
function wantedOutputs(
  target: Target,
  targets: "one-hot" | "signed",
): { readonly columns: Float64Array; readonly mean: number; readonly deviation: number } {
  if (target.kind === "value") {
    const { values } = target;
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) || 1;
    return { columns: values.map((value) => (value - mean) / deviation), mean, deviation };
  }
  const { names, classes } = target;
  const columns = new Float64Array(names.length * classes.length);
  for (let index = 0; index < columns.length; index++) {
    const isOwn = classes[index % classes.length] === Math.floor(index / classes.length);
    columns[index] = isOwn ? 1 : targets === "signed" ? -1 : 0;
  }
  return { columns, mean: 0, deviation: 1 };
}

type Gradient = (weights: Float64Array) => Promise<Float64Array>;

/**
 * The gradient of the mean over rows and outputs of (w·x − y)²: 2/(nC) (W XᵀX − Yᵀ X). XᵀX is computed once, so an epoch
 * costs d² whatever the number of rows.
 */
async function squaredError(x: Matrix, columns: Float64Array, outputs: number): Promise<Gradient> {
  const { rows, columns: d } = x;
  const { scatter, cross, mean, targetMean } = await probeMoments(x, columns, {
    precision: rows * d * d > 2e7 ? "float32" : "float64",
  });
  const products = scatter.map((value, index) => {
    return value + rows * (mean[Math.floor(index / d)] ?? 0) * (mean[index % d] ?? 0);
  });
  const sides = cross.map((value, index) => {
    return value + rows * (targetMean[Math.floor(index / d)] ?? 0) * (mean[index % d] ?? 0);
  });
  const factor = 2 / (rows * outputs);
  return async (weights) => {
    const gradient = new Float64Array(weights.length);
    for (let output = 0; output < outputs; output++) {
      const image = multiply(products, d, weights.subarray(output * d, (output + 1) * d));
      image.forEach(
        (value, index) => (gradient[output * d + index] = factor * (value - (sides[output * d + index] ?? 0))),
      );
    }
    return gradient;
  };
}

/** The gradient of the mean over rows of −log softmax(W x) at the row's class. */
function crossEntropy(x: Matrix, target: Target, outputs: number): Gradient {
  const classes = target.kind === "classes" ? target.classes : new Int32Array(x.rows);
  return async (weights) => {
    const matrix = { rows: outputs, columns: x.columns, values: Float32Array.from(weights) };
    const logits = await product(x, matrix, { transposeB: true });
    const residuals = new Float32Array(logits.values.length);
    classes.forEach((own, row) => {
      const mine = logits.values.subarray(row * outputs, (row + 1) * outputs);
      const top = mine.reduce((a, b) => Math.max(a, b), -Infinity);
      const sum = mine.reduce((a, b) => a + Math.exp(b - top), 0);
      mine.forEach((value, output) => {
        residuals[row * outputs + output] = Math.exp(value - top) / sum - (output === own ? 1 : 0);
      });
    });
    const slopes = await product({ rows: x.rows, columns: outputs, values: residuals }, x, { transposeA: true });
    return Float64Array.from(slopes.values, (value) => value / x.rows);
  };
}
