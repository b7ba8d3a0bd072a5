import { describe, expect, it } from "vitest";

import { towards } from "../../src/experiments/seed-directions.js";
import { randomized } from "../../src/experiments/randomized.js";
import type { SteeringVectors } from "../../src/probes/vectors.js";
import { bareModel, randomVectors } from "../steering/support.js";

const SITE = "blocks.0.attn.hook_z";

/** Three classes at one site of two heads, two values each. */
function vectorsOf(estimator: string): SteeringVectors {
  const site = {
    site: SITE,
    shape: [2, 2],
    directions: Float32Array.of(1, 0, 0, 2, 0, 3, 4, 0, 5, 5, 5, 5), // [C, H, Dh]
    gain: Float32Array.of(1, 2, 3, 4, 5, 6),
    bias: new Float32Array(6),
    score: Float32Array.of(0.5, 0.9),
    deviation: Float32Array.of(1, 1, 2, 2, 3, 3),
    mean: Float32Array.of(0, 0, 1, 1, 3, 4, 1, 3, 9, 9, 9, 9),
    norm: Float32Array.of(5, 5),
  };
  const vectors = randomVectors(bareModel("heads"), [SITE], ["piano", "violin", "flute"]);
  return { ...vectors, estimator, sites: new Map([[SITE, site]]) };
}

function only({ sites }: SteeringVectors): Float32Array {
  return [...sites.values()][0]?.directions ?? new Float32Array();
}

describe("the direction from one class to another", () => {
  it("is, of the difference of means, the step from mean to mean", () => {
    const moved = towards(vectorsOf("means"), "piano", "violin");
    expect(moved.concepts).toEqual(["violin"]);
    expect(only(moved)).toBeAllClose([3, 4, 0, 2], { within: 1e-6 });
    expect([...moved.sites.values()][0]).toMatchObject({ gain: Float32Array.of(3, 4), norm: Float32Array.of(5, 5) });
  });

  it("is, of any other estimator, that of its unit directions, as long as that step head by head", () => {
    // Heads: (0, 1) − (1, 0) to the length of (3, 4); (1, 0) − (0, 1) to the length of (0, 2).
    const half = Math.SQRT1_2;
    const wanted = [-5 * half, 5 * half, 2 * half, -2 * half];
    expect(only(towards(vectorsOf("ridge"), "piano", "violin"))).toBeAllClose(wanted, { within: 1e-5 });
  });

  it("has a random one of exactly its norm beside it", () => {
    const moved = towards(vectorsOf("ridge"), "piano", "violin");
    const [own, random] = [only(moved), only(randomized(moved))];
    for (const head of [0, 2]) {
      const norm = (values: Float32Array): number => Math.hypot(...values.subarray(head, head + 2));
      expect(norm(random)).toBeCloseTo(norm(own), 5);
    }
    expect(random).not.toEqual(own);
  });

  it("is refused for a class that there is none of", () => {
    expect(() => towards(vectorsOf("means"), "piano", "oboe")).toThrow("no directions of piano and oboe");
  });
});
