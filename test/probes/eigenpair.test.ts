import { describe, expect, it } from "vitest";

import { topEigenpair } from "../../src/probes/eigenpair.js";
import { dot, unit } from "../../src/probes/linear-algebra.js";
import { randomMatrix } from "./random-matrix.js";

describe("the top eigenpair", () => {
  it("is found for a matrix whose eigenvectors are known", () => {
    const n = 60;
    // Householder reflection I − 2vvᵀ has columns that are orthonormal: eigenvectors with the eigenvalues chosen.
    const v = unit(Float64Array.from(randomMatrix(1, n, 9).values));
    const values = Float64Array.from({ length: n }, (_, index) => (index === 17 ? 1.001 : index / n));
    const reflect = (x: Float64Array): Float64Array => x.map((value, at) => value - 2 * dot(v, x) * (v[at] ?? 0));
    const apply = (x: Float64Array): Float64Array => reflect(reflect(x).map((value, at) => value * (values[at] ?? 0)));
    const { value, vector } = topEigenpair(apply, new Float64Array(n).fill(1));
    const expected = reflect(Float64Array.from({ length: n }, (_, index) => (index === 17 ? 1 : 0)));
    expect(value).toBeCloseTo(1.001, 10);
    expect(Math.abs(dot(vector, expected))).toBeGreaterThan(1 - 1e-9);
  });
});
