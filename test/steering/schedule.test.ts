import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { isDrawn, layOut, rampAt, strengthAt, type Timeline } from "../../src/steering/schedule.js";
import { parseSpec } from "../../src/steering/spec.js";
import { specOf } from "./support.js";

const ONE = { concept: "jazz", sites: "blocks.0.hook_resid_post", strength: 1 };

describe("a schedule", () => {
  it("covers the positions that decide its frames, and the tail if it reaches the end", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 0, max: 59 }),
        fc.integer({ min: 1, max: 60 }),
        fc.constantFrom(50, 25, 75),
        (frames, from, length, frameRate) => {
          fc.pre(from + length <= frames);
          const timeline: Timeline = { frames, promptFrames: 0, frameRate };
          const inSeconds = { from: from / frameRate, until: (from + length) / frameRate };
          const seconds = parseSpec(specOf([], { segments: [{ ...inSeconds, steer: [ONE] }] }));
          const inFrames = parseSpec(
            specOf([], { time: "frames", segments: [{ from, until: from + length, steer: [ONE] }] }),
          );
          const end = from + length === frames ? Infinity : from + length;
          expect(layOut(seconds, timeline)).toEqual([{ first: from, end, length }]);
          expect(layOut(inFrames, timeline)).toEqual(layOut(seconds, timeline));
        },
      ),
    );
  });

  it("goes along its ramp", () => {
    const ramp = { from: 1, to: 4, over: null } as const;
    expect([0, 0.5, 1].map((u) => rampAt({ ...ramp, shape: "linear" }, u))).toEqual([1, 2.5, 4]);
    expect([0, 0.5, 1].map((u) => rampAt({ ...ramp, shape: "exponential" }, u))).toEqual([1, 2, 4]);
    expect([0, 0.25, 0.5, 1].map((u) => rampAt({ ...ramp, shape: "cosine" }, u))).toBeAllClose(
      [1, 1 + 1.5 * (1 - Math.SQRT1_2), 2.5, 4],
      { within: 1e-12 },
    );
    // MusicRFM's schedules (arXiv 2510.19127) by their own formulas, over 1,500 frames.
    const overPaper = { from: 0, to: 1, over: null } as const;
    for (const t of [0, 1, 400, 750, 1100, 1500]) {
      expect(rampAt({ ...overPaper, shape: "linear" }, t / 1500)).toBeCloseTo(Math.min(1, t / 1500), 12);
      const decay = { from: 1, to: 0.998 ** 1500, over: null, shape: "exponential" } as const;
      expect(rampAt(decay, t / 1500)).toBeCloseTo(0.998 ** t, 12);
      expect(rampAt({ ...overPaper, shape: "logistic" }, t / 1500)).toBeCloseTo(
        1 / (1 + Math.exp(-(t - 750) / 200)),
        12,
      );
      expect(rampAt({ ...overPaper, shape: "sine" }, t / 1500)).toBeCloseTo(
        (1 + Math.sin((2 * Math.PI * t) / 1500)) / 2,
        12,
      );
    }
    const beyond = (shape: "linear" | "logistic" | "sine"): number => rampAt({ ...ramp, shape }, 1.25);
    expect([beyond("linear"), beyond("sine")]).toBeAllClose([4, 4], { within: 1e-12 }); // held; a quarter of the next swing
    expect(beyond("logistic")).toBe(rampAt({ ...ramp, shape: "logistic" }, 1));
    const spec = parseSpec(
      specOf([], { time: "frames", segments: [{ from: 2, steer: [{ ...ONE, ramp: { from: 0, to: 1, over: 4 } }] }] }),
    );
    const timeline = { frames: 10, promptFrames: 0, frameRate: 50 };
    const [stretch] = layOut(spec, timeline);
    const [one] = spec.segments[0]?.steer ?? [];
    const strengths = Array.from({ length: 9 }, (_, position) =>
      stretch && one ? strengthAt(position, one, stretch, spec, timeline) : NaN,
    );
    expect(strengths).toEqual([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]);
  });

  it("draws with the asked probability, by seed, place, site and position alone", () => {
    const count = 20_000;
    const draws = (probability: number, seed: number, index: number, site: number): boolean[] =>
      Array.from({ length: count }, (_, position) => isDrawn(probability, seed, { segment: 0, index }, site, position));
    const hits = (list: readonly boolean[]): number => list.filter(Boolean).length;
    for (const probability of [0.05, 0.3, 0.8]) {
      const deviation = Math.sqrt(count * probability * (1 - probability));
      expect(Math.abs(hits(draws(probability, 0, 0, 0)) - count * probability)).toBeLessThan(4 * deviation);
    }
    expect(draws(0.3, 5, 1, 2)).toEqual(draws(0.3, 5, 1, 2));
    const first = draws(0.3, 5, 1, 2);
    for (const other of [draws(0.3, 6, 1, 2), draws(0.3, 5, 2, 2), draws(0.3, 5, 1, 3)]) {
      const both = hits(first.map((drawn, position) => drawn && other[position] === true));
      expect(Math.abs(both - count * 0.09)).toBeLessThan(4 * Math.sqrt(count * 0.09 * 0.91));
    }
    expect(hits(draws(1, 0, 0, 0))).toBe(count);
  });
});
