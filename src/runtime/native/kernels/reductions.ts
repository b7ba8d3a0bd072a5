import * as tf from "@tensorflow/tfjs-core";

import { REDUCTION } from "../addon.js";
import type { KernelCall, NativeKernel } from "../kernel.js";

/** Reductions over neighbouring axes, softmax and normalisation over the last axis, and the largest elements. */

/** A shape seen as [outer, length, inner], where `length` covers the reduced axes. */
interface Split {
  readonly outer: number;
  readonly length: number;
  readonly inner: number;
}

/** Undefined if the axes aren't neighbours, or are empty. */
function splitAt(shape: readonly number[], axes: readonly number[]): Split | undefined {
  const sorted = [...axes].sort((a, b) => a - b);
  const [first] = sorted;
  if (first === undefined || sorted.some((axis, index) => axis !== first + index)) return undefined;
  const size = (from: number, to: number): number => shape.slice(from, to).reduce((product, n) => product * n, 1);
  const split = {
    outer: size(0, first),
    length: size(first, first + sorted.length),
    inner: size(first + sorted.length, shape.length),
  };
  return split.length === 0 ? undefined : split;
}

function reduction(name: string, op: number, axesName = "axis"): NativeKernel {
  return {
    name,
    run: (call) => {
      const { backend } = call;
      const x = call.input("x");
      const axes = call.axes(axesName, x.shape);
      const split = splitAt(x.shape, axes);
      if (x.dtype !== "float32" || split === undefined) return undefined;
      const [kept, collapsed] = tf.backend_util.computeOutAndReduceShapes(x.shape, axes);
      const shape = call.flag("keepDims") ? tf.backend_util.expandShapeToKeepDim(kept, axes) : kept;
      if (tf.util.sizeFromShape(collapsed) !== split.length) return undefined;
      const y = backend.floatOutput(shape);
      backend.addon.reduce(op, backend.floats(x), y.values, split.outer, split.length, split.inner);
      return y.info;
    },
  };
}

function argMax(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("x");
  const axes = tf.util.parseAxisParam(call.number("axis"), x.shape);
  const split = splitAt(x.shape, axes);
  if (x.dtype !== "float32" || axes.length !== 1 || split?.inner !== 1) return undefined;
  const y = backend.integerOutput(x.shape.slice(0, -1));
  backend.addon.argMax(backend.floats(x), y.values, split.outer, split.length);
  return y.info;
}

function softmax(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("logits");
  const length = x.shape.at(-1) ?? 1;
  const last = x.shape.length - 1;
  const dim = call.number("dim");
  if (x.dtype !== "float32" || length === 0 || (dim !== last && dim !== -1)) return undefined;
  const y = backend.floatOutput(x.shape);
  backend.addon.softmax(backend.floats(x), y.values, y.values.length / length, length);
  return y.info;
}

/**
 * x over its standard deviation (attribute `centre`), or its root mean square, along the last axis. Returns [..., D], and
 * the divisors [..., 1].
 */
function standardize(call: KernelCall): tf.TensorInfo[] {
  const x = call.input("x");
  const scale = call.backend.floatOutput([...x.shape.slice(0, -1), 1]);
  return [normalize(call, { gain: null, bias: null, centre: call.flag("centre"), scale: scale.values }), scale.info];
}

/** Layer normalisation over the last axis with gain and bias [D]. */
function layerNorm(call: KernelCall): tf.TensorInfo {
  const { backend } = call;
  const [gain, bias] = [backend.floats(call.input("gain")), backend.floats(call.input("bias"))];
  return normalize(call, { gain, bias, centre: true, scale: null });
}

interface Normalization {
  readonly gain: Float32Array | null;
  readonly bias: Float32Array | null;
  readonly centre: boolean;
  readonly scale: Float32Array | null; // takes the divisors
}

function normalize(call: KernelCall, { gain, bias, centre, scale }: Normalization): tf.TensorInfo {
  const { backend } = call;
  const x = call.input("x");
  const length = x.shape.at(-1) ?? 1;
  const y = backend.floatOutput(x.shape);
  const rows = tf.util.sizeFromShape(x.shape.slice(0, -1));
  backend.addon.normalize(backend.floats(x), gain, bias, call.number("epsilon"), centre, y.values, scale, rows, length);
  return y.info;
}

function topK(call: KernelCall): tf.TensorInfo[] | undefined {
  const { backend } = call;
  const x = call.input("x");
  const k = call.number("k");
  const length = x.shape.at(-1) ?? 0;
  if (x.dtype !== "float32" || length === 0) return undefined;
  const shape = [...x.shape.slice(0, -1), k];
  const values = backend.floatOutput(shape);
  const indices = backend.integerOutput(shape);
  const rows = tf.util.sizeFromShape(x.shape) / length;
  backend.addon.topK(backend.floats(x), values.values, indices.values, rows, length, k);
  return [values.info, indices.info];
}

export const REDUCTION_KERNELS: readonly NativeKernel[] = [
  reduction(tf.Sum, REDUCTION.sum),
  reduction(tf.Mean, REDUCTION.mean),
  reduction(tf.Max, REDUCTION.maximum, "reductionIndices"),
  reduction(tf.Min, REDUCTION.minimum),
  { name: tf.ArgMax, run: argMax },
  { name: tf.Softmax, run: softmax },
  { name: "TonearmStandardize", run: standardize },
  { name: "TonearmLayerNorm", run: layerNorm },
  { name: tf.TopK, run: topK },
];
