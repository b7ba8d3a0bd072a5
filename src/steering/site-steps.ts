import * as tf from "@tensorflow/tfjs-core";

import { addStep, clampStep, convexStep, replaceStep, restoreNorm } from "./operators.js";
import type { PlannedDirection, PlannedSite, PlannedStep } from "./plan.js";

/**
 * The steps of one site in one run. What a step needs beside the activation is made on the host, once for each change of
 * its strengths: a constant strength costs a generation step nothing but the operator itself.
 */

/** The strengths of one direction in one pass, for each row and position: [R · T]. Undefined: all 0. */
export type Strengths = Float32Array | undefined;

/** The tensors of one step, for the strengths they were made for. */
interface Prepared {
  readonly key: readonly Strengths[];
  readonly rows: number;
  readonly tensors: StepTensors;
}

interface StepTensors {
  readonly push: tf.Tensor; // of the activation's shape
  readonly keep: tf.Tensor | undefined; // [R, T, 1] or [R, T, H, 1]
  readonly along: tf.Tensor | undefined; // [1, 1, W] or [1, 1, H, W]
  readonly goal: tf.Tensor | undefined; // of the activation's shape
}

/** A site at work in one run. */
export class SiteSteps {
  readonly #site: PlannedSite;
  readonly #prepared = new Map<PlannedStep, Prepared>();

  constructor(site: PlannedSite) {
    this.#site = site;
  }

  /**
   * Moves an activation.
   *
   * @param value [R, T, D] or [R, T, H, Dh], stays the network's
   * @param strengthsOf the strengths of a direction's intervention here and now
   * @returns a tensor of the same shape that is the caller's, or undefined where all strengths are 0.
   */
  apply(value: tf.Tensor, strengthsOf: (direction: PlannedDirection) => Strengths): tf.Tensor | undefined {
    let current: tf.Tensor | undefined;
    for (const step of this.#site.steps) {
      const strengths = step.directions.map(strengthsOf);
      if (strengths.every((one) => one === undefined)) continue;
      const before = current ?? value;
      const moved = this.#applyStep(step, before, strengths);
      current?.dispose();
      current = moved;
    }
    return current;
  }

  /** Frees the tensors kept from pass to pass. */
  dispose(): void {
    this.#prepared.forEach(({ tensors }) => disposeTensors(tensors));
    this.#prepared.clear();
  }

  #applyStep(step: PlannedStep, h: tf.Tensor, strengths: readonly Strengths[]): tf.Tensor {
    const single = h.shape[1] === 1;
    const tensors = single ? this.#prepare(step, h, strengths) : makeTensors(this.#site, step, h, strengths);
    try {
      const moved = runStep(step, h, tensors);
      if (!step.restoreNorm) return moved;
      const restored = restoreNorm(h, moved);
      moved.dispose();
      return restored;
    } finally {
      if (!single) disposeTensors(tensors); // a long pass comes once; its tensors are as large as the activation
    }
  }

  #prepare(step: PlannedStep, h: tf.Tensor, strengths: readonly Strengths[]): StepTensors {
    const known = this.#prepared.get(step);
    const rows = h.shape[0];
    if (known?.rows === rows && known.key.every((one, index) => isEqual(one, strengths[index]))) return known.tensors;
    if (known) disposeTensors(known.tensors);
    const tensors = makeTensors(this.#site, step, h, strengths);
    this.#prepared.set(step, { key: strengths, rows, tensors });
    return tensors;
  }
}

function runStep({ operator }: PlannedStep, h: tf.Tensor, { push, keep, along, goal }: StepTensors): tf.Tensor {
  if (along && goal) return clampStep(h, along, push, goal);
  if (!keep) return addStep(h, push);
  return operator === "replace" ? replaceStep(h, keep, push) : convexStep(h, keep, push);
}

/** Everything that an operator takes beside the activation. */
function makeTensors(
  { units, hasHeads }: PlannedSite,
  { operator, directions }: PlannedStep,
  { shape }: tf.Tensor,
  strengths: readonly Strengths[],
): StepTensors {
  const [rows = 0, positions = 0, ...features] = shape;
  const places = rows * positions;
  const perPlace = features.reduce((product, size) => product * size, 1); // U · W
  const width = perPlace / units;
  const push = new Float32Array(places * perPlace);
  const total = new Float32Array(places * units); // Σ |strength · weight|
  const clamps = operator === "clamp" || operator === "ablate";
  const goal = clamps ? new Float32Array(push.length) : undefined;
  directions.forEach(({ step, weights, goals }, number) => {
    const strength = strengths[number];
    if (!strength) return;
    for (let place = 0; place < places; place++) {
      const s = strength[place] ?? 0;
      if (s === 0) continue;
      for (let unit = 0; unit < units; unit++) {
        const weight = weights[unit] ?? 0;
        if (weight === 0) continue;
        const start = place * perPlace + unit * width;
        const target = goals[unit] ?? 0;
        for (let index = 0; index < width; index++) {
          const pushed = s * (step[unit * width + index] ?? NaN);
          push[start + index] = (push[start + index] ?? 0) + pushed;
          if (goal) goal[start + index] = (goal[start + index] ?? 0) + target * pushed;
        }
        total[place * units + unit] = (total[place * units + unit] ?? 0) + Math.abs(s * weight);
      }
    }
  });
  const keep = operator === "convex" || operator === "replace" ? total.map(keepOf(operator)) : undefined;
  if (operator === "convex")
    push.forEach((value, index) => (push[index] = value * (keep?.[Math.floor(index / width)] ?? 1)));
  const [along] = clamps ? directions.map((direction) => direction.along) : [];
  return {
    push: tf.tensor(push, shape),
    keep: keep && tf.tensor(keep, hasHeads ? [rows, positions, units, 1] : [rows, positions, 1]),
    along: along && tf.tensor(along, [1, 1, ...features]),
    goal: goal && tf.tensor(goal, shape),
  };
}

function keepOf(operator: "convex" | "replace"): (total: number) => number {
  return operator === "convex" ? (total) => 1 / (1 + total) : (total) => 1 - total;
}

function disposeTensors({ push, keep, along, goal }: StepTensors): void {
  for (const tensor of [push, keep, along, goal]) tensor?.dispose();
}

function isEqual(a: Strengths, b: Strengths): boolean {
  if (a === b) return true;
  return a !== undefined && b?.length === a.length && a.every((value, index) => value === b[index]);
}
