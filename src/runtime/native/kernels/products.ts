import * as tf from "@tensorflow/tfjs-core";

import { ACTIVATION, PRECISION, STORAGE } from "../addon.js";
import type { NativeBackend } from "../backend.js";
import type { WeightData } from "../data.js";
import { weightFailure } from "../failures.js";
import type { KernelCall, NativeKernel } from "../kernel.js";

/** Matrix products and convolutions in one dimension. */

/** What may follow a product. */
interface Epilogue {
  readonly bias: Float32Array | null;
  readonly residual: Float32Array | null;
  readonly activation: number;
}

const PLAIN: Epilogue = { bias: null, residual: null, activation: ACTIVATION.none };

function batchMatMul(call: KernelCall): tf.TensorInfo | undefined {
  return call.allFloat("a", "b") ? matMul(call, PLAIN) : undefined;
}

function fusedMatMul(call: KernelCall): tf.TensorInfo | undefined {
  if (!call.allFloat("a", "b") || call.optional("preluActivationWeights")) return undefined;
  const epilogue = fusedEpilogue(call);
  return epilogue && matMul(call, epilogue);
}

/** Undefined where the bias isn't one value per output, or the activation isn't one that the kernels know. */
function fusedEpilogue(call: KernelCall): Epilogue | undefined {
  const bias = call.optional("bias");
  const activation = call.text("activation") ?? "linear";
  const perOutput =
    bias === undefined || (bias.dtype === "float32" && tf.util.sizeFromShape(bias.shape) === bias.shape.at(-1));
  if (!perOutput || (activation !== "linear" && activation !== "relu")) return undefined;
  return {
    bias: call.optionalFloats("bias"),
    residual: null,
    activation: activation === "relu" ? ACTIVATION.relu : ACTIVATION.none,
  };
}

function matMul(call: KernelCall, epilogue: Epilogue): tf.TensorInfo | undefined {
  const { backend } = call;
  const [a, b] = [call.input("a"), call.input("b")];
  const [transposeA, transposeB] = [call.flag("transposeA"), call.flag("transposeB")];
  const [aRows, aColumns] = [a.shape.at(-2) ?? 1, a.shape.at(-1) ?? 1];
  const [bRows, bColumns] = [b.shape.at(-2) ?? 1, b.shape.at(-1) ?? 1];
  const [m, k] = transposeA ? [aColumns, aRows] : [aRows, aColumns];
  const [inner, n] = transposeB ? [bColumns, bRows] : [bRows, bColumns];
  if (k !== inner) {
    throw new RangeError(
      `matMul: the inner sizes ${k} and ${inner} of [${a.shape.join()}] and [${b.shape.join()}] differ`,
    );
  }
  const outerShape = tf.backend_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  if (epilogue.bias && epilogue.bias.length !== n) return undefined;

  const weight = transposeA || transposeB ? undefined : backend.weight(b);
  if (weight) return linear(backend, a, weight, epilogue, [...outerShape, m, n]);

  const y = backend.floatOutput([...outerShape, m, n]);
  const shape = Int32Array.of(
    m,
    n,
    k,
    transposeA ? 1 : aColumns,
    transposeA ? aColumns : 1,
    transposeB ? 1 : bColumns,
    transposeB ? bColumns : 1,
  );
  const offsets = batchOffsets(a.shape, b.shape, outerShape);
  backend.addon.matMul(
    backend.floats(a),
    backend.floats(b),
    y.values,
    epilogue.bias,
    epilogue.activation,
    shape,
    offsets,
  );
  return y.info;
}

/** Where each product of a batch starts in a and in b. */
function batchOffsets(aShape: readonly number[], bShape: readonly number[], outer: readonly number[]): Int32Array {
  const count = outer.reduce((product, size) => product * size, 1);
  const offsets = new Int32Array(2 * count);
  for (const [operand, shape] of [aShape, bShape].entries()) {
    const own = shape.slice(0, -2);
    const matrix = (shape.at(-2) ?? 1) * (shape.at(-1) ?? 1);
    for (let index = 0; index < count; index++) {
      let [rest, offset, stride] = [index, 0, matrix];
      for (let axis = 1; axis <= outer.length; axis++) {
        const size = outer.at(-axis) ?? 1;
        const ownSize = axis <= own.length ? (own.at(-axis) ?? 1) : 1;
        if (ownSize !== 1) offset += (rest % size) * stride;
        rest = Math.floor(rest / size);
        stride *= ownSize;
      }
      offsets[2 * index + operand] = offset;
    }
  }
  return offsets;
}

function linear(
  backend: NativeBackend,
  x: tf.TensorInfo,
  weight: WeightData,
  { bias, residual, activation }: Epilogue,
  shape: number[],
): tf.TensorInfo {
  const y = backend.floatOutput(shape);
  const rows = tf.util.sizeFromShape(shape) / weight.outputs;
  weight.use(() => {
    const { handle, precision } = weight;
    backend.addon.linear(handle, backend.floats(x), rows, bias, residual, activation, precision, y.values);
  });
  return y.info;
}

/**
 * activation(x · W + bias) + residual over the last axis of x. Inputs: x [..., in], weight [in, out], optionally bias [out]
 * and residual [..., out]. Attribute: activation, a name of {@link ACTIVATION}; absent: none.
 */
function tonearmLinear(call: KernelCall): tf.TensorInfo {
  const { backend } = call;
  const [x, weight] = [call.input("x"), call.input("weight")];
  const epilogue = {
    bias: call.optionalFloats("bias"),
    residual: call.optionalFloats("residual"),
    activation: activationCode(call.text("activation")),
  };
  const [inputs = 0, outputs = 0] = weight.shape;
  if (x.shape.at(-1) !== inputs) {
    throw new RangeError(`linear: [${x.shape.join()}] does not fit a weight [${weight.shape.join()}]`);
  }
  const shape = [...x.shape.slice(0, -1), outputs];
  const stored = backend.weight(weight);
  if (stored) return linear(backend, x, stored, epilogue, shape);

  // A weight that the user made: a plain product, seen as a convolution of width 1 for its epilogue.
  const y = backend.floatOutput(shape);
  const rows = tf.util.sizeFromShape(x.shape.slice(0, -1));
  const sizes = Int32Array.of(1, rows, inputs, outputs, 1, 1, 1, rows);
  const { bias, residual, activation } = epilogue;
  if (rows > 0) {
    backend.addon.convolve(backend.floats(x), backend.floats(weight), y.values, bias, residual, activation, sizes);
  }
  return y.info;
}

/**
 * A weight in native memory. Inputs: part0, part1, … [outᵢ, in] as checkpoints have them. Attributes: storage, a name of
 * {@link STORAGE} or "exact"; precision, a name of {@link PRECISION}. Returns [in, Σ outᵢ].
 */
function linearWeight(call: KernelCall): tf.TensorInfo {
  const { backend } = call;
  const parts = call.list();
  const inputs = parts[0]?.shape[1] ?? 0;
  const values = parts.map((part) => backend.floats(part));
  const [storage, precision] = [storageCode(call.text("storage")), precisionCode(call.text("precision"))];
  return backend.linearWeight(values, inputs, storage, precision);
}

/**
 * The same from open files. No inputs. Attributes: what, for errors; inputs; storage; precision; and a table of parts as the addon's
 * makeFileWeight takes it, plain, or makePackedWeight, packed.
 */
function fileWeight(call: KernelCall): tf.TensorInfo {
  const { backend } = call;
  const [what, inputs] = [call.text("what") ?? "a weight", call.number("inputs")];
  const code = storageCode(call.text("storage"));
  const precision = precisionCode(call.text("precision"));
  const isPlain = call.attr("plain") !== undefined;
  const table = Float64Array.from(call.numbers(isPlain ? "plain" : "packed"));
  const outputs = table.reduce(
    (sum, value, index) => sum + (isPlain ? +(index % 4 === 2) : +(index % 6 === 3)) * value,
    0,
  );
  try {
    const handle = isPlain
      ? backend.addon.makeFileWeight(table, inputs, code)
      : backend.addon.makePackedWeight(table, inputs, code);
    return backend.registerWeight(handle, { inputs, outputs, precision, what });
  } catch (cause) {
    throw weightFailure(cause, `read ${what}`);
  }
}

function storageCode(name: string | undefined): number {
  const code = name === "exact" ? -1 : STORAGE_CODES.get(name ?? "");
  if (code === undefined) throw new TypeError(`there is no weight storage "${name}"`);
  return code;
}

const STORAGE_CODES = new Map<string, number>(Object.entries(STORAGE));

function precisionCode(name = "f32"): number {
  const code = Object.entries(PRECISION).find(([known]) => known === name)?.[1];
  if (code === undefined) throw new TypeError(`there is no precision "${name}"`);
  return code;
}

function activationCode(name = "none"): number {
  const code = Object.entries(ACTIVATION).find(([known]) => known === name)?.[1];
  if (code === undefined) throw new TypeError(`there is no activation "${name}"`);
  return code;
}

/**
 * One layer of an LSTM. Inputs: gates [B, T, 4C] (x · W_ih + bias, in the order input, forget, output, cell), recurrent
 * [C, 4C] of the backend's own making, hidden and cell [B, C]. Returns all outputs [B, T, C] and the last cell state.
 */
function lstm(call: KernelCall): tf.TensorInfo[] | undefined {
  const { backend } = call;
  const gates = call.input("gates");
  const recurrent = backend.weight(call.input("recurrent"));
  if (recurrent === undefined) return undefined;
  const [batch = 0, steps = 0] = gates.shape;
  const units = recurrent.inputs;
  const output = backend.floatOutput([batch, steps, units]);
  const cell = backend.floatOutput([batch, units]);
  cell.values.set(backend.floats(call.input("cell")));
  const hidden = backend.floats(call.input("hidden"));
  recurrent.use(() => {
    backend.addon.lstm(recurrent.handle, backend.floats(gates), batch, steps, hidden, cell.values, output.values);
  });
  return [output.info, cell.info];
}

function conv2d(call: KernelCall): tf.TensorInfo | undefined {
  return call.allFloat("x", "filter") ? convolve(call, PLAIN) : undefined;
}

function fusedConv2d(call: KernelCall): tf.TensorInfo | undefined {
  if (!call.allFloat("x", "filter") || call.optional("preluActivationWeights")) return undefined;
  const epilogue = fusedEpilogue(call);
  return epilogue && convolve(call, epilogue);
}

/** [batch, height, width, channels], or the same of a filter. */
type Shape4D = [number, number, number, number];

/** Sizes of a convolution of height 1, channels last, padded "valid" or "same". Undefined for any other. */
function geometry(
  call: KernelCall,
  xShape: number[],
  filterShape: number[],
  dilations: number[],
): tf.backend_util.Conv2DInfo | undefined {
  const pad = call.text("pad");
  const format = call.text("dataFormat");
  if (xShape[1] !== 1 || filterShape[0] !== 1 || (pad !== "valid" && pad !== "same")) return undefined;
  if (format !== "NHWC" && format !== "channelsLast") return undefined;
  const [strideHeight = 1, strideWidth = strideHeight] = call.numbers("strides");
  const [dilationHeight = 1, dilationWidth = dilationHeight] = dilations;
  const info = tf.backend_util.computeConv2DInfo(
    xShape as Shape4D,
    filterShape as Shape4D,
    [strideHeight, strideWidth],
    [dilationHeight, dilationWidth],
    pad,
  );
  return info.outHeight === 1 && info.padInfo.top === 0 && info.padInfo.bottom === 0 ? info : undefined;
}

function convolve(call: KernelCall, epilogue: Epilogue): tf.TensorInfo | undefined {
  const { backend } = call;
  const [x, filter] = [call.input("x"), call.input("filter")];
  const info =
    typeof call.attr("pad") === "string" ? geometry(call, x.shape, filter.shape, call.numbers("dilations")) : undefined;
  if (info === undefined) return undefined;
  const { padInfo, inChannels, outChannels, batchSize, inWidth, outWidth } = info;
  const [taps = 0, inputs] = filter.shape.slice(1);
  if (inputs !== inChannels) return undefined; // grouped

  const length = inWidth + padInfo.left + padInfo.right;
  const source = length === inWidth ? backend.floats(x) : padded(backend, x, padInfo.left, padInfo.right);
  const y = backend.floatOutput([batchSize, 1, outWidth, outChannels]);
  const shape = Int32Array.of(
    batchSize,
    length,
    inChannels,
    outChannels,
    taps,
    info.strideWidth,
    info.dilationWidth,
    outWidth,
  );
  backend.addon.convolve(
    source,
    backend.floats(filter),
    y.values,
    epilogue.bias,
    epilogue.residual,
    epilogue.activation,
    shape,
  );
  if (length !== inWidth) backend.pool.giveBack(source);
  return y.info;
}

/** [B, 1, N, C] with zeros on either side of N, from the pool. */
function padded(backend: NativeBackend, x: tf.TensorInfo, left: number, right: number): Float32Array {
  const [batch = 1, , positions = 1, channels = 1] = x.shape;
  const length = left + positions + right;
  const values = backend.pool.floats(batch * length * channels);
  values.fill(0);
  const axes = Int32Array.of(batch, positions * channels, length * channels, positions * channels, 1, 1);
  backend.addon.copy(backend.floats(x), 0, values, left * channels, axes);
  return values;
}

/** A transposed 2-D convolution of height 1, channels last, as products that add to neighbouring frames. */
function conv2dTransposed(call: KernelCall): tf.TensorInfo | undefined {
  const { backend } = call;
  const [dy, filter] = [call.input("dy"), call.input("filter")];
  if (!call.allFloat("dy", "filter") || typeof call.attr("pad") !== "string") return undefined;
  const info = geometry(call, call.numbers("inputShape"), filter.shape, [1, 1]);
  if (info === undefined) return undefined;
  const { padInfo, strideWidth: stride, outWidth: positions, inWidth, batchSize } = info;
  const [taps = 0, channels = 0, depth = 0] = filter.shape.slice(1); // [k, C', C]
  if (taps % stride !== 0) return undefined;

  // Tap t of input position p lands at p·stride + t: a block of `stride` taps fills whole frames of the output.
  const frames = positions - 1 + taps / stride;
  const full = backend.pool.floats(batchSize * frames * stride * channels);
  full.fill(0);
  const width = stride * channels;
  const part = backend.pool.floats(positions * width);
  const axes = Int32Array.of(part.length, 1, 1);
  const shape = Int32Array.of(positions, width, depth, depth, 1, 1, depth);
  for (let item = 0; item < batchSize; item++) {
    for (let block = 0; block < taps / stride; block++) {
      const offsets = Int32Array.of(item * positions * depth, block * width * depth);
      backend.addon.matMul(backend.floats(dy), backend.floats(filter), part, null, ACTIVATION.none, shape, offsets);
      const start = (item * frames + block) * width;
      const target = full.subarray(start, start + part.length);
      backend.addon.binary(0, target, part, target, axes);
    }
  }
  const y = backend.floatOutput([batchSize, 1, inWidth, channels]);
  y.values.fill(0);
  const kept = Math.min(inWidth, frames * stride - padInfo.left);
  const crop = Int32Array.of(batchSize, frames * width, inWidth * channels, kept * channels, 1, 1);
  backend.addon.copy(full, padInfo.left * channels, y.values, 0, crop);
  backend.pool.giveBack(full);
  backend.pool.giveBack(part);
  return y.info;
}

export const PRODUCT_KERNELS: readonly NativeKernel[] = [
  { name: tf.BatchMatMul, run: batchMatMul },
  { name: tf._FusedMatMul, run: fusedMatMul },
  { name: "TonearmLinear", run: tonearmLinear },
  { name: "TonearmLinearWeight", run: linearWeight },
  { name: "TonearmFileWeight", run: fileWeight },
  { name: "TonearmLstm", run: lstm },
  { name: tf.Conv2D, run: conv2d },
  { name: tf.FusedConv2D, run: fusedConv2d },
  { name: tf.Conv2DBackpropInput, run: conv2dTransposed },
];
