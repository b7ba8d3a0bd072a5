import { expect, it } from "vitest";

import { describeOnEachKernelSet, numbers } from "./support.js";

/** Σ x xᵀ of n + 3 random rows, plus the identity: symmetric and positive definite. */
function definite(n: number, seed: number): Float64Array {
  const rows = n + 3;
  const x = numbers(seed)(rows * n);
  const matrix = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      let sum = i === j ? 1 : 0;
      for (let row = 0; row < rows; row++) sum += (x[row * n + i] ?? 0) * (x[row * n + j] ?? 0);
      matrix[i * n + j] = sum;
    }
  }
  return matrix;
}

describeOnEachKernelSet("Cholesky's method in float64", (chosen) => {
  // 12 and 48 are the widths of a strip and of a block.
  it.each([1, 2, 3, 11, 12, 13, 47, 48, 49, 95, 97, 150])("solves %i equations to float64's precision", (n) => {
    const { addon } = chosen();
    const matrix = definite(n, n);
    const factor = matrix.slice();
    expect(addon.factorise(factor, n)).toBe(true);
    for (const count of [1, 5]) {
      const sides = Float64Array.from(numbers(count)(count * n));
      const solutions = sides.slice();
      addon.solve(factor, n, solutions);
      for (let index = 0; index < count * n; index++) {
        const [side, row] = [Math.floor(index / n), index % n];
        let image = 0;
        for (let k = 0; k < n; k++) image += (matrix[row * n + k] ?? 0) * (solutions[side * n + k] ?? 0);
        expect(Math.abs(image - (sides[index] ?? 0))).toBeLessThan(1e-12 * n);
      }
    }
  });

  it("gives the same factor on any number of threads", () => {
    const { addon } = chosen();
    const threads = addon.threads();
    const factors = [1, 2, 3].map((count) => {
      addon.useThreads(count);
      const factor = definite(130, 4);
      addon.factorise(factor, 130);
      return factor;
    });
    addon.useThreads(threads);
    expect(factors[1]).toEqual(factors[0]);
    expect(factors[2]).toEqual(factors[0]);
  });

  it("says that a matrix is not positive definite, and refuses sizes that don't fit", () => {
    const { addon } = chosen();
    expect(addon.factorise(Float64Array.of(1, 2, 2, 1), 2)).toBe(false);
    expect(addon.factorise(Float64Array.of(NaN), 1)).toBe(false);
    expect(() => addon.factorise(new Float64Array(5), 2)).toThrow(/square/);
    expect(() => {
      addon.solve(new Float64Array(4), 2, new Float64Array(3));
    }).toThrow(/width/);
  });
});
