import * as tf from "@tensorflow/tfjs-core";

/**
 * Ops that a backend may have a kernel of its own for, under a name that starts with "Tonearm". Only the native backend
 * has any. Every caller has a composed version for the other backends, and tests hold the two equal.
 */

/** Whether the backend in use has the kernel. */
export function hasFused(name: `Tonearm${string}`): boolean {
  // TF.js's types leave out that there may be no such kernel.
  return (tf.getKernel(name, tf.getBackend()) as tf.KernelConfig | undefined) !== undefined;
}

/** Inputs of a kernel by name; absent ones may be undefined. */
export type FusedInputs = Readonly<Record<string, tf.Tensor | undefined>>;

/** Runs a kernel that gives one tensor. @returns owned by the caller. */
export function runFused(name: `Tonearm${string}`, inputs: FusedInputs, attrs: tf.NamedAttrMap = {}): tf.Tensor {
  return tf.engine().runKernel<tf.Tensor>(name, present(inputs), attrs);
}

/** Runs a kernel that gives several tensors. @returns owned by the caller. */
export function runFusedMany(
  name: `Tonearm${string}`,
  inputs: FusedInputs,
  attrs: tf.NamedAttrMap = {},
): readonly tf.Tensor[] {
  return tf.engine().runKernel<tf.Tensor[]>(name, present(inputs), attrs);
}

function present(inputs: FusedInputs): Record<string, tf.Tensor> {
  const given: Record<string, tf.Tensor> = {};
  for (const [name, tensor] of Object.entries(inputs)) if (tensor) given[name] = tensor;
  return given;
}
