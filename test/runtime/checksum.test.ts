import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { checksumText, xxh32 } from "../../src/runtime/checksum.js";
import { describeNative, native } from "./native/support.js";

const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => (index * 7 + 3) % 256);

describe("the checksum", () => {
  // From the Python package xxhash 4.1.0: xxhash.xxh32_hexdigest(bytes((i * 7 + 3) % 256 for i in range(length))).
  it.each([
    [0, "02cc5d05"],
    [1, "21ae663a"],
    [15, "82d3c84d"],
    [16, "8845547d"],
    [37, "b65bf2a4"],
    [1000, "c85a5152"],
  ])("of %i bytes is xxHash's", (length, expected) => {
    expect(checksumText(xxh32(bytes(length)))).toBe(expected);
  });

  it("finds any single byte that changed", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 100 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (data, at, change) => {
          const index = at % data.length;
          const changed = data.with(index, (data[index] ?? 0) ^ change);
          expect(xxh32(changed)).not.toBe(xxh32(data));
        },
      ),
    );
  });
});

describeNative("the kernels' checksum", () => {
  it("is the same as JavaScript's, wherever the bytes begin", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(7), (data, offset) => {
        const placed = new Uint8Array(new ArrayBuffer(data.length + offset), offset, data.length);
        placed.set(data);
        expect(native().addon.checksum(placed)).toBe(xxh32(data));
      }),
    );
  });
});
