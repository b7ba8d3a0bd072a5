import * as tf from "@tensorflow/tfjs-core";

/**
 * The steps by which an activation is moved, as few ops each: whatever does not depend on the activation is made before.
 *
 * `h` is [R, T, D], or [R, T, H, Dh] for a site with heads: then every head is moved for itself, and norms and
 * projections are over the last axis. Results are the caller's; arguments stay the caller's.
 */

/**
 * The norm-matched convex step of arXiv 2506.10225: h' = (h + s ‖h‖ v̂) / (1 + |s|). Several directions are one joint
 * step: h' = (h + ‖h‖ Σ sᵢ v̂ᵢ) / (1 + Σ |sᵢ|).
 *
 * @param keep 1 / (1 + Σ |sᵢ|), [R, T, 1] or [R, T, H, 1]; 1 where nothing is steered
 * @param push keep · Σ sᵢ v̂ᵢ, of h's shape; 0 where nothing is steered
 */
export function convexStep(h: tf.Tensor, keep: tf.Tensor, push: tf.Tensor): tf.Tensor {
  return tf.tidy(() => tf.add(tf.mul(h, keep), tf.mul(norm(h), push)));
}

/**
 * h' = h + push: the additive step of CAA (Panickssery et al. 2023), ITI (Li et al. 2023) and MusicRFM
 * (arXiv 2510.19127), and `adjust` (Vélez Vásquez et al., ISMIR 2024), where push is the difference of class means.
 *
 * @param push of h's shape
 */
export function addStep(h: tf.Tensor, push: tf.Tensor): tf.Tensor {
  return tf.add(h, push);
}

/**
 * h' = h + s (target − h · v̂) v̂: the projection on v̂ goes to the target, all of the way for s = 1. With target 0 that
 * is ablation.
 *
 * @param along v̂, [1, 1, D] or [1, 1, H, Dh]
 * @param pull s · v̂, of h's shape; 0 where nothing is steered
 * @param goal s · target · v̂, of h's shape
 */
export function clampStep(h: tf.Tensor, along: tf.Tensor, pull: tf.Tensor, goal: tf.Tensor): tf.Tensor {
  return tf.tidy(() => {
    const projection = tf.sum(tf.mul(h, along), -1, true); // [R, T, 1] or [R, T, H, 1]
    return tf.add(tf.sub(h, tf.mul(projection, pull)), goal);
  });
}

/**
 * h' = (1 − s) h + s µ: interchange with a class mean, as "replace" of Vélez Vásquez et al. for s = 1.
 *
 * @param keep 1 − s, [R, T, 1] or [R, T, H, 1]
 * @param push s · µ, of h's shape
 */
export function replaceStep(h: tf.Tensor, keep: tf.Tensor, push: tf.Tensor): tf.Tensor {
  return tf.tidy(() => tf.add(tf.mul(h, keep), push));
}

/**
 * h' ‖h‖ / ‖h'‖, as repeng offers: the direction of the steered activation, the length of the unsteered one. An
 * activation that was not moved is exactly itself; one of zeros stays zeros.
 */
export function restoreNorm(before: tf.Tensor, after: tf.Tensor): tf.Tensor {
  return tf.tidy(() => tf.mul(after, tf.divNoNan(norm(before), norm(after))));
}

/** ‖h‖ over the last axis, kept as one of length 1. */
function norm(h: tf.Tensor): tf.Tensor {
  return tf.sqrt(tf.sum(tf.square(h), -1, true));
}
