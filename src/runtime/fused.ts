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
  const [only] = runFusedMany(name, inputs, attrs);
  if (only === undefined) throw new RangeError(`${name} gave no tensor`);
  return only;
}

/**
 * Runs a kernel that gives several tensors.
 *
 * It does so without TF.js's `runKernel` except where that was asked to profile: a step of generation runs some 500 of
 * these, and the engine's bookkeeping would take longer than the smaller ones do.
 *
 * @returns owned by the caller.
 */
export function runFusedMany(
  name: `Tonearm${string}`,
  inputs: FusedInputs,
  attrs: tf.NamedAttrMap = {},
): readonly tf.Tensor[] {
  const engine = tf.engine();
  if (engine.state.profiling) {
    const result: tf.Tensor | tf.Tensor[] = engine.runKernel(name, present(inputs), attrs);
    return Array.isArray(result) ? result : [result];
  }
  const kernel = tf.getKernel(name, engine.backendName);
  const result = kernel.kernelFunc({ inputs: { ...inputs }, attrs, backend: engine.backend });
  const infos = Array.isArray(result) ? result : [result];
  return infos.map((info) => engine.makeTensorFromTensorInfo(info));
}

function present(inputs: FusedInputs): Record<string, tf.Tensor> {
  const given: Record<string, tf.Tensor> = {};
  for (const [name, tensor] of Object.entries(inputs)) if (tensor) given[name] = tensor;
  return given;
}
