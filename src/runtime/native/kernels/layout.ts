import * as tf from "@tensorflow/tfjs-core";

import type { Words } from "../addon.js";
import type { NativeBackend, Output } from "../backend.js";
import type { KernelCall, NativeKernel } from "../kernel.js";

/**
 * Kernels that move elements without computing: each is one or more strided copies. float32 and int32; other types stay
 * with the cpu backend.
 */

/** One axis of a copy: elements, and the distance between neighbours in source and target. */
type CopyAxis = readonly [size: number, sourceStride: number, targetStride: number];

function movable(...tensors: readonly tf.TensorInfo[]): boolean {
  return tensors.every(({ dtype }) => dtype === "float32" || dtype === "int32");
}

function words(backend: NativeBackend, tensor: tf.TensorInfo): Words {
  return tensor.dtype === "int32" ? backend.integers(tensor) : backend.floats(tensor);
}

function outputLike(backend: NativeBackend, tensor: tf.TensorInfo, shape: number[]): Output<Words> {
  return tensor.dtype === "int32" ? backend.integerOutput(shape) : backend.floatOutput(shape);
}

/** Strides of a row-major tensor, the last axis included. */
function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let axis = shape.length - 2; axis >= 0; axis--) {
    strides[axis] = (strides[axis + 1] ?? 1) * (shape[axis + 1] ?? 1);
  }
  return strides;
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0);
}

function copy(
  backend: NativeBackend,
  source: Words,
  sourceOffset: number,
  target: Words,
  targetOffset: number,
  axes: readonly CopyAxis[],
): void {
  backend.addon.copy(source, sourceOffset, target, targetOffset, Int32Array.from(axes.flat()));
}

/** Copies a tensor's box [begin, begin + size) to a place in another. */
function copyBox(
  backend: NativeBackend,
  source: Words,
  sourceShape: readonly number[],
  begin: readonly number[],
  size: readonly number[],
  target: Words,
  targetShape: readonly number[],
  place: readonly number[],
): void {
  const from = stridesOf(sourceShape);
  const to = stridesOf(targetShape);
  const axes = size.map((count, axis): CopyAxis => [count, from[axis] ?? 1, to[axis] ?? 1]);
  copy(backend, source, dot(begin, from), target, dot(place, to), axes);
}

function slice(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("x");
  if (!movable(x)) return undefined;
  const [begin = [], size = []] = tf.slice_util.parseSliceParams(x, call.numbers("begin"), call.numbers("size"));
  tf.slice_util.assertParamsValid(x, begin, size);
  return box(backend, x, begin, size);
}

/** A new tensor of the elements [begin, begin + size). */
function box(backend: NativeBackend, x: tf.TensorInfo, begin: readonly number[], size: number[]): tf.TensorInfo {
  const y = outputLike(backend, x, size);
  copyBox(backend, words(backend, x), x.shape, begin, size, y.values, size, new Array<number>(size.length).fill(0));
  return y.info;
}

function concat(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const inputs = call.list();
  const [first] = inputs;
  if (!first || !movable(...inputs) || inputs.some(({ dtype }) => dtype !== first.dtype)) return undefined;
  const axis = tf.util.parseAxisParam(call.number("axis"), first.shape)[0] ?? 0;
  const shapes = inputs.map(({ shape }) => shape);
  tf.backend_util.assertParamsConsistent(shapes, axis);
  const shape = tf.backend_util.computeOutShape(shapes, axis);
  const y = outputLike(backend, first, shape);
  let position = 0;
  for (const part of inputs) {
    const origin = new Array<number>(shape.length).fill(0);
    const place = origin.with(axis, position);
    copyBox(backend, words(backend, part), part.shape, origin, part.shape, y.values, shape, place);
    position += part.shape[axis] ?? 0;
  }
  return y.info;
}

/** Joins tensors along a new axis. */
function pack(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const inputs = call.list();
  const [first] = inputs;
  if (!first || !movable(...inputs) || inputs.some(({ dtype }) => dtype !== first.dtype)) return undefined;
  const axis = call.number("axis");
  const shape = first.shape.toSpliced(axis, 0, inputs.length);
  const y = outputLike(backend, first, shape);
  const inner = tf.util.sizeFromShape(first.shape.slice(axis));
  const outer = tf.util.sizeFromShape(first.shape.slice(0, axis));
  for (const [index, part] of inputs.entries()) {
    tf.util.assertShapesMatch(first.shape, part.shape, "All tensors passed to stack must have matching shapes");
    copy(backend, words(backend, part), 0, y.values, index * inner, [
      [outer, inner, inner * inputs.length],
      [inner, 1, 1],
    ]);
  }
  return y.info;
}

function split(call: KernelCall): tf.TensorInfo[] | undefined {
  const { backend } = call;
  const x = call.input("x");
  if (!movable(x)) return undefined;
  const axis = tf.util.parseAxisParam(call.number("axis"), x.shape)[0] ?? 0;
  const sizes = tf.backend_util.prepareSplitSize(x, splitSizes(call), axis);
  const begin = new Array<number>(x.shape.length).fill(0);
  return sizes.map((size) => {
    const part = box(backend, x, begin, x.shape.with(axis, size));
    begin[axis] = (begin[axis] ?? 0) + size;
    return part;
  });
}

/** Sizes of the parts, or into how many equal ones. */
function splitSizes(call: KernelCall): number | number[] {
  const sizes = call.attr("numOrSizeSplits");
  return typeof sizes === "number" ? sizes : call.numbers("numOrSizeSplits");
}

function unpack(call: KernelCall): tf.TensorInfo[] | undefined {
  const { backend } = call;
  const x = call.input("value");
  if (!movable(x)) return undefined;
  const axis = tf.util.parseAxisParam(call.number("axis"), x.shape)[0] ?? 0;
  const shape = x.shape.toSpliced(axis, 1);
  const begin = new Array<number>(x.shape.length).fill(0);
  return Array.from({ length: x.shape[axis] ?? 0 }, (_, index) => {
    const y = outputLike(backend, x, shape);
    const size = x.shape.with(axis, 1);
    copyBox(backend, words(backend, x), x.shape, begin.with(axis, index), size, y.values, size, begin);
    return y.info;
  });
}

function transpose(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("x");
  if (!movable(x)) return undefined;
  const order = call.numbers("perm");
  const shape = order.map((axis) => x.shape[axis] ?? 1);
  // Axes of one element may go anywhere: if the others keep their order, no element moves.
  const moving = order.filter((axis) => x.shape[axis] !== 1);
  if (moving.every((axis, index) => index === 0 || axis > (moving[index - 1] ?? 0))) return backend.reshaped(x, shape);
  const from = stridesOf(x.shape);
  const to = stridesOf(shape);
  const y = outputLike(backend, x, shape);
  const axes = order.map((axis, index): CopyAxis => [shape[index] ?? 1, from[axis] ?? 1, to[index] ?? 1]);
  copy(backend, words(backend, x), 0, y.values, 0, axes);
  return y.info;
}

function pad(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("x");
  if (!movable(x)) return undefined;
  const paddings = call.pairs("paddings");
  const shape = x.shape.map((size, axis) => size + (paddings[axis]?.[0] ?? 0) + (paddings[axis]?.[1] ?? 0));
  const y = outputLike(backend, x, shape);
  y.values.fill(call.number("constantValue"));
  const origin = new Array<number>(shape.length).fill(0);
  const place = paddings.map(([before]) => before);
  copyBox(backend, words(backend, x), x.shape, origin, x.shape, y.values, shape, place);
  return y.info;
}

/** Reflects the ends of every axis, one axis after the other. */
function mirrorPad(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("x");
  if (!movable(x)) return undefined;
  const paddings = call.pairs("paddings");
  const edge = call.text("mode") === "reflect" ? 1 : 0; // whether the edge itself is not repeated
  const shape = x.shape.map((size, axis) => size + (paddings[axis]?.[0] ?? 0) + (paddings[axis]?.[1] ?? 0));
  const y = outputLike(backend, x, shape);
  const strides = stridesOf(shape);
  const origin = new Array<number>(shape.length).fill(0);
  const place = paddings.map(([before]) => before);
  copyBox(backend, words(backend, x), x.shape, origin, x.shape, y.values, shape, place);
  // From here on the target is its own source: axes before `axis` are complete, those after it still as wide as x.
  for (const [axis, [before, after]] of paddings.entries()) {
    const size = x.shape[axis] ?? 1;
    const stride = strides[axis] ?? 1;
    const start = place.map((offset, other) => (other < axis ? 0 : offset));
    const extent = shape.map((full, other) => (other < axis ? full : (x.shape[other] ?? 1)));
    const mirror = (count: number, target: number, source: number): void => {
      if (count === 0) return;
      const axes = extent.map((n, other): CopyAxis => {
        const step = strides[other] ?? 1;
        return other === axis ? [count, -stride, stride] : [n, step, step];
      });
      const base = dot(start.with(axis, 0), strides);
      copy(backend, y.values, base + source * stride, y.values, base + target * stride, axes);
    };
    mirror(before, 0, 2 * before - 1 + edge);
    mirror(after, before + size, before + size - 1 - edge);
  }
  return y.info;
}

function tile(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const x = call.input("x");
  if (!movable(x)) return undefined;
  const reps = call.numbers("reps");
  const shape = x.shape.map((size, axis) => size * (reps[axis] ?? 1));
  const from = stridesOf(x.shape);
  const to = stridesOf(shape);
  const y = outputLike(backend, x, shape);
  const axes = x.shape.flatMap((size, axis): CopyAxis[] => [
    [reps[axis] ?? 1, 0, size * (to[axis] ?? 1)],
    [size, from[axis] ?? 1, to[axis] ?? 1],
  ]);
  copy(backend, words(backend, x), 0, y.values, 0, axes);
  return y.info;
}

function gather(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const [x, indices] = [call.input("x"), call.input("indices")];
  if (!movable(x) || indices.dtype !== "int32" || call.number("batchDims") !== 0) return undefined;
  const axis = tf.util.parseAxisParam(call.number("axis"), x.shape)[0] ?? 0;
  const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
  const outers = tf.util.sizeFromShape(x.shape.slice(0, axis));
  const inner = tf.util.sizeFromShape(x.shape.slice(axis + 1));
  const y = outputLike(backend, x, shape);
  backend.addon.gather(words(backend, x), backend.integers(indices), y.values, outers, x.shape[axis] ?? 0, inner);
  return y.info;
}

export const LAYOUT_KERNELS: readonly NativeKernel[] = [
  { name: tf.Slice, run: slice },
  { name: tf.Concat, run: concat },
  { name: tf.Pack, run: pack },
  { name: tf.SplitV, run: split },
  { name: tf.Unpack, run: unpack },
  { name: tf.Transpose, run: transpose },
  { name: tf.PadV2, run: pad },
  { name: tf.MirrorPad, run: mirrorPad },
  { name: tf.Tile, run: tile },
  { name: tf.GatherV2, run: gather },
];
