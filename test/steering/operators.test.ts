import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { Activation } from "../../src/activations/activation.js";
import type { RunPlan } from "../../src/activations/intervention.js";
import { NO_PREFIX, type DecoderContext } from "../../src/model/pass.js";
import type { SteeringVectors } from "../../src/probes/vectors.js";
import { Announcement } from "../../src/runtime/announce.js";
import {
  composedStep,
  fusedStep,
  hasFusedStep,
  makePush,
  type Step,
  type StepOperator,
} from "../../src/steering/operators.js";
import { steer } from "../../src/steering/steering.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureJson } from "../support/fixtures.js";
import { bareModel, noise, randomVectors, specOf } from "./support.js";

/** Made by tools/steering-goldens/make_goldens.py: every operator from its formula, in NumPy float64. */
interface Goldens {
  readonly shape: readonly number[];
  readonly h: readonly number[];
  readonly directions: readonly number[];
  readonly mean: readonly number[];
  readonly norm: readonly number[];
  readonly deviation: readonly number[];
  readonly score: readonly number[];
  readonly cases: readonly { readonly name: string; readonly steer: readonly object[]; readonly expected: number[] }[];
}

const GOLDENS = fixtureJson("steering/operators.json") as Readonly<Record<"residual" | "heads", Goldens>>;
const SITES = { residual: "blocks.0.hook_resid_post", heads: "blocks.0.attn.hook_z" } as const;
const ROWS = { batch: 1, roles: ["cond", "null"] } as const;
const RUN: RunPlan = { frames: 3, promptFrames: 0, frameRate: 50, rows: ROWS };

function vectorsOf(kind: "residual" | "heads"): SteeringVectors {
  const { directions, mean, norm, deviation, score } = GOLDENS[kind];
  const made = randomVectors(bareModel(kind), [SITES[kind]], ["a", "b"]);
  const numbers = {
    directions: Float32Array.from(directions),
    mean: Float32Array.from(mean),
    norm: Float32Array.from(norm),
    deviation: Float32Array.from(deviation),
    score: Float32Array.from(score),
  };
  return { ...made, sites: new Map([...made.sites].map(([site, one]) => [site, { ...one, ...numbers }])) };
}

function passOf(phase: "forward" | "decode", first: number, positions: number): DecoderContext {
  return {
    phase,
    step: first,
    firstPosition: first,
    positions,
    rows: ROWS,
    pattern: { delays: [0], pad: 8 },
    frames: 3,
    prefix: NO_PREFIX,
    window: { first: 0, end: 3 },
    frameRate: 50,
  };
}

describeOnEachBackend("the operators", () => {
  const cases = (["residual", "heads"] as const).flatMap((kind) =>
    GOLDENS[kind].cases.map(({ name, ...rest }) => ({ kind, name, ...rest })),
  );
  for (const passes of ["one pass", "a pass for each position"] as const) {
    it.each(cases)(
      `are the formulas' in NumPy: $name, $kind, ${passes}`,
      async ({ kind, steer: interventions, expected }) => {
        const { shape, h } = GOLDENS[kind];
        const [rows = 0, positions = 0, ...features] = shape;
        const ramp = { shape: "linear", from: 0.5, to: 1 };
        const spec = specOf(interventions.map((one) => ({ concept: "a", sites: SITES[kind], ramp, ...one })));
        const before = tf.memory().numTensors;
        const run = steer(bareModel(kind), spec, { genre: vectorsOf(kind) }).begin(RUN);
        const whole = tf.tensor([...h], [...shape]);
        const parts =
          passes === "one pass"
            ? [tf.clone(whole)]
            : Array.from({ length: positions }, (_, position) =>
                tf.slice(whole, [0, position, ...features.map(() => 0)], [rows, 1, ...features]),
              );
        const moved: tf.Tensor[] = [];
        for (const [index, value] of parts.entries()) {
          const pass = passOf(passes === "one pass" ? "forward" : "decode", index, value.shape[1] ?? 0);
          const at = new Activation({ announcement: new Announcement(SITES[kind], value), pass });
          const [hook] = run.hooks;
          moved.push((await hook?.run(value, at)) ?? value);
        }
        const joined = tf.concat(moved, 1);
        expect(await joined.data()).toBeAllClose(expected, { within: 1e-5 });
        run.end();
        tf.dispose([whole, joined, ...parts, ...moved]);
        expect(tf.memory().numTensors).toBe(before);
      },
    );
  }
});

describeOnEachBackend("a span", () => {
  it.each(["residual", "heads"] as const)(
    "of several means is taken to the goal in one step, and all else stays: %s",
    async (kind) => {
      const concepts = ["a", "b", "c"];
      const vectors = randomVectors(bareModel(kind), [SITES[kind]], concepts);
      const { mean = new Float32Array(), shape = [] } = vectors.sites.get(SITES[kind]) ?? {};
      const [size, width] = [mean.length / 3, shape.at(-1) ?? 1];
      const given = {
        concept: "b",
        minus: "a",
        sites: SITES[kind],
        operator: "span",
        beyond: 1.5,
        strength: 1,
        rows: "all",
      };
      const run = steer(bareModel(kind), specOf([given]), { genre: vectors }).begin(RUN);
      const h = tf.tensor(noise(2 * size, 7), [2, 1, ...shape]);
      const pass = passOf("decode", 0, 1);
      const [hook] = run.hooks;
      const moved = await hook?.run(h, new Activation({ announcement: new Announcement(SITES[kind], h), pass }));
      const [before, after] = [await h.data(), (await moved?.data()) ?? []];
      for (let start = 0; start < 2 * size; start += width) {
        const [a = [], b = [], c = []] = concepts.map((_, index) => {
          const first = index * size + (start % size);
          return [...mean.subarray(first, first + width)];
        });
        const dot = (x: readonly number[], y: readonly number[]): number =>
          x.reduce((sum, value, place) => sum + value * (y[place] ?? NaN), 0);
        const minus = (x: readonly number[], y: readonly number[]): number[] =>
          x.map((value, place) => value - (y[place] ?? NaN));
        const own = [...before.slice(start, start + width)];
        const now = Array.from(after.slice(start, start + width));
        const goal = b.map((value, place) => (a[place] ?? NaN) + 1.5 * (value - (a[place] ?? NaN)));
        const [one, two] = [minus(b, a), minus(b, c)];
        expect(dot(now, one)).toBeCloseTo(dot(goal, one), 4);
        expect(dot(now, two)).toBeCloseTo(dot(goal, two), 4);
        // What was added lies in the span: it is a sum of the two differences, by the normal equations.
        const step = minus(now, own);
        const determinant = dot(one, one) * dot(two, two) - dot(one, two) ** 2;
        const x = (dot(step, one) * dot(two, two) - dot(step, two) * dot(one, two)) / determinant;
        const y = (dot(step, two) * dot(one, one) - dot(step, one) * dot(one, two)) / determinant;
        expect(one.map((value, place) => x * value + y * (two[place] ?? NaN))).toBeAllClose(step, { within: 1e-4 });
      }
      run.end();
      tf.dispose(moved === undefined ? h : [h, moved]);
    },
  );
});

/** A step of random directions. Of several units the last one has no weight, and so no step. */
function randomStep(operator: StepOperator, units: number, width: number, restoreNorm: boolean): Step {
  const directions = operator === "convex" ? 3 : 1;
  const isAlone = (unit: number): boolean => units > 1 && unit % units === units - 1;
  const weights = noise(directions * units, 2).map((weight, index) => (isAlone(index) ? 0 : Math.abs(weight)));
  const steps = noise(directions * units * width, 1).map((value, index) =>
    isAlone(Math.floor(index / width)) ? 0 : value,
  );
  const clamps = operator === "clamp";
  return {
    operator,
    restoreNorm,
    steps: tf.tensor3d(steps, [directions, units, width]),
    weights: tf.tensor2d(weights, [directions, units]),
    along: clamps ? tf.tensor2d(noise(units * width, 3), [units, width]) : undefined,
    goals: clamps ? tf.tensor1d(noise(units, 4)) : undefined,
  };
}

describeOnEachBackend("the kernel that steers in one go", (backend) => {
  const cases = (["convex", "add", "clamp", "replace"] as const).flatMap((operator) =>
    [false, true].flatMap((restoreNorm) =>
      [
        [1, 37],
        [5, 16],
        [2, 1],
      ].map(([units = 0, width = 0]) => ({ operator, restoreNorm, units, width })),
    ),
  );
  it.runIf(backend === "native").each(cases)(
    "is the composition of TF.js's ops, and leaves alone what has no strength: $operator, restored $restoreNorm, [$units, $width]",
    async ({ operator, restoreNorm, units, width }) => {
      expect(hasFusedStep()).toBe(true);
      const [rows, positions] = [2, 3];
      const step = randomStep(operator, units, width, restoreNorm);
      const [directions] = step.steps.shape;
      const strengths = noise(rows * positions * directions, 5);
      strengths.fill(0, directions, 2 * directions); // the second place
      const given = tf.tensor2d(operator === "replace" ? strengths.map(Math.abs) : strengths, [
        rows * positions,
        directions,
      ]);
      const h = tf.tensor4d(noise(rows * positions * units * width, 6), [rows, positions, units, width]);
      const push = makePush(h.shape, step, given);
      const [fused, composed] = [fusedStep(h, step, given), composedStep(h, step, push)];
      const [before, one, other] = [await h.data(), await fused.data(), await composed.data()];
      expect(one).toBeAllClose(other, { within: 1e-5 });
      const untouched = [...before.keys()].filter((index) => {
        const [place, unit] = [Math.floor(index / (units * width)), Math.floor(index / width) % units];
        return place === 1 || (units > 1 && unit === units - 1);
      });
      for (const index of untouched) expect([one[index], other[index]]).toEqual([before[index], before[index]]);
      tf.dispose([h, given, fused, composed, step.steps, step.weights]);
      tf.dispose([push.push, push.keep, step.along, step.goals].filter((tensor) => tensor !== undefined));
    },
  );
});
