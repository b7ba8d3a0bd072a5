import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { covarianceFromMoments, fitCovariance } from "../../src/probes/covariance.js";
import { takeRows } from "../../src/probes/linear-algebra.js";
import { fitMeans, meanDifferencesFromMoments } from "../../src/probes/means.js";
import { featureScales, mergeProbeMoments, probeMoments } from "../../src/probes/moments.js";
import { ridgeFromMoments, takeColumnRows } from "../../src/probes/ridge.js";
import { binary, goldens, trainingOn, values, x } from "./goldens.js";

function relative(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const top = Math.max(...Array.from(b, Math.abs));
  return Math.max(...Array.from(a, (value, index) => Math.abs(value - (b[index] ?? NaN)))) / top;
}

describe("running sums", () => {
  it("of any cut into shards merge to those of the whole, within 1e-10 relative", async () => {
    const y = values.values;
    const whole = await probeMoments(x, y);
    const [expected] = await ridgeFromMoments(whole, [0.01], true);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: x.rows - 1 }), { maxLength: 5 }), async (cuts) => {
        const edges = [0, ...new Set(cuts.toSorted((a, b) => a - b)), x.rows];
        const parts = [];
        for (let index = 1; index < edges.length; index++) {
          const [from = 0, to = 0] = [edges[index - 1], edges[index]];
          const rows = Int32Array.from({ length: to - from }, (_, row) => from + row);
          parts.push(await probeMoments(takeRows(x, rows), takeColumnRows(y, x.rows, rows)));
        }
        const merged = mergeProbeMoments(...parts.reverse());
        expect(merged.rows).toBe(x.rows);
        expect(relative(merged.mean, whole.mean)).toBeLessThan(1e-10);
        expect(relative(merged.scatter, whole.scatter)).toBeLessThan(1e-10);
        expect(relative(merged.cross, whole.cross)).toBeLessThan(1e-10);
        const [solution] = await ridgeFromMoments(merged, [0.01], true);
        expect(relative(solution?.weights ?? [], expected?.weights ?? [])).toBeLessThan(1e-10);
      }),
      { numRuns: 30 },
    );
  });

  it("give the ridge, means and covariances that the rows give", async () => {
    const moments = await probeMoments(x, values.values);
    const [ridge] = await ridgeFromMoments(moments, [goldens.ridge.values.penalty], true);
    expect(ridge?.weights ?? []).toBeAllClose(goldens.ridge.values.weights, { within: 1e-6 });
    const rows = await fitCovariance(trainingOn(values));
    expect(covarianceFromMoments(moments, false)).toBeAllClose(rows.directions, { within: 1e-9 });
    const indicators = await probeMoments(x, Float64Array.from(binary.classes), { scatter: "diagonal" });
    const means = await fitMeans(trainingOn(binary));
    expect(meanDifferencesFromMoments(indicators)).toBeAllClose(means.directions.slice(x.columns), { within: 1e-9 });
  });

  it("of all rows twice fit the same ridge: the penalty counts per row", async () => {
    const once = await probeMoments(x, values.values);
    const [one] = await ridgeFromMoments(once, [0.1], true);
    const [two] = await ridgeFromMoments(mergeProbeMoments(once, once), [0.1], true);
    expect(relative(two?.weights ?? [], one?.weights ?? [])).toBeLessThan(1e-10);
  });

  it("give a constant feature no weight, and refuse rows that are all the same", async () => {
    const constant = { rows: x.rows, columns: 2, values: new Float32Array(2 * x.rows).fill(3.3) };
    for (let row = 0; row < x.rows; row++) constant.values[2 * row] = x.values[row * x.columns] ?? 0;
    const moments = await probeMoments(constant, values.values);
    const [solution] = await ridgeFromMoments(moments, [0.1], true);
    expect(solution?.weights[0]).not.toBe(0);
    expect(solution?.weights[1]).toBe(0);
    const same = await probeMoments(
      { rows: 4, columns: 2, values: new Float32Array(8).fill(1.7) },
      new Float64Array(4),
    );
    expect(() => featureScales(same, true)).toThrow(/the same activations in all of 4 rows/);
  });

  it("refuse shards of other features", async () => {
    const wide = await probeMoments(x, values.values);
    const narrow = await probeMoments({ rows: 2, columns: 1, values: Float32Array.of(1, 2) }, Float64Array.of(1, 2));
    expect(() => mergeProbeMoments(wide, narrow)).toThrow(/merge the sums of two shards/);
  });
});
