import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { bfloatToFloat, fitsHalf, floatToHalf, halfToFloat } from "../../src/checkpoint/float16.js";

const EVERY_PATTERN = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

describe("float16", () => {
  it("decodes the values that IEEE 754 gives for these patterns", () => {
    const patterns = [0x0000, 0x0001, 0x03ff, 0x0400, 0x3555, 0x3c00, 0x7bff, 0x7c00, 0xc000, 0xfc00];
    const values = [0, 2 ** -24, 1023 * 2 ** -24, 2 ** -14, 0.333251953125, 1, 65504, Infinity, -2, -Infinity];
    expect([...halfToFloat(Uint16Array.from(patterns))]).toEqual(values);
    expect(halfToFloat(Uint16Array.of(0x7c01, 0xffff))).toEqual(Float32Array.of(NaN, NaN));
    expect(Object.is(halfToFloat(Uint16Array.of(0x8000))[0], -0)).toBe(true);
  });

  it("survives the way to float32 and back for every pattern that is a number", () => {
    const numbers = EVERY_PATTERN.filter((bits) => (bits & 0x7fff) <= 0x7c00);
    expect(floatToHalf(halfToFloat(numbers))).toEqual(numbers);
  });

  it("stays NaN for every pattern that is none", () => {
    const strangers = EVERY_PATTERN.filter((bits) => (bits & 0x7fff) > 0x7c00);
    expect(halfToFloat(floatToHalf(halfToFloat(strangers))).every(Number.isNaN)).toBe(true);
  });

  it("rounds to the nearest half, ties to the even pattern", () => {
    const positive = halfToFloat(EVERY_PATTERN.subarray(0, 0x7c00)); // ascending
    const anyFloat = fc.oneof(
      fc.float({ noNaN: true, min: -65504, max: 65504 }),
      fc.float({ noNaN: true, min: -(2 ** -13), max: 2 ** -13 }),
      fc.integer({ min: 0, max: 0x7bfe }).map((bits) => ((positive[bits] ?? 0) + (positive[bits + 1] ?? 0)) / 2), // ties
    );
    fc.assert(
      fc.property(anyFloat, (value) => {
        const magnitude = Math.abs(value);
        const above = positive.findIndex((half) => half >= magnitude);
        const below = Math.max(0, above - 1);
        const gaps = [magnitude - (positive[below] ?? NaN), (positive[above] ?? NaN) - magnitude] as const;
        const even = below % 2 === 0 ? below : above;
        const nearest = gaps[0] === gaps[1] ? even : gaps[0] < gaps[1] ? below : above;
        expect((floatToHalf(Float32Array.of(value))[0] ?? NaN) & 0x7fff).toBe(nearest);
      }),
    );
  });

  it("overflows where fitsHalf says so", () => {
    for (const value of [65504, 65519.99609375, 65520, 65536, 1e30]) {
      const [half = NaN] = halfToFloat(floatToHalf(Float32Array.of(-value)));
      expect(Number.isFinite(half)).toBe(fitsHalf(-value));
    }
  });

  it("reads only the view it is given", () => {
    const outer = Float32Array.of(1, 2, 3, 4);
    expect(halfToFloat(floatToHalf(outer.subarray(1, 3)))).toEqual(Float32Array.of(2, 3));
  });
});

describe("bfloat16", () => {
  it("is the upper half of a float32", () => {
    const patterns = Uint16Array.of(0x0000, 0x3f80, 0xc040, 0x7f80, 0x3eaa, 0x0001);
    const values = [0, 1, -3, Infinity, 0.33203125, 2 ** -133];
    expect([...bfloatToFloat(patterns)]).toEqual(values);
  });
});
