import * as tf from "@tensorflow/tfjs-core";

import type { WeightScope } from "../checkpoint/scope.js";
import type { Owner } from "../runtime/owner.js";

/**
 * The convolutions of SEANet over time, on channels-last signals [B, N, C]. Shapes: B batch items, N positions,
 * C channels, C' output channels, k kernel width, s stride.
 *
 * They run as 2-D convolutions of height 1, which every backend has a fast kernel for.
 */

/** A convolution over time, its weight norm folded. */
export type Convolution = {
  readonly filter: tf.Tensor4D; // [1, k, C, C']
  readonly bias: tf.Tensor1D; // [C']
};

/**
 * A transposed convolution of kernel 2s and stride s, held as what it is: a convolution of kernel 2 to s·C' channels
 * whose outputs are then laid end to end.
 */
export type TransposedConvolution = {
  readonly filter: tf.Tensor4D; // [1, 2, C, s·C']
  readonly bias: tf.Tensor1D; // [s·C']: the same C' values s times
};

/** Stride and dilation of a convolution, each 1 if absent. */
export interface Steps {
  readonly stride?: number;
  readonly dilation?: number;
}

/**
 * Convolution over time with reflected ends, as the reference's non-causal one: N positions become ⌈N / s⌉.
 *
 * @param x float32 [B, N, C], N ≥ 1
 * @returns float32 [B, ⌈N / s⌉, C'], owned by the caller.
 */
export function convolve(x: tf.Tensor3D, weights: Convolution, { stride = 1, dilation = 1 }: Steps = {}): tf.Tensor3D {
  return tf.tidy(() => {
    const [, kernel] = weights.filter.shape;
    const padded = reflect(x, padding(x.shape[1], kernel, stride, dilation)); // [B, left + N + right, C]
    return convolve1d(padded, weights, stride, dilation); // [B, ⌈N / s⌉, C']
  });
}

/**
 * Transposed convolution of kernel 2s and stride s, trimmed to N·s positions: ⌈s / 2⌉ go on the left, ⌊s / 2⌋ on the
 * right.
 *
 * Frame t of the full result is what input t adds with the first half of the kernel plus what input t − 1 adds with the
 * second half. TF.js's own transposed convolution takes ten times longer.
 *
 * @param x float32 [B, N, C]
 * @returns float32 [B, N·s, C'], owned by the caller.
 */
export function convolveTransposed(x: tf.Tensor3D, weights: TransposedConvolution, stride: number): tf.Tensor3D {
  return tf.tidy(() => {
    const [batch, positions] = x.shape;
    const outputs = weights.bias.shape[0] / stride;
    const withEnds = tf.pad(x, onPositions(1, 1)); // [B, N + 2, C]
    const blocks = convolve1d(withEnds, weights); // [B, N + 1, s·C']
    const full = tf.reshape<tf.Rank.R3>(blocks, [batch, (positions + 1) * stride, outputs]); // [B, (N + 1)·s, C']
    return tf.slice(full, [0, Math.ceil(stride / 2), 0], [batch, positions * stride, outputs]); // [B, N·s, C']
  });
}

function convolve1d(
  x: tf.Tensor3D, // [B, N, C]
  { filter, bias }: Convolution,
  stride = 1,
  dilation = 1,
): tf.Tensor3D {
  const [batch, positions, channels] = x.shape;
  const image = tf.fused.conv2d({
    x: tf.reshape<tf.Rank.R4>(x, [batch, 1, positions, channels]), // [B, 1, N, C]
    filter,
    bias,
    strides: [1, stride],
    dilations: [1, dilation],
    pad: "valid",
  }); // [B, 1, N', C']
  return tf.squeeze(image, [1]); // [B, N', C']
}

/** Positions to add on either side. */
interface Padding {
  readonly left: number;
  readonly right: number;
}

/** As the reference: the surplus position of an odd sum goes left, and the last window is filled on the right. */
function padding(positions: number, kernel: number, stride: number, dilation: number): Padding {
  const span = (kernel - 1) * dilation + 1;
  const total = span - stride;
  const right = Math.floor(total / 2);
  const fill = Math.ceil(positions / stride) * stride - positions;
  return { left: total - right, right: right + fill };
}

/**
 * Reflects both ends without repeating the edge. An input too short for that is first lengthened with zeros on the
 * right, and the result shortened by as many: that is how the reference treats the deep layers of very short clips.
 */
function reflect(x: tf.Tensor3D, { left, right }: Padding): tf.Tensor3D {
  if (left === 0 && right === 0) return x;
  const [batch, positions, channels] = x.shape;
  const missing = Math.max(0, Math.max(left, right) - positions + 1);
  const long = missing === 0 ? x : tf.pad(x, onPositions(0, missing)); // [B, N + missing, C]
  const mirrored = tf.mirrorPad(long, onPositions(left, right), "reflect"); // [B, left + N + missing + right, C]
  return missing === 0 ? mirrored : tf.slice(mirrored, [0, 0, 0], [batch, left + positions + right, channels]);
}

function onPositions(left: number, right: number): [number, number][] {
  return [
    [0, 0],
    [left, right],
    [0, 0],
  ];
}

/** Sizes of a convolution. */
interface ConvolutionSizes {
  readonly inputs: number; // C
  readonly outputs: number; // C'
  readonly kernel: number; // k
}

/** Outputs laid out at once: as many source rows as the first-level cache can follow. */
const BLOCK = 32;

/**
 * Reads a convolution from `scope`, folds its weight norm and lays it out for TF.js.
 *
 * @returns weights owned by `owner`.
 * @throws {CheckpointError} if a tensor is missing, damaged or of another shape.
 */
export async function loadConvolution(
  scope: WeightScope,
  { inputs, outputs, kernel }: ConvolutionSizes,
  owner: Owner,
): Promise<Convolution> {
  const weight = await normalizedWeight(scope, [outputs, inputs, kernel]); // [C', C, k]
  const filter = new Float32Array(weight.length); // [k, C, C']
  for (let first = 0; first < outputs; first += BLOCK) {
    const end = Math.min(first + BLOCK, outputs);
    for (let input = 0; input < inputs; input++) {
      for (let tap = 0; tap < kernel; tap++) {
        for (let output = first; output < end; output++) {
          filter[(tap * inputs + input) * outputs + output] = weight[(output * inputs + input) * kernel + tap] ?? NaN;
        }
      }
    }
  }
  return {
    filter: owner.own(tf.tensor4d(filter, [1, kernel, inputs, outputs])),
    bias: owner.own(await scope.tensor("bias", [outputs])),
  };
}

/**
 * Reads a transposed convolution of kernel 2s, folds its weight norm and turns it into a convolution of kernel 2.
 *
 * @returns weights owned by `owner`.
 * @throws {CheckpointError} as {@link loadConvolution}.
 */
export async function loadTransposedConvolution(
  scope: WeightScope,
  { inputs, outputs, stride }: { readonly inputs: number; readonly outputs: number; readonly stride: number },
  owner: Owner,
): Promise<TransposedConvolution> {
  const kernel = 2 * stride;
  const weight = await normalizedWeight(scope, [inputs, outputs, kernel]); // [C, C', 2s]
  const filter = new Float32Array(weight.length); // [2, C, s, C']
  for (let input = 0; input < inputs; input++) {
    for (let tap = 0; tap < kernel; tap++) {
      const frame = tap < stride ? 1 : 0; // the first half of the kernel belongs to the later of two inputs
      const block = (frame * inputs + input) * stride + (tap % stride);
      for (let output = 0; output < outputs; output++) {
        filter[block * outputs + output] = weight[(input * outputs + output) * kernel + tap] ?? NaN;
      }
    }
  }
  const bias = await scope.values("bias", [outputs]);
  const tiled = new Float32Array(stride * outputs);
  for (let phase = 0; phase < stride; phase++) tiled.set(bias, phase * outputs);
  return {
    filter: owner.own(tf.tensor4d(filter, [1, 2, inputs, stride * outputs])),
    bias: owner.own(tf.tensor1d(tiled)),
  };
}

/**
 * w = g · v / ‖v‖ with the norm over all axes but the first, which is the output channel of a convolution and the input
 * channel of a transposed one. Files of 2023 call the two parts weight_g and weight_v, later ones use PyTorch's name for
 * a parametrization.
 */
async function normalizedWeight(scope: WeightScope, shape: readonly [number, number, number]): Promise<Float32Array> {
  const [gainName, directionName] = scope.has("weight_g")
    ? ["weight_g", "weight_v"]
    : ["parametrizations.weight.original0", "parametrizations.weight.original1"];
  const gains = await scope.values(gainName, [shape[0], 1, 1]);
  const weight = await scope.values(directionName, shape);
  const size = shape[1] * shape[2];
  for (const [row, gain] of gains.entries()) {
    const [start, end] = [row * size, (row + 1) * size];
    let squares = 0;
    for (let i = start; i < end; i++) squares += (weight[i] ?? NaN) ** 2;
    const norm = Math.sqrt(squares);
    for (let i = start; i < end; i++) weight[i] = ((weight[i] ?? NaN) / norm) * gain;
  }
  return weight;
}
