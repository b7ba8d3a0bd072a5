import { describe, expect, it } from "vitest";

import { groupsOf, type ClassTarget } from "../../src/probes/data.js";
import { headline, isAboveChance, measure, measureDifference } from "../../src/probes/metrics.js";
import { uniformStream } from "../../src/runtime/random.js";
import { classes, goldens, groups, values } from "./goldens.js";

describe("measures of held-out scores", () => {
  it("equal scikit-learn's accuracy, balanced accuracy and area under the curve, ties included", () => {
    const scores = measure(classes, Float64Array.from(goldens.metrics.scores), groups);
    if (scores.kind !== "classes") throw new Error("classes were measured as numbers");
    expect(scores.accuracy.value).toBeCloseTo(goldens.metrics.accuracy, 12);
    expect(scores.balancedAccuracy.value).toBeCloseTo(goldens.metrics.balancedAccuracy, 12);
    expect(scores.auc.value).toBeCloseTo(goldens.metrics.auc, 12);
    for (const { value, low, high } of [scores.accuracy, scores.balancedAccuracy, scores.auc]) {
      expect(low).toBeLessThan(value);
      expect(high).toBeGreaterThan(value);
    }
  });

  it("equal scikit-learn's R²", () => {
    expect(headline(measure(values, Float64Array.from(goldens.metrics.guesses), groups)).value).toBeCloseTo(
      goldens.metrics.r2,
      10,
    );
  });

  it("take groups for independent, not rows: a copy of every row in its group changes no interval", () => {
    const scores = Float64Array.from(goldens.metrics.scores);
    const doubled: ClassTarget = { ...classes, classes: Int32Array.from([...classes.classes, ...classes.classes]) };
    const twice = { names: groups.names, ofRow: Int32Array.from([...groups.ofRow, ...groups.ofRow]) };
    const one = headline(measure(classes, scores, groups));
    const two = headline(measure(doubled, Float64Array.from([...scores, ...scores]), twice));
    expect(two.low).toBeCloseTo(one.low, 9);
    expect(two.high).toBeCloseTo(one.high, 9);
    const asRows = groupsOf(Array.from(twice.ofRow, (_, row) => `row ${String(row).padStart(4, "0")}`));
    const narrow = headline(measure(doubled, Float64Array.from([...scores, ...scores]), asRows));
    expect(narrow.high - narrow.low).toBeLessThan(two.high - two.low);
  });

  it("cover chance in about 95 of 100 runs of scores that know nothing", () => {
    let covered = 0;
    for (let run = 0; run < 100; run++) {
      const uniforms = uniformStream(run, 0);
      const scores = Float64Array.from({ length: 3 * classes.classes.length }, () => uniforms());
      const { low, high } = headline(measure(classes, scores, groups, { resamples: 200, seed: run }));
      if (low <= 1 / 3 && high >= 1 / 3) covered++;
    }
    // 20 groups are few: percentile intervals are known to be a little narrow there.
    expect(covered).toBeGreaterThanOrEqual(85);
    expect(covered).toBeLessThanOrEqual(100);
  });

  it("tell two sets of scores apart by the same groups: equal ones differ by exactly 0", () => {
    const scores = Float64Array.from(goldens.metrics.scores);
    expect(measureDifference(classes, scores, scores, groups)).toEqual({ value: 0, low: 0, high: 0 });
    const constant = new Float64Array(scores.length);
    const { value, low } = measureDifference(classes, scores, constant, groups);
    expect(value).toBeCloseTo(goldens.metrics.balancedAccuracy - 1 / 3, 10);
    expect(low).toBeGreaterThan(0);
    expect(isAboveChance(measure(classes, constant, groups), classes)).toBe(false);
  });
});
