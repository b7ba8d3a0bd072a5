import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { topEigenpair } from "../../src/probes/eigenpair.js";
import { factorise } from "../../src/probes/equations.js";
import { dot, multiply, product, unit, type Matrix } from "../../src/probes/linear-algebra.js";
import { uniformStream } from "../../src/runtime/random.js";
import { describeOnEachBackend } from "../support/backends.js";

function randomMatrix(rows: number, columns: number, seed: number): Matrix {
  const uniforms = uniformStream(seed, 0);
  return { rows, columns, values: Float32Array.from({ length: rows * columns }, () => uniforms() - 0.5) };
}

/** XᵀX + shift · I in float64, with columns of very different size. */
function definite({ rows, columns: n, values }: Matrix, shift: number): Float64Array {
  const gram = new Float64Array(n * n);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < n; i++) {
      const left = (values[row * n + i] ?? 0) / (1 + (i % 7));
      for (let j = 0; j < n; j++)
        gram[i * n + j] = (gram[i * n + j] ?? 0) + (left * (values[row * n + j] ?? 0)) / (1 + (j % 7));
    }
  }
  for (let i = 0; i < n; i++) gram[i * n + i] = (gram[i * n + i] ?? 0) + shift;
  return gram;
}

describeOnEachBackend("linear algebra of probes", (backend) => {
  for (const n of [1, 5, 33, backend === "cpu" ? 330 : 450]) {
    it(`solves ${n} equations to a relative residual of 1e-11, leaving the matrix and no tensor behind`, async () => {
      const matrix = definite(randomMatrix(Math.min(40, Math.max(2, n >> 1)), n, n), 1e-3);
      const before = Float64Array.from(matrix);
      const sides = Float64Array.from(randomMatrix(2, n, 3).values);
      const tensors = tf.memory().numTensors;
      const solutions = (await factorise(matrix, n)).solve(sides);
      expect(tf.memory().numTensors).toBe(tensors);
      expect(matrix).toEqual(before);
      for (const index of [0, 1]) {
        const side = sides.subarray(index * n, (index + 1) * n);
        const image = multiply(matrix, n, solutions.subarray(index * n, (index + 1) * n));
        const residual = image.map((value, at) => value - (side[at] ?? 0));
        expect(Math.sqrt(dot(residual, residual) / dot(side, side))).toBeLessThan(1e-11);
      }
    });
  }

  it("multiplies with either operand transposed", async () => {
    const a = { rows: 2, columns: 3, values: Float32Array.of(1, 2, 3, 4, 5, 6) };
    const b = { rows: 2, columns: 3, values: Float32Array.of(1, 0, 1, 0, 1, 0) };
    expect(Array.from((await product(a, b, { transposeB: true })).values)).toEqual([4, 2, 10, 5]);
    expect(Array.from((await product(a, b, { transposeA: true })).values)).toEqual([1, 4, 1, 2, 5, 2, 3, 6, 3]);
  });

  it("refuses a matrix that is not positive definite", async () => {
    await expect(factorise(Float64Array.of(1, 2, 2, 1), 2)).rejects.toThrow(/not positive definite/);
  });

  it("finds the top eigenvector of a matrix whose eigenvectors are known", () => {
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
