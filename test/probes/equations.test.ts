import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { factorise } from "../../src/probes/equations.js";
import { dot, multiply } from "../../src/probes/linear-algebra.js";
import { describeOnEachBackend } from "../support/backends.js";
import { randomMatrix } from "./random-matrix.js";

/** XᵀX + shift · I in float64, with columns of very different size. */
function definite({ rows, columns: n, values }: ReturnType<typeof randomMatrix>, shift: number): Float64Array {
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

describeOnEachBackend("linear equations of probes", (backend) => {
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

  it("refuses a matrix that is not positive definite", async () => {
    await expect(factorise(Float64Array.of(1, 2, 2, 1), 2)).rejects.toThrow(/not positive definite/);
  });
});
