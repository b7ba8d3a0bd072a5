import { expect, it } from "vitest";

import { product } from "../../src/probes/linear-algebra.js";
import { describeOnEachBackend } from "../support/backends.js";

describeOnEachBackend("products of probes", () => {
  it("multiplies with either operand transposed", async () => {
    const a = { rows: 2, columns: 3, values: Float32Array.of(1, 2, 3, 4, 5, 6) };
    const b = { rows: 2, columns: 3, values: Float32Array.of(1, 0, 1, 0, 1, 0) };
    expect(Array.from((await product(a, b, { transposeB: true })).values)).toEqual([4, 2, 10, 5]);
    expect(Array.from((await product(a, b, { transposeA: true })).values)).toEqual([1, 4, 1, 2, 5, 2, 3, 6, 3]);
  });
});
