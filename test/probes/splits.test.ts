import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { UsageError } from "../../src/errors.js";
import { groupsOf, takeGroups, takeTarget, type ClassTarget } from "../../src/probes/data.js";
import { groupedFolds, rowsOf, shuffleTarget } from "../../src/probes/splits.js";

const datasets = fc
  .record({
    sizes: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 9, maxLength: 40 }),
    classes: fc.integer({ min: 2, max: 3 }),
    seed: fc.integer(),
  })
  .map(({ sizes, classes, seed }) => {
    const rows = sizes.flatMap((size, group) => new Array<number>(size).fill(group));
    const target: ClassTarget = {
      kind: "classes",
      label: "genre",
      names: Array.from({ length: classes }, (_, index) => `class ${index}`),
      classes: Int32Array.from(rows, (group) => group % classes),
    };
    return { target, groups: groupsOf(rows.map((group) => `track ${String(group).padStart(2, "0")}`)), seed };
  });

describe("grouped folds", () => {
  it("keep each group whole, and put every row into one fold", () => {
    fc.assert(
      fc.property(datasets, ({ target, groups, seed }) => {
        const folds = groupedFolds(target, groups, 5, seed);
        const foldOf = new Map<number, number>();
        groups.ofRow.forEach((group, row) => {
          const fold = folds.ofRow[row] ?? -1;
          expect(fold).toBeGreaterThanOrEqual(0);
          expect(fold).toBeLessThan(folds.count);
          expect(foldOf.get(group) ?? fold).toBe(fold);
          foldOf.set(group, fold);
        });
      }),
    );
  });

  it("have every class on the fitting side, with one fold left out and with two", () => {
    fc.assert(
      fc.property(datasets, ({ target, groups, seed }) => {
        const folds = groupedFolds(target, groups, 5, seed);
        for (let fold = 0; fold < folds.count; fold++) {
          const kept = rowsOf(folds, [fold, (fold + 1) % folds.count], { except: true });
          expect(new Set(Array.from(kept, (row) => target.classes[row])).size).toBe(target.names.length);
        }
      }),
    );
  });

  it("do not depend on the order of rows", () => {
    fc.assert(
      fc.property(datasets, ({ target, groups, seed }) => {
        const order = Int32Array.from(groups.ofRow.keys()).reverse();
        const folds = groupedFolds(target, groups, 5, seed);
        const moved = groupedFolds(takeTarget(target, order), takeGroups(groups, order), 5, seed);
        expect(moved.ofRow).toEqual(order.map((row) => folds.ofRow[row] ?? -1));
      }),
    );
  });

  it("refuse a class with too few groups by name, and fewer folds than nesting needs", () => {
    const target: ClassTarget = {
      kind: "classes",
      label: "genre",
      names: ["jazz", "rock"],
      classes: Int32Array.of(0, 0, 0, 1, 1, 1),
    };
    const groups = groupsOf(["a", "b", "c", "d", "d", "d"]);
    expect(() => groupedFolds(target, groups, 5, 0)).toThrow(/class "rock" with 1 group/);
    expect(() => groupedFolds(target, groups, 2, 0)).toThrow(UsageError);
  });

  it("cut numbers so that each fold has low and high ones", () => {
    const values = Float64Array.from({ length: 100 }, (_, row) => row);
    const groups = groupsOf(Array.from(values, (_, row) => `track ${row}`));
    const folds = groupedFolds({ kind: "value", label: "tempo", values }, groups, 5, 1);
    for (let fold = 0; fold < 5; fold++) {
      const own = Array.from(rowsOf(folds, [fold]), (row) => values[row] ?? 0);
      expect(own).toHaveLength(20);
      expect(own.reduce((a, b) => a + b, 0) / 20).toBeGreaterThan(40);
      expect(own.reduce((a, b) => a + b, 0) / 20).toBeLessThan(60);
    }
  });
});

describe("shuffled labels", () => {
  it("move whole groups where a group has one label, and keep the number of groups of each class", () => {
    fc.assert(
      fc.property(datasets, ({ target, groups, seed }) => {
        const shuffled = shuffleTarget(target, groups, seed);
        if (shuffled.kind !== "classes") throw new Error("a class became a number");
        const labelOf = (of: Int32Array): (number | undefined)[] =>
          groups.names.map((_, group) => of[groups.ofRow.indexOf(group)]);
        shuffled.classes.forEach((own, row) => {
          expect(own).toBe(shuffled.classes[groups.ofRow.indexOf(groups.ofRow[row] ?? 0)]);
        });
        expect(labelOf(shuffled.classes).toSorted()).toEqual(labelOf(target.classes).toSorted());
      }),
    );
  });
});
