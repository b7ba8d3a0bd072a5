import { expect, it } from "vitest";

import { crossFitRidge } from "../../src/probes/crossfit.js";
import { targetColumns, type ClassTarget } from "../../src/probes/data.js";
import { ridgeFolds } from "../../src/probes/ridge.js";
import type { Folds } from "../../src/probes/splits.js";
import { uniformStream } from "../../src/runtime/random.js";
import { describeOnEachBackend } from "../support/backends.js";

const [ROWS, WIDTH, FOLDS] = [120, 24, 4];
const PENALTIES = [1e-2, 1, 1e-1, 10, 100]; // in no order

/** Noise in which every `step`-th feature knows the class by `signal`. */
function planted(signal: number, step: number): { readonly values: Float32Array; readonly target: ClassTarget } {
  const uniforms = uniformStream(7, step);
  const classes = Int32Array.from({ length: ROWS }, (_, row) => row % 2);
  const values = Float32Array.from({ length: ROWS * WIDTH }, (_, index) => {
    const [row, feature] = [Math.floor(index / WIDTH), index % WIDTH];
    return uniforms() - 0.5 + (feature % step === 0 ? signal * (classes[row] ?? 0) : 0);
  });
  return { values, target: { kind: "classes", label: "genre", names: ["jazz", "rock"], classes } };
}

const folds: Folds = {
  count: FOLDS,
  ofRow: Int32Array.from({ length: ROWS }, (_, row) => Math.floor(row / 2) % FOLDS),
};

describeOnEachBackend("cross-fitted ridge", () => {
  it.each([
    [0, 3],
    [0.05, 2],
    [0.3, 2],
    [0.3, 12],
    [3, 1],
  ])("chooses the penalty that trying all of them finds: signal %f in every feature of %i", async (signal, step) => {
    const { values, target } = planted(signal, step);
    const x = { rows: ROWS, columns: WIDTH, values };
    const shared = await ridgeFolds(x, targetColumns(target).values, folds, true);
    const chosen: number[] = [];
    for (let fold = 0; fold < FOLDS; fold++) {
      const errors: number[] = [];
      for (const penalty of PENALTIES) {
        let error = 0;
        for (const other of [(fold + 1) % FOLDS, (fold + FOLDS - 1) % FOLDS]) {
          const solution = await (await shared.without([fold, other])).solve(penalty);
          error += (await shared.errors(solution, other)).reduce((a, b) => a + b, 0);
        }
        errors.push(error);
      }
      chosen.push(PENALTIES[errors.indexOf(Math.min(...errors))] ?? 0);
    }
    const [fit] = await crossFitRidge(x, [target], folds, { penalties: PENALTIES });
    expect(fit?.probe.settings["penalty"]).toBe(chosen.toSorted((a, b) => a - b)[FOLDS / 2]);
  });
});
