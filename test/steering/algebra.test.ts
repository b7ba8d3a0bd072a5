import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { CheckpointError } from "../../src/errors.js";
import {
  combine,
  conceptDirection,
  cosine,
  difference,
  gramSchmidt,
  interpolate,
  negate,
  norms,
  projectOut,
  scale,
  spanOf,
  sum,
  unit,
  type Direction,
} from "../../src/steering/algebra.js";
import { bareModel, noise, randomVectors } from "./support.js";

function direction(values: readonly number[], more: Partial<Direction> = {}): Direction {
  const made = { name: "a", model: "0123456789ab", site: "blocks.0.hook_resid_post", shape: [values.length] };
  return { ...made, values: Float32Array.from(values), ...more };
}

const a = direction([3, 4, 0]);
const b = direction([0, 2, 0], { name: "b" });

describe("the algebra of directions", () => {
  it("adds, scales, negates and interpolates", () => {
    expect([...sum(a, b).values]).toEqual([3, 6, 0]);
    expect([...scale(a, 2).values]).toEqual([6, 8, 0]);
    expect([...negate(a).values]).toEqual([-3, -4, -0]);
    expect([...interpolate(a, b, 0).values]).toEqual([...a.values]);
    expect([...interpolate(a, b, 1).values]).toEqual([...b.values]);
    expect([...interpolate(a, b, 0.5).values]).toEqual([1.5, 3, 0]);
    expect([...difference(a, b).values]).toBeAllClose([0.6, -0.2, 0], { within: 1e-6 });
    expect(cosine(a, b)[0]).toBeCloseTo(0.8, 12);
    expect(norms(a)).toEqual([5]);
  });

  it("treats every head for itself", () => {
    const heads = direction([3, 4, 0, 2], { shape: [2, 2] });
    expect(norms(heads)).toEqual([5, 2]);
    expect([...unit(heads).values]).toBeAllClose([0.6, 0.8, 0, 1], { within: 1e-6 });
  });

  it("finds an orthonormal basis of what directions span, head by head, and zeros where one adds nothing", () => {
    const [x, y] = [direction([3, 4, 0, 0, 0, 2], { shape: [2, 3] }), direction([6, 8, 0, 5, 0, 1], { shape: [2, 3] })];
    const [first, second] = spanOf([x, y]);
    expect([...(first?.values ?? [])]).toBeAllClose([0.6, 0.8, 0, 0, 0, 1], { within: 1e-6 });
    expect([...(second?.values ?? [])]).toBeAllClose([0, 0, 0, 1, 0, 0], { within: 1e-6 });
    expect(() => spanOf([x, b])).toThrow(CheckpointError);
  });

  it("makes directions orthogonal, and leaves the first alone (Gram–Schmidt with priority)", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1e6 }), fc.integer({ min: 2, max: 5 }), (seed, count) => {
        const shape = [2, 6];
        const given = Array.from({ length: count }, (_, index) =>
          direction([...noise(12, seed * 10 + index)], { shape, name: `${index}` }),
        );
        const made = gramSchmidt(given);
        expect(made[0]?.values).toEqual(given[0]?.values);
        made.forEach((one, index) =>
          made
            .slice(0, index)
            .forEach((other) => cosine(one, other).forEach((c) => expect(Math.abs(c)).toBeLessThan(1e-5))),
        );
      }),
      { numRuns: 50 },
    );
  });

  it("leaves nothing of the others in what they are projected out of, in any order", () => {
    const [one = a, two = a, three = a] = [1, 2, 3].map((seed) => direction([...noise(8, seed)]));
    const rest = projectOut(three, one, two);
    expect(Math.abs(cosine(rest, one)[0] ?? NaN)).toBeLessThan(1e-6);
    expect(Math.abs(cosine(rest, two)[0] ?? NaN)).toBeLessThan(1e-6);
    expect(projectOut(three, two, one).values).toBeAllClose(rest.values, { within: 1e-6 });
  });

  it("refuses what is of another model, site or shape, what is zero and what is a combination", () => {
    expect(() => sum(a, { ...b, model: "fedcba987654" })).toThrow(CheckpointError);
    expect(() => sum(a, { ...b, model: "fedcba987654" })).toThrow(
      "one of the model 0123456789ab and one of fedcba987654",
    );
    expect(() => cosine(a, { ...b, site: "blocks.1.hook_resid_post" })).toThrow("blocks.1.hook_resid_post");
    expect(() => sum(a, direction([1, 2]))).toThrow("shapes [3] and [2]");
    expect(() => unit(scale(a, 0))).toThrow("zeros");
    expect(() => gramSchmidt([a, b, sum(a, b)])).toThrow("nothing is left");
    expect(() => interpolate(a, b, NaN)).toThrow("t = NaN");
  });

  it("makes vectors that can be saved and steered by", () => {
    const vectors = randomVectors(bareModel("heads"), ["blocks.0.hook_resid_post", "blocks.0.attn.hook_z"]);
    const made = combine(vectors, "jazz, not rock", (of) => difference(of("jazz"), of("rock")));
    expect(made.concepts).toEqual(["jazz, not rock"]);
    expect(made.settings).toMatchObject({ of: "random", made: "jazz − rock" });
    for (const site of vectors.sites.keys()) {
      const expected = difference(conceptDirection(vectors, site, "jazz"), conceptDirection(vectors, site, "rock"));
      expect(conceptDirection(made, site, "jazz, not rock").values).toEqual(expected.values);
    }
  });
});
