import { describe, expect, it } from "vitest";

import { randomized } from "../../src/experiments/randomized.js";
import type { SteeringVectors } from "../../src/probes/vectors.js";
import { bareModel, randomVectors } from "../steering/support.js";

const SITE = "blocks.0.attn.hook_z";

describe("the random span beside that of the class means", () => {
  const meansOf = ({ sites }: SteeringVectors): readonly Float32Array[] => {
    const mean = [...sites.values()][0]?.mean ?? new Float32Array();
    return [0, 1, 2].map((index) => mean.slice(index * 8, (index + 1) * 8));
  };
  const vectors = randomVectors(bareModel("heads"), [SITE], ["piano", "violin", "flute"]);
  const [own, random] = [meansOf(vectors), meansOf(randomized(vectors, { from: "violin" }))];

  it("begins at the same mean, and lies elsewhere", () => {
    expect([...(random[1] ?? [])]).toBeAllClose([...(own[1] ?? [])], { within: 1e-6 });
    expect(Math.abs((random[0]?.[0] ?? 0) - (own[0]?.[0] ?? 0))).toBeGreaterThan(1e-3);
  });

  it("has steps between means of exactly the same norms, head by head", () => {
    for (const [one, other] of [
      [0, 1],
      [0, 2],
      [1, 2],
    ] as const) {
      for (const head of [0, 4]) {
        const norm = (means: readonly Float32Array[]): number =>
          Math.hypot(
            ...Array.from(
              { length: 4 },
              (_, at) => (means[one]?.[head + at] ?? NaN) - (means[other]?.[head + at] ?? NaN),
            ),
          );
        expect(norm(random)).toBeCloseTo(norm(own), 4);
      }
    }
  });

  it("has the mean of all where it is, if it is seen from there", () => {
    const means = [own, meansOf(randomized(vectors))].map((all) =>
      all.reduce((sum, one) => sum.map((v, at) => v + (one[at] ?? NaN))),
    );
    expect([...(means[1] ?? [])]).toBeAllClose([...(means[0] ?? [])], { within: 1e-5 });
  });

  it("is refused from a class that there is none of", () => {
    expect(() => randomized(vectors, { from: "oboe" })).toThrow("no mean of oboe");
  });
});
