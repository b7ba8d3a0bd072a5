import fc from "fast-check";
import { describe, expect, it } from "vitest";

import {
  addVectors,
  covarianceOf,
  emptyMoments,
  meanOf,
  mergeMoments,
  varianceOf,
} from "../../src/activations/moments.js";

const DATA = Float32Array.of(1, 2, 3, /**/ 4, 6, 5, /**/ 7, 1, 0, /**/ 2, 2, 9); // [4, 3]

describe("moments", () => {
  it("give the mean, variance and covariance of the textbook", () => {
    const moments = addVectors(emptyMoments(3, "covariance"), DATA);
    expect(moments.count).toBe(4);
    expect([...meanOf(moments)]).toEqual([3.5, 2.75, 4.25]);
    const expected = covarianceByDefinition(DATA, 3);
    expect(covarianceOf(moments)).toBeAllClose(expected, { within: 1e-12 });
    expect(varianceOf(moments)).toBeAllClose([expected[0] ?? 0, expected[4] ?? 0, expected[8] ?? 0], { within: 1e-12 });
    const squares = addVectors(emptyMoments(3, "variance"), DATA);
    expect(varianceOf(squares)).toEqual(varianceOf(moments));
  });

  it("of parts add up to those of the whole, exactly where sums are", () => {
    const integers = fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: 2, maxLength: 40 });
    fc.assert(
      fc.property(integers, integers, fc.constantFrom("variance", "covariance"), (a, b, kind) => {
        const of = (values: readonly number[]) => Float32Array.from(values.slice(0, 2 * Math.floor(values.length / 2)));
        const whole = addVectors(addVectors(emptyMoments(2, kind), of(a)), of(b));
        const parts = mergeMoments(addVectors(emptyMoments(2, kind), of(a)), addVectors(emptyMoments(2, kind), of(b)));
        expect(parts).toEqual(whole);
      }),
    );
  });

  it("keep what float32 sums would lose", () => {
    let moments = emptyMoments(1, "variance");
    for (let index = 0; index < 1000; index++) moments = addVectors(moments, Float32Array.of(20_000 + (index % 2)));
    expect(meanOf(moments)[0]).toBe(20_000.5);
    expect(varianceOf(moments)[0]).toBeCloseTo(0.25 * (1000 / 999), 6);
  });

  it("of nothing are zeros, and kinds don't mix", () => {
    expect([...meanOf(emptyMoments(2, "variance"))]).toEqual([0, 0]);
    expect([...varianceOf(addVectors(emptyMoments(1, "variance"), Float32Array.of(3)))]).toEqual([0]);
    expect(() => mergeMoments(emptyMoments(2, "variance"), emptyMoments(2, "covariance"))).toThrow(RangeError);
    expect(() => covarianceOf(emptyMoments(2, "variance"))).toThrow(RangeError);
  });
});

function covarianceByDefinition(data: Float32Array, width: number): number[] {
  const count = data.length / width;
  const at = (row: number, column: number): number => data[row * width + column] ?? NaN;
  const rows = Array.from({ length: count }, (_, row) => row);
  const mean = (column: number): number => rows.reduce((sum, row) => sum + at(row, column), 0) / count;
  return Array.from({ length: width * width }, (_, index) => {
    const [i, j] = [Math.floor(index / width), index % width];
    return rows.reduce((sum, row) => sum + (at(row, i) - mean(i)) * (at(row, j) - mean(j)), 0) / (count - 1);
  });
}
