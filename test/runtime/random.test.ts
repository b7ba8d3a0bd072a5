import { describe, expect, it } from "vitest";

import { uniformStream } from "../../src/runtime/random.js";

const take = (seed: number, item: number, count = 4): number[] => {
  const uniforms = uniformStream(seed, item);
  return Array.from({ length: count }, () => uniforms());
};

describe("the uniform numbers of a clip", () => {
  it("depend on seed and item alone", () => {
    expect(take(7, 3)).toEqual(take(7, 3));
    expect(take(7, 3)).not.toEqual(take(7, 4));
    expect(take(8, 3)).not.toEqual(take(7, 3));
  });

  it("fill [0, 1) evenly", () => {
    const numbers = take(0, 0, 10_000);
    expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...numbers)).toBeLessThan(1);
    // Five standard errors of the mean of 10,000 uniforms are 0.0144.
    expect(Math.abs(numbers.reduce((sum, number) => sum + number, 0) / numbers.length - 0.5)).toBeLessThan(0.0145);
  });

  it("do not repeat between neighbouring items", () => {
    const firsts = Array.from({ length: 1000 }, (_, item) => take(42, item, 1)[0]);
    expect(new Set(firsts).size).toBe(1000);
  });
});
