import * as tf from "@tensorflow/tfjs-core";

import { hasFused, runFused } from "../runtime/fused.js";

/**
 * How activations are moved. An activation h is a vector: [R, T, D] holds one at each row and position, [R, T, H, Dh] one
 * for each head there. Below, s are the strengths at a place, v̂ a direction of length 1, w a unit's weight.
 *
 * All operators have one form, h' = keep · h + factor · Σ sᵢ stepᵢ:
 *
 * | operator | keep | factor | stepᵢ |
 * |---|---|---|---|
 * | convex | 1 / (1 + Σ \|sᵢ wᵢ\|) | keep · ‖h‖ | wᵢ v̂ᵢ |
 * | add | 1 | 1 | wᵢ vᵢ, in the unit that the spec gives |
 * | clamp | 1 | goal − h · v̂ | w v̂ |
 * | replace | 1 − s w | 1 | w µ |
 *
 * - convex is the norm-matched step of arXiv 2506.10225, h' = (h + s ‖h‖ v̂) / (1 + |s|), and its joint form for several
 *   directions, h' = (h + ‖h‖ Σ sᵢ v̂ᵢ) / (1 + Σ |sᵢ|);
 * - add is that of CAA (Panickssery et al. 2023), ITI (Li et al. 2023) and MusicRFM (arXiv 2510.19127), and "adjust"
 *   (Vélez Vásquez et al., ISMIR 2024), whose step is the difference of two class means;
 * - clamp takes the projection on v̂ to a goal, all of the way for s = 1: h' = h + s (goal − h · v̂) v̂. With goal 0 that
 *   is ablation. Along each direction of an orthonormal basis in turn it takes what of h lies in their span to a goal: the affine
 *   concept editing of arXiv 2411.09003, for more directions than one;
 * - replace interchanges h with a class mean µ (the same authors): h' = (1 − s) h + s µ.
 *
 * With `restoreNorm` the result has h's length: h' ‖h‖ / ‖h'‖, as repeng offers; a result of zeros stays zeros.
 *
 * Where all s w are 0, h' is h to the last bit.
 */
export type StepOperator = "convex" | "add" | "clamp" | "replace";

/** A step: everything about it but its strengths. U units of width W: U · W is D, or H · Dh. */
export interface Step {
  readonly operator: StepOperator;
  readonly restoreNorm: boolean;
  readonly steps: tf.Tensor3D; // [n, U, W]: n directions, more than one only for "convex"
  readonly weights: tf.Tensor2D; // [n, U]; 0: that unit is left alone
  readonly along: tf.Tensor2D | undefined; // v̂ of "clamp", [U, W]
  readonly goals: tf.Tensor1D | undefined; // of "clamp", [U]
}

/** What a step's strengths make of it; both broadcast over h seen as [R, T, U, W]. */
export interface Push {
  readonly push: tf.Tensor4D; // Σ sᵢ stepᵢ, [R, T, U, W]
  readonly keep: tf.Tensor4D | undefined; // [R, T, U, 1]; undefined: 1
}

/** Whether the backend moves activations in one kernel, which has no use for a {@link Push}. */
export function hasFusedStep(): boolean {
  return hasFused("TonearmSteer");
}

/**
 * Moves activations in one kernel.
 *
 * @param h [R, T, D] or [R, T, H, Dh], stays the caller's
 * @param strengths [R·T, n], stays the caller's
 * @returns a tensor of h's shape, owned by the caller.
 */
export function fusedStep(h: tf.Tensor, step: Step, strengths: tf.Tensor2D): tf.Tensor {
  const { operator, restoreNorm, steps, weights, along, goals } = step;
  return runFused("TonearmSteer", { h, strengths, steps, weights, along, goals }, { operator, restoreNorm });
}

/**
 * What `composedStep` needs of strengths: worth keeping while they stay the same.
 *
 * @param shape of h
 * @param strengths [R·T, n]
 * @returns owned by the caller.
 */
export function makePush(shape: readonly number[], { operator, steps, weights }: Step, strengths: tf.Tensor2D): Push {
  const [rows = 0, positions = 0] = shape;
  const [directions, units, width] = steps.shape;
  const push = tf.tidy(() => {
    const joined = tf.reshape(steps, [directions, units * width]); // [n, U·W]
    return tf.reshape<tf.Rank.R4>(tf.matMul(strengths, joined), [rows, positions, units, width]); // [R, T, U, W]
  });
  if (operator !== "convex" && operator !== "replace") return { push, keep: undefined };
  const keep = tf.tidy(() => {
    const total = tf.matMul(tf.abs(strengths), tf.abs(weights)); // [R·T, U]
    const kept = operator === "convex" ? tf.reciprocal(tf.add(total, 1)) : tf.sub(1, total);
    return tf.reshape<tf.Rank.R4>(kept, [rows, positions, units, 1]); // [R, T, U, 1]
  });
  return { push, keep };
}

/** The same as {@link fusedStep}, of TF.js's own ops. @returns a tensor of h's shape, owned by the caller. */
export function composedStep(h: tf.Tensor, step: Step, { push, keep }: Push): tf.Tensor {
  return tf.tidy(() => {
    const before = tf.reshape<tf.Rank.R4>(h, push.shape); // [R, T, U, W]
    const moved = move(before, step, push, keep);
    const after = step.restoreNorm ? tf.mul(moved, tf.divNoNan(norm(before), norm(moved))) : moved;
    return tf.reshape(after, h.shape);
  });
}

function move(h: tf.Tensor4D, step: Step, push: tf.Tensor4D, keep: tf.Tensor4D | undefined): tf.Tensor4D {
  if (step.along && step.goals) {
    const [units] = step.goals.shape;
    const gap = tf.sub(tf.reshape(step.goals, [units, 1]), tf.sum(tf.mul(h, step.along), -1, true)); // [R, T, U, 1]
    return tf.add(h, tf.mul(gap, push));
  }
  if (!keep) return tf.add(h, push);
  const factor = step.operator === "convex" ? tf.mul(norm(h), keep) : undefined; // [R, T, U, 1]
  return tf.add(tf.mul(h, keep), factor ? tf.mul(factor, push) : push);
}

/** ‖h‖ over the last axis, kept as one of length 1. */
function norm(h: tf.Tensor): tf.Tensor {
  return tf.sqrt(tf.sum(tf.square(h), -1, true));
}
