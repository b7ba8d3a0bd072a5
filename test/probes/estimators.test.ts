import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { fitAdam } from "../../src/probes/adam.js";
import { fitCovariance } from "../../src/probes/covariance.js";
import { groupsOf, takeGroups, takeTarget, type ClassTarget, type Training } from "../../src/probes/data.js";
import { takeRows } from "../../src/probes/linear-algebra.js";
import { fitLogistic } from "../../src/probes/logistic.js";
import { fitMeans } from "../../src/probes/means.js";
import { fitPca, principalDirection } from "../../src/probes/pca.js";
import { cosine, scoresOf, type Probe } from "../../src/probes/probe.js";
import { fitRandom, randomDirection } from "../../src/probes/random.js";
import { fitRfm, rfmTurn, topDirection } from "../../src/probes/rfm.js";
import { fitRidge, ridgeFromRows } from "../../src/probes/ridge.js";
import { ESTIMATORS, estimatorNamed } from "../../src/probes/sweep.js";
import { uniformStream } from "../../src/runtime/random.js";
import { describeOnEachBackend } from "../support/backends.js";
import { binary, classes, goldens, trainingOn, values, x } from "./goldens.js";

/** The direction of the last concept: of two classes the one that has weights of its own. */
function last({ directions, width }: Probe): Float64Array {
  return directions.slice(-width);
}

/** Rows of two classes that differ along a known unit direction alone, 8 rows a group. */
function planted(
  width: number,
  rows: number,
  seed: number,
): { readonly training: Training; readonly truth: Float64Array } {
  const truth = randomDirection(width, seed, 7);
  const uniforms = uniformStream(seed, 8);
  const labels = Int32Array.from({ length: rows }, (_, row) => Math.floor(row / 8) % 2);
  const features = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    for (let index = 0; index < width; index++) {
      const noise = Math.sqrt(-2 * Math.log(1 - uniforms())) * Math.cos(2 * Math.PI * uniforms()) * 0.5;
      features[row * width + index] = 5 + noise + (labels[row] === 1 ? 1 : -1) * (truth[index] ?? 0);
    }
  }
  const target: ClassTarget = { kind: "classes", label: "planted", names: ["no", "yes"], classes: labels };
  const groups = groupsOf(Array.from(labels, (_, row) => `track ${Math.floor(row / 8)}`));
  return { training: { x: { rows, columns: width, values: features }, target, groups, seed: 3 }, truth };
}

describeOnEachBackend("estimators of probes", () => {
  for (const [name, target] of [
    ["classes", classes],
    ["values", values],
  ] as const) {
    it(`ridge equals scikit-learn's for ${name}`, async () => {
      const expected = goldens.ridge[name];
      const probe = await fitRidge(trainingOn(target), { penalties: [expected.penalty] });
      expect(probe.directions).toBeAllClose(expected.weights, { within: 1e-5 });
      expect(probe.bias).toBeAllClose(expected.bias, { within: 1e-4 });
    });
  }

  it("ridge of two classes has opposite directions, scores that add up to 1, and scikit-learn's weights", async () => {
    const expected = goldens.ridge.binary;
    const probe = await fitRidge(trainingOn(binary), { penalties: [expected.penalty] });
    expect(last(probe)).toBeAllClose(expected.weights, { within: 1e-5 });
    const scores = scoresOf(probe, x);
    for (let row = 0; row < x.rows; row++) {
      expect((scores[2 * row] ?? 0) + (scores[2 * row + 1] ?? 0)).toBeCloseTo(1, 9);
    }
  });

  it("ridge through products of rows equals ridge through products of features", async () => {
    const { penalty, weights, bias } = goldens.ridge.values;
    const [solution] = await ridgeFromRows(x, values.values, [penalty], true);
    expect(solution?.weights ?? []).toBeAllClose(weights, { within: 1e-4 });
    expect(solution?.bias ?? []).toBeAllClose(bias, { within: 1e-3 });
  });

  for (const [name, target] of [
    ["classes", classes],
    ["binary", binary],
  ] as const) {
    it(`logistic regression equals scikit-learn's for ${name}`, async () => {
      const expected = goldens.logistic[name];
      const probe = await fitLogistic(trainingOn(target), { penalties: [expected.penalty] });
      const weights = name === "binary" ? last(probe) : probe.directions;
      expect(weights).toBeAllClose(expected.weights, { within: 1e-4 });
      const own = name === "binary" ? probe.bias.slice(1) : probe.bias;
      const mean = name === "binary" ? 0 : own.reduce((a, b) => a + b, 0) / own.length;
      expect(own.map((value) => value - mean)).toBeAllClose(expected.bias, { within: 1e-4 });
    });
  }

  it("Adam ends where NumPy's ends after 250 epochs from the same start", async () => {
    const rows = Float32Array.from(x.values);
    for (let row = 0; row < x.rows; row++) {
      const own = rows.subarray(row * x.columns, (row + 1) * x.columns);
      const length = Math.sqrt(own.reduce((sum, value) => sum + value * value, 0));
      own.forEach((value, index) => (own[index] = value / length));
    }
    const start = Float64Array.from(goldens.adam.start);
    const probe = await fitAdam({ ...trainingOn(classes), x: { ...x, values: rows } }, { start });
    expect(probe.directions).toBeAllClose(goldens.adam.weights, { within: 1e-5 });
    // Had every output regressed the class index, as in the published code, these would be one direction.
    const [first, second] = [probe.directions.slice(0, x.columns), probe.directions.slice(x.columns, 2 * x.columns)];
    expect(cosine(first, second)).toBeLessThan(0.5);
  });

  it("means and covariances equal NumPy's", async () => {
    expect((await fitMeans(trainingOn(classes))).directions).toBeAllClose(goldens.means, { within: 1e-5 });
    expect((await fitCovariance(trainingOn(values))).directions).toBeAllClose(goldens.covariance, { within: 1e-4 });
  });

  it("the covariance of a class is parallel to its difference of means, and ridge turns to it as the penalty grows", async () => {
    const means = await fitMeans(trainingOn(binary));
    const covariance = await fitCovariance(trainingOn(binary));
    const ridge = await fitRidge(trainingOn(binary), { penalties: [1e6], standardize: false });
    expect(cosine(last(means), last(covariance))).toBeGreaterThan(1 - 1e-9);
    expect(cosine(last(ridge), last(covariance))).toBeGreaterThan(1 - 1e-9);
  });

  it("the principal component of signed differences equals scikit-learn's, sign included", () => {
    const { pairs, signs, direction } = goldens.pca;
    const rows = { rows: signs.length, columns: x.columns, values: Float32Array.from(pairs) };
    expect(principalDirection(rows, Float64Array.from(signs))).toBeAllClose(direction, { within: 1e-6 });
  });

  it("two turns of the recursive feature machine equal NumPy's", async () => {
    const { alpha, metric, direction, bandwidth, exponent, penalty, centre } = goldens.rfm;
    const rows = { ...x, values: Float32Array.from(goldens.rfm.x) };
    const y = Float64Array.from(goldens.rfm.y);
    const settings = { bandwidth, exponent, penalty, centre };
    const first = await rfmTurn(rows, y, undefined, settings);
    expect(first.coefficients).toBeAllClose(alpha[0] ?? [], { within: 1e-4 });
    expect(first.metric).toBeAllClose(metric[0] ?? [], { within: 1e-4 });
    const second = await rfmTurn(rows, y, first.metric, settings);
    expect(second.coefficients).toBeAllClose(alpha[1] ?? [], { within: 1e-3 });
    expect(second.metric).toBeAllClose(metric[1] ?? [], { within: 1e-3 });
    expect(Math.abs(cosine(topDirection(second.metric, x.columns), direction))).toBeGreaterThan(1 - 1e-6);
  });

  for (const name of ESTIMATORS.filter((estimator) => estimator !== "random")) {
    it(`${name} recovers a planted direction with cosine 0.99, and leaves no tensor behind`, async () => {
      const { training, truth } = planted(6, name === "rfm" ? 960 : 1920, 5);
      const tensors = tf.memory().numTensors;
      // Signed targets, because a probe without bias turns from the concept towards the mean to reach indicators' mean of ½.
      const probe =
        name === "ridge"
          ? await fitRidge(centred(training, name))
          : await estimatorNamed(name, { rfm: { turns: 2 }, adam: { targets: "signed" } })(centred(training, name));
      expect(tf.memory().numTensors).toBe(tensors);
      expect(cosine(last(probe), truth)).toBeGreaterThan(0.99);
    });
  }

  it("a random direction is as long as the difference of means and points nowhere in particular", async () => {
    const { training, truth } = planted(64, 160, 5);
    const [random, means] = [await fitRandom(training), await fitMeans(training)];
    const norm = (v: Float64Array): number => Math.sqrt(v.reduce((sum, value) => sum + value * value, 0));
    expect(norm(last(random))).toBeCloseTo(norm(last(means)), 9);
    expect(Math.abs(cosine(last(random), truth))).toBeLessThan(0.4);
  });

  it("choosing a penalty, every estimator depends on rows and groups, not on their order", async () => {
    const { training } = planted(6, 96, 9);
    const order = Int32Array.from({ length: 96 }, (_, row) => (row * 35) % 96);
    const moved: Training = {
      x: takeRows(training.x, order),
      target: takeTarget(training.target, order),
      groups: takeGroups(training.groups, order),
      seed: training.seed,
    };
    for (const fit of [fitRidge, fitLogistic, fitMeans, fitCovariance, fitRfm]) {
      const [one, other] = [await fit(training), await fit(moved)];
      expect(last(other)).toBeAllClose(last(one), { within: 2e-5 });
    }
  });

  it("pairs given for the principal component are the ones used", async () => {
    const { training, truth } = planted(12, 320, 5);
    const pairs = Array.from(
      { length: 160 },
      (_, pair) => [16 * Math.floor(pair / 8) + 8 + (pair % 8), 16 * Math.floor(pair / 8) + (pair % 8)] as const,
    );
    const probe = await fitPca(training, { pairs: [pairs.map(([a, b]) => [b, a] as const), pairs] });
    expect(probe.settings["pairs"]).toBe("given");
    expect(cosine(last(probe), truth)).toBeGreaterThan(0.99);
  });
});

/** Adam has no bias: the mean that all rows share is taken off first. */
function centred(training: Training, estimator: string): Training {
  if (estimator !== "adam") return training;
  return { ...training, x: { ...training.x, values: training.x.values.map((value) => value - 5) } };
}
