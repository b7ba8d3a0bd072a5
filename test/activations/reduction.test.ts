import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { checkReduction, planRows, RowCollector, type ClipSpan } from "../../src/activations/reduction.js";

/** A teacher-forced clip of F frames with delays 0, 1, 2, 3: positions 0 … F + 3. */
function forced(frames: number, frameRate = 50): ClipSpan {
  return { frames, first: 0, last: frames + 3, maxDelay: 3, frameRate };
}

/** Rows of a plan as [first, last]. */
function positions(reduction: Parameters<typeof planRows>[0], span: ClipSpan): readonly (readonly number[])[] {
  return planRows(reduction, span, "clip").map(({ first, last }) => [first, last]);
}

describe("the positions of a clip of 10 frames, 0 the BOS column, 11 … 13 the delay tail", () => {
  it("all become rows with none", () => {
    expect(positions("none", forced(10))).toEqual(Array.from({ length: 14 }, (_, position) => [position, position]));
  });

  it("are averaged where every codebook carries a frame: 4 … 10", () => {
    expect(positions("mean", forced(10))).toEqual([[4, 10]]);
    expect(positions({ moments: "variance", by: null }, forced(10))).toEqual(
      [4, 5, 6, 7, 8, 9, 10].map((position) => [position, position]),
    );
  });

  it("end, for last, at 10: not at 13, in the tail", () => {
    expect(positions("last", forced(10))).toEqual([[10, 10]]);
  });

  it("are those of the decode steps where 5 frames were a prompt", () => {
    const span = { ...forced(10), first: 6, last: 12 };
    expect(positions("none", span)).toEqual([6, 7, 8, 9, 10, 11, 12].map((position) => [position, position]));
    expect(positions("mean", span)).toEqual([[6, 10]]);
    expect(positions("last", span)).toEqual([[10, 10]]);
  });

  it("are refused for a clip without a complete position, unless all are kept", () => {
    expect(() => positions("mean", forced(3))).toThrow(/3 frames, in which no position carries a frame in every/);
    expect(positions("mean", forced(4))).toEqual([[4, 4]]);
    expect(positions("none", forced(3))).toHaveLength(7);
  });
});

describe("windows", () => {
  it("lie within the clip and hold the complete positions whose first codebook sounds in them", () => {
    const planned = planRows({ window: 1, hop: 1 }, forced(125), "clip"); // 2.5 s
    expect(planned).toEqual([
      { window: 0, first: 4, last: 50, seconds: [0, 1] }, // frames 0 … 49 less the three that begin incomplete
      { window: 1, first: 51, last: 100, seconds: [1, 2] },
    ]);
  });

  it("overlap where the hop is shorter", () => {
    expect(positions({ window: 1, hop: 0.5 }, forced(125))).toEqual([
      [4, 50],
      [26, 75],
      [51, 100],
      [76, 125],
    ]);
  });

  it("begin after the prompt while generating", () => {
    const span = { ...forced(150), first: 51, last: 152 };
    expect(planRows({ window: 1, hop: 1 }, span, "clip")).toEqual([
      { window: 0, first: 51, last: 100, seconds: [1, 2] },
      { window: 1, first: 101, last: 150, seconds: [2, 3] },
    ]);
  });

  it("are refused where the clip is shorter than one, or one is shorter than the delay", () => {
    expect(() => positions({ window: 3, hop: 3 }, forced(125))).toThrow(/only 2\.5 s of captured sound/);
    expect(() => positions({ window: 0.04, hop: 0.04 }, forced(125))).toThrow(/window 0 of clip, 0 … 0\.04 s/);
    expect(() => checkReduction({ window: 1, hop: 0 }, 50)).toThrow(/a hop of 0 s/);
    expect(() => checkReduction({ window: NaN, hop: 1 }, 50)).toThrow(/a window of NaN s/);
  });

  it("without overlap take each complete position of the windowed sound once", () => {
    fc.assert(
      fc.property(fc.integer({ min: 8, max: 400 }), fc.integer({ min: 4, max: 90 }), (frames, width) => {
        fc.pre(width <= frames);
        const windows = planRows({ window: width / 50, hop: width / 50 }, forced(frames), "clip");
        expect(windows).toHaveLength(Math.floor(frames / width));
        const taken = windows.flatMap(({ first, last }) =>
          Array.from({ length: last - first + 1 }, (_, index) => first + index),
        );
        const end = windows.length * width;
        expect(taken).toEqual(Array.from({ length: end - 3 }, (_, index) => 4 + index));
      }),
    );
  });
});

describe("a collector of rows", () => {
  it("averages each row's positions, whatever the passes were, in float64", () => {
    const plan = planRows({ window: 0.2, hop: 0.1 }, forced(30), "clip");
    const collector = new RowCollector(plan, 2);
    for (let position = 0; position <= 33; position++) {
      collector.add(position, Float32Array.of(position, position < 20 ? 1e8 : 1e-3));
    }
    expect(collector.finished).toBe(true);
    plan.forEach(({ first, last }, row) => {
      expect(collector.values[2 * row]).toBe((first + last) / 2);
      const large = Math.max(0, Math.min(last, 19) - first + 1);
      const count = last - first + 1;
      expect(collector.values[2 * row + 1]).toBe(
        Math.fround((large * 1e8 + (count - large) * Math.fround(1e-3)) / count),
      );
    });
  });

  it("keeps a row of one position bit for bit", () => {
    const collector = new RowCollector(planRows("none", forced(4), "clip"), 3);
    const given = Float32Array.from({ length: 24 }, (_, index) => Math.fround(Math.sin(index) * 1e-30));
    for (let position = 0; position < 8; position++)
      collector.add(position, given.subarray(3 * position, 3 * position + 3));
    expect(collector.values).toEqual(given);
  });

  it("refuses positions that are missing or come twice", () => {
    const plan = planRows("mean", forced(10), "clip");
    const skipping = new RowCollector(plan, 1);
    skipping.add(4, Float32Array.of(1));
    expect(() => skipping.add(6, Float32Array.of(1))).toThrow(/position 6 came where 5/);
    expect(() => skipping.add(4, Float32Array.of(1))).toThrow(/position 4 came where 5/);
    expect(() => new RowCollector(plan, 1).add(5, Float32Array.of(1))).toThrow(/position 5 came where 4/);
    expect(skipping.finished).toBe(false);
  });
});
