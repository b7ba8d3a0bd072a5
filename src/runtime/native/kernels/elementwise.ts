import * as tf from "@tensorflow/tfjs-core";

import { BINARY, UNARY } from "../addon.js";
import type { KernelCall, NativeKernel } from "../kernel.js";

/** Functions of one element, and of two with broadcasting. float32 only: other types stay with the cpu backend. */

function unary(name: string, op: number): NativeKernel {
  return {
    name,
    run: (call) => {
      if (!call.allFloat("x")) return undefined;
      const { backend } = call;
      const x = call.input("x");
      const y = backend.floatOutput(x.shape);
      backend.addon.unary(op, backend.floats(x), y.values);
      return y.info;
    },
  };
}

function binary(name: string, op: number): NativeKernel {
  return {
    name,
    run: (call) => {
      if (!call.allFloat("a", "b")) return undefined;
      const { backend } = call;
      const [a, b] = [call.input("a"), call.input("b")];
      const y = backend.floatOutput(broadcastShape(a.shape, b.shape));
      backend.addon.binary(op, backend.floats(a), backend.floats(b), y.values, broadcastAxes(a, b, y.info));
      return y.info;
    },
  };
}

function broadcastShape(a: readonly number[], b: readonly number[]): number[] {
  const same = a.length === b.length && a.every((size, axis) => size === b[axis]);
  return same ? [...a] : tf.backend_util.assertAndGetBroadcastShape([...a], [...b]);
}

/** Size and strides of every axis, neighbours merged where both operands run on through them. */
function broadcastAxes(a: tf.TensorInfo, b: tf.TensorInfo, y: tf.TensorInfo): Int32Array {
  const merged: [size: number, aStride: number, bStride: number][] = []; // innermost first
  let [aStride, bStride] = [1, 1]; // of the axis at hand, if it isn't broadcast
  for (let axis = 1; axis <= y.shape.length; axis++) {
    const size = y.shape.at(-axis) ?? 1;
    const aSize = axis <= a.shape.length ? (a.shape.at(-axis) ?? 1) : 1;
    const bSize = axis <= b.shape.length ? (b.shape.at(-axis) ?? 1) : 1;
    if (size === 1) continue;
    const strides: [number, number] = [aSize === 1 ? 0 : aStride, bSize === 1 ? 0 : bStride];
    const inner = merged.at(-1);
    if (inner && strides[0] === inner[0] * inner[1] && strides[1] === inner[0] * inner[2]) inner[0] *= size;
    else merged.push([size, ...strides]);
    aStride *= aSize;
    bStride *= bSize;
  }
  return Int32Array.from(merged.length === 0 ? [1, 0, 0] : merged.reverse().flat());
}

/** Sum of a list of tensors of one shape, from the first to the last. */
function addN(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const [first, second, ...rest] = call.list();
  if (!first || !second || [first, second, ...rest].some(({ dtype }) => dtype !== "float32")) return undefined;
  const sum = backend.floatOutput(first.shape);
  const axes = Int32Array.of(sum.values.length, 1, 1);
  backend.addon.binary(BINARY.add, backend.floats(first), backend.floats(second), sum.values, axes);
  for (const term of rest) backend.addon.binary(BINARY.add, sum.values, backend.floats(term), sum.values, axes);
  return sum.info;
}

function cast(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("x");
  const target = call.text("dtype");
  if (x.dtype === "int32" && target === "float32") {
    const y = backend.floatOutput(x.shape);
    backend.addon.integersToFloats(backend.integers(x), y.values);
    return y.info;
  }
  if (x.dtype === "float32" && target === "int32") {
    const y = backend.integerOutput(x.shape);
    backend.addon.floatsToIntegers(backend.floats(x), y.values);
    return y.info;
  }
  return undefined;
}

export const ELEMENTWISE_KERNELS: readonly NativeKernel[] = [
  unary(tf.Neg, UNARY.negate),
  unary(tf.Abs, UNARY.abs),
  unary(tf.Square, UNARY.square),
  unary(tf.Sqrt, UNARY.sqrt),
  unary(tf.Rsqrt, UNARY.reciprocalSqrt),
  unary(tf.Reciprocal, UNARY.reciprocal),
  unary(tf.Exp, UNARY.exp),
  unary(tf.Erf, UNARY.erf),
  unary(tf.Tanh, UNARY.tanh),
  unary(tf.Sigmoid, UNARY.sigmoid),
  unary(tf.Relu, UNARY.relu),
  unary(tf.Elu, UNARY.elu),
  unary("TonearmGelu", UNARY.gelu),
  binary(tf.Add, BINARY.add),
  binary(tf.Sub, BINARY.subtract),
  binary(tf.Multiply, BINARY.multiply),
  binary(tf.RealDiv, BINARY.divide),
  binary(tf.Maximum, BINARY.maximum),
  binary(tf.Minimum, BINARY.minimum),
  binary(tf.SquaredDifference, BINARY.squaredDifference),
  { name: tf.AddN, run: addN },
  { name: tf.Cast, run: cast },
];
