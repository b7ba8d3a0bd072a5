import * as tf from "@tensorflow/tfjs-core";

import type { WeightScope } from "../checkpoint/scope.js";
import { hasFused, runFusedMany } from "../runtime/fused.js";
import { linear, linearWeight, rowsOf, type Linear } from "../runtime/linear.js";
import type { Owner } from "../runtime/owner.js";

/**
 * A stack of long short-term memory layers as torch.nn.LSTM's, unidirectional. Shapes: B batch items, T positions,
 * C channels, which are also the width of the hidden state.
 */

/**
 * One layer. The gates stand in the order input, forget, output, cell: the three that pass a sigmoid side by side. Both
 * biases of the checkpoint are added together.
 */
export type LstmLayer = {
  readonly input: Linear; // [C, 4C] with bias [4C]
  readonly recurrent: tf.Tensor2D; // [C, 4C]
};

/** What one layer carries from position to position. */
export type LstmState = {
  readonly hidden: tf.Tensor2D; // [B, C]
  readonly cell: tf.Tensor2D; // [B, C]
};

/** The outputs of a stack and every layer's state after the last position. */
export interface LstmResult {
  readonly output: tf.Tensor3D; // [B, T, C]
  readonly state: readonly LstmState[];
}

/**
 * Runs the stack over `x`.
 *
 * @param x float32 [B, T, C]
 * @param state of each layer before the first position, zero if absent; stays the caller's
 * @returns owned by the caller.
 */
export function lstm(layers: readonly LstmLayer[], x: tf.Tensor3D, state?: readonly LstmState[]): LstmResult {
  let output = tf.clone(x);
  const states: LstmState[] = [];
  for (const [index, layer] of layers.entries()) {
    const result = runLayer(layer, output, state?.[index]);
    output.dispose();
    output = result.output;
    states.push({ hidden: result.hidden, cell: result.cell });
  }
  return { output, state: states };
}

/** A layer's outputs and its state after the last position. */
type LayerResult = LstmState & { readonly output: tf.Tensor3D }; // [B, T, C]

function runLayer(
  layer: LstmLayer,
  x: tf.Tensor3D, // [B, T, C]
  state: LstmState | undefined,
): LayerResult {
  return tf.tidy(() => {
    const [batch, , width] = x.shape;
    const inputs = linear(x, layer.input); // [B, T, 4C]
    const hidden = state?.hidden ?? tf.zeros<tf.Rank.R2>([batch, width]);
    const cell = state?.cell ?? tf.zeros<tf.Rank.R2>([batch, width]);
    const run = hasFused("TonearmLstm") ? recurFused : recur;
    return run(layer.recurrent, inputs, { hidden, cell });
  });
}

function recurFused(
  recurrent: tf.Tensor2D,
  gates: tf.Tensor3D, // [B, T, 4C]
  { hidden, cell }: LstmState,
): LayerResult {
  const [output, lastCell] = runFusedMany("TonearmLstm", { gates, recurrent, hidden, cell });
  const [batch, positions, width] = [gates.shape[0], gates.shape[1], hidden.shape[1]];
  const last = tf.slice(output as tf.Tensor3D, [0, positions - 1, 0], [batch, 1, width]); // [B, 1, C]
  return {
    output: output as tf.Tensor3D,
    hidden: tf.reshape<tf.Rank.R2>(last, [batch, width]), // [B, C]
    cell: lastCell as tf.Tensor2D,
  };
}

function recur(
  recurrent: tf.Tensor2D,
  gates: tf.Tensor3D, // [B, T, 4C]
  state: LstmState,
): LayerResult {
  const [batch, positions] = gates.shape;
  const width = state.hidden.shape[1];
  const inputs = tf.transpose(gates, [1, 0, 2]); // [T, B, 4C]
  let hidden = state.hidden;
  let cell = tf.clone(state.cell);
  const outputs: tf.Tensor2D[] = [];
  for (let position = 0; position < positions; position++) {
    // Not a slice: for that the wasm backend copies all of `inputs` out of its heap, every time.
    const input = tf.gather(inputs, [position]); // [1, B, 4C]
    const next = step(recurrent, input, hidden, cell);
    tf.dispose([input, cell]);
    ({ hidden, cell } = next);
    outputs.push(hidden);
  }
  const output = tf.reshape<tf.Rank.R3>(tf.stack(outputs, 1), [batch, positions, width]); // [B, T, C]
  return { output, hidden, cell };
}

/** c' = σ(f)·c + σ(i)·tanh(g), h' = σ(o)·tanh(c') */
function step(
  recurrent: tf.Tensor2D,
  input: tf.Tensor3D, // [1, B, 4C]
  hidden: tf.Tensor2D,
  cell: tf.Tensor2D,
): LstmState {
  return tf.tidy(() => {
    const [batch, width] = hidden.shape;
    const product = tf.matMul(hidden, recurrent); // [B, 4C]
    const gates = tf.add<tf.Tensor2D>(product, tf.reshape(input, [batch, 4 * width])); // [B, 4C]
    const open = tf.sigmoid(columns(gates, 0, 3 * width)); // [B, 3C]
    const candidate = tf.tanh(columns(gates, 3 * width, width)); // [B, C]
    const gate = (index: number): tf.Tensor2D => columns(open, index * width, width); // [B, C]
    const nextCell = tf.add<tf.Tensor2D>(tf.mul(gate(1), cell), tf.mul(gate(0), candidate));
    return { hidden: tf.mul<tf.Tensor2D>(gate(2), tf.tanh(nextCell)), cell: nextCell };
  });
}

function columns(x: tf.Tensor2D, first: number, count: number): tf.Tensor2D {
  return tf.slice(x, [0, first], [x.shape[0], count]);
}

/**
 * Reads a stack of `layers` layers of `width` channels under their PyTorch names.
 *
 * @returns weights owned by `owner`.
 * @throws {CheckpointError} if a tensor is missing, damaged or of another shape.
 */
export async function loadLstm(scope: WeightScope, layers: number, width: number, owner: Owner): Promise<LstmLayer[]> {
  const stack: LstmLayer[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const bias = await scope.values(`bias_ih_l${layer}`, [4 * width]);
    const recurrentBias = await scope.values(`bias_hh_l${layer}`, [4 * width]);
    const sum = bias.map((value, index) => value + (recurrentBias[index] ?? NaN));
    stack.push({
      input: {
        weight: await loadGates(scope, `weight_ih_l${layer}`, width, owner),
        bias: owner.run(() => tf.concat1d(inGateOrder(sum, width).map((gate) => tf.tensor1d(gate)))),
      },
      recurrent: await loadGates(scope, `weight_hh_l${layer}`, width, owner),
    });
  }
  return stack;
}

async function loadGates(scope: WeightScope, name: string, width: number, owner: Owner): Promise<tf.Tensor2D> {
  const matrix = await scope.matrix(name, 4 * width, width);
  const parts = GATE_ORDER.map((gate) => rowsOf(matrix, gate * width, width));
  return owner.own(linearWeight(...parts)); // [C, 4C]
}

/** Where our gates are in PyTorch's order, which is input, forget, cell, output. */
const GATE_ORDER = [0, 1, 3, 2] as const;

/** Four blocks of `size` values in our order. */
function inGateOrder(values: Float32Array, size: number): readonly Float32Array[] {
  return GATE_ORDER.map((gate) => values.subarray(gate * size, (gate + 1) * size));
}
