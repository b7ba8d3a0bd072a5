import { groupsOf, type ClassTarget, type Groups, type Training, type ValueTarget } from "../../src/probes/data.js";
import type { Matrix } from "../../src/probes/linear-algebra.js";
import { fixtureJson } from "../support/fixtures.js";

/** Numbers of scikit-learn 1.9.1 and NumPy 2.4.6, made by tools/probe-goldens/make_goldens.py. */
export interface Goldens {
  readonly rows: number;
  readonly features: number;
  readonly x: readonly number[];
  readonly groups: readonly number[];
  readonly classes: readonly number[];
  readonly binary: readonly number[];
  readonly values: readonly number[];
  readonly ridge: Readonly<Record<"classes" | "binary" | "values", Fitted>>;
  readonly logistic: Readonly<Record<"classes" | "binary", Fitted>>;
  readonly adam: { readonly start: readonly number[]; readonly weights: readonly number[] };
  readonly means: readonly number[];
  readonly covariance: readonly number[];
  readonly pca: {
    readonly pairs: readonly number[];
    readonly signs: readonly number[];
    readonly direction: readonly number[];
  };
  readonly rfm: {
    readonly x: readonly number[];
    readonly y: readonly number[];
    readonly bandwidth: number;
    readonly exponent: number;
    readonly penalty: number;
    readonly centre: boolean;
    readonly alpha: readonly (readonly number[])[];
    readonly metric: readonly (readonly number[])[];
    readonly direction: readonly number[];
  };
  readonly metrics: {
    readonly scores: readonly number[];
    readonly accuracy: number;
    readonly balancedAccuracy: number;
    readonly auc: number;
    readonly guesses: readonly number[];
    readonly r2: number;
  };
}

interface Fitted {
  readonly penalty: number;
  readonly weights: readonly number[];
  readonly bias: readonly number[];
}

export const goldens = fixtureJson("probes/goldens.json") as Goldens;

export const x: Matrix = {
  rows: goldens.rows,
  columns: goldens.features,
  values: Float32Array.from(goldens.x),
};
export const groups: Groups = groupsOf(goldens.groups.map((group) => String(group).padStart(3, "0")));
export const classes: ClassTarget = {
  kind: "classes",
  label: "genre",
  names: ["classical", "jazz", "rock"],
  classes: Int32Array.from(goldens.classes),
};
export const binary: ClassTarget = {
  kind: "classes",
  label: "drums",
  names: ["absent", "present"],
  classes: Int32Array.from(goldens.binary),
};
export const values: ValueTarget = { kind: "value", label: "tempo", values: Float64Array.from(goldens.values) };

/** A training side of the goldens' features. */
export function trainingOn(target: Training["target"]): Training {
  return { x, target, groups, seed: 0 };
}
