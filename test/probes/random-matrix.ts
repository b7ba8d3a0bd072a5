import type { Matrix } from "../../src/probes/linear-algebra.js";
import { uniformStream } from "../../src/runtime/random.js";

/** Rows of numbers in [−0.5, 0.5). */
export function randomMatrix(rows: number, columns: number, seed: number): Matrix {
  const uniforms = uniformStream(seed, 0);
  return { rows, columns, values: Float32Array.from({ length: rows * columns }, () => uniforms() - 0.5) };
}
