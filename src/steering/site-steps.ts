import * as tf from "@tensorflow/tfjs-core";

import { disposeTree } from "../runtime/owner.js";
import {
  composedStep,
  fusedStep,
  hasFusedStep,
  makePush,
  type Push,
  type Step,
  type StepOperator,
} from "./operators.js";
import type { PlannedSite, PlannedStep } from "./plan.js";
import type { StepStrengths, StrengthTensors } from "./strengths.js";

/**
 * The steps of one site in one run. What a step needs beside the activation and its strengths is made once; strengths come
 * as one small tensor that all sites share.
 */
export class SiteSteps {
  readonly #site: PlannedSite;
  readonly #steps = new Map<PlannedStep, { readonly step: Step; readonly interventions: readonly number[] }>();
  readonly #pushes = new Map<PlannedStep, { readonly of: tf.Tensor2D; readonly push: Push }>();

  constructor(site: PlannedSite) {
    this.#site = site;
  }

  /**
   * Moves an activation.
   *
   * @param value [R, T, D] or [R, T, H, Dh], stays the network's
   * @param strengths of this site here and now
   * @returns a tensor of the same shape that is the caller's, or undefined where all strengths are 0.
   */
  apply(value: tf.Tensor, strengths: StrengthTensors): tf.Tensor | undefined {
    const [rows = 0, positions = 0] = value.shape;
    let current: tf.Tensor | undefined;
    for (const planned of this.#site.steps) {
      const { step, interventions } = this.#stepOf(planned);
      const given = strengths.of(interventions, this.#site.number, rows * positions);
      if (given === undefined) continue;
      const moved = this.#move(planned, current ?? value, step, given);
      if (!given.shared) given.tensor.dispose();
      current?.dispose();
      current = moved;
    }
    return current;
  }

  /** Frees the tensors kept from pass to pass. */
  dispose(): void {
    this.#steps.forEach(({ step }) => disposeTree(step));
    this.#pushes.forEach(({ push }) => disposeTree(push));
    this.#steps.clear();
    this.#pushes.clear();
  }

  #move(planned: PlannedStep, h: tf.Tensor, step: Step, { tensor, shared }: StepStrengths): tf.Tensor {
    if (hasFusedStep()) return fusedStep(h, step, tensor);
    if (shared && h.shape[1] === 1) return composedStep(h, step, this.#keptPush(planned, h, step, tensor));
    const push = makePush(h.shape, step, tensor); // as large as the activation, for a pass that comes once
    try {
      return composedStep(h, step, push);
    } finally {
      disposeTree(push);
    }
  }

  #stepOf(planned: PlannedStep): { readonly step: Step; readonly interventions: readonly number[] } {
    const known = this.#steps.get(planned);
    if (known) return known;
    const interventions = planned.directions.map(({ intervention }) => intervention);
    const made = { step: makeStep(this.#site, planned), interventions };
    this.#steps.set(planned, made);
    return made;
  }

  /** The push of strengths, for as long as they are the same tensor. */
  #keptPush(planned: PlannedStep, h: tf.Tensor, step: Step, strengths: tf.Tensor2D): Push {
    const known = this.#pushes.get(planned);
    if (known?.of === strengths) return known.push;
    disposeTree(known?.push);
    const push = makePush(h.shape, step, strengths);
    this.#pushes.set(planned, { of: strengths, push });
    return push;
  }
}

function makeStep({ units }: PlannedSite, { operator, restoreNorm, directions }: PlannedStep): Step {
  const count = directions.length;
  const [first] = directions;
  const width = (first?.step.length ?? 0) / units;
  const kind = stepOperator(operator);
  return {
    operator: kind,
    restoreNorm,
    steps: tf.tensor3d(joined(directions.map(({ step }) => step)), [count, units, width]),
    weights: tf.tensor2d(joined(directions.map(({ weights }) => weights)), [count, units]),
    along: kind === "clamp" && first ? tf.tensor2d(first.along, [units, width]) : undefined,
    goals: kind === "clamp" && first ? tf.tensor1d(first.goals) : undefined,
  };
}

/** Ablation is clamping to 0, a span is clamped along its basis, and adjusting is adding a difference of means. */
function stepOperator(operator: PlannedStep["operator"]): StepOperator {
  if (operator === "ablate" || operator === "span") return "clamp";
  return operator === "adjust" ? "add" : operator;
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let start = 0;
  for (const part of parts) {
    all.set(part, start);
    start += part.length;
  }
  return all;
}
