import * as tf from "@tensorflow/tfjs-core";
import { describe } from "vitest";

import { backendStatus, useBackend } from "../../../src/runtime/backend.js";
import type { NativeBackend } from "../../../src/runtime/native/backend.js";
import { registerNativeBackend } from "../../../src/runtime/native/register.js";
import { uniformStream } from "../../../src/runtime/random.js";

/** What the tests of the native backend share. */

const status = (await backendStatus()).find(({ name }) => name === "native");

/** Runs a suite if the native backend was built, and else shows why not. */
export function describeNative(claim: string, suite: () => void): void {
  if (status?.usable) describe(claim, suite);
  else describe.skip(`${claim} [skipped, ${status?.reason ?? "unknown"}]`, suite);
}

/** Runs a suite on every set of kernels that this processor has, with one thread and with two. */
export function describeOnEachKernelSet(claim: string, suite: (backend: () => NativeBackend) => void): void {
  if (!status?.usable) {
    describe.skip(`${claim} [skipped, ${status?.reason ?? "unknown"}]`, () => {
      suite(native);
    });
    return;
  }
  for (const set of native().addon.kernelSets()) {
    for (const threads of [1, 2]) {
      describe(`${claim} [${set}, ${threads} threads]`, () => {
        suite(() => {
          native().addon.useKernelSet(set);
          native().addon.useThreads(threads);
          return native();
        });
      });
    }
  }
}

export function native(): NativeBackend {
  return registerNativeBackend();
}

/** Logits of a run. */
export interface Logits {
  readonly logits: Float32Array; // [..., V]
  readonly entries: number; // V
}

/** Log-probabilities of every position. */
export function distributions({ logits, entries }: Logits): Float64Array[] {
  return Array.from({ length: logits.length / entries }, (_, position) => {
    const row = Float64Array.from(logits.subarray(position * entries, (position + 1) * entries));
    const largest = row.reduce((most, value) => Math.max(most, value), -Infinity);
    const total = Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0)) + largest;
    return row.map((value) => value - total);
  });
}

/** Kullback-Leibler divergence, mean over positions: Σ p · (log p − log q) in nats. */
export function divergence(expected: Logits, actual: Logits): number {
  const [p, q] = [distributions(expected), distributions(actual)];
  const each = p.map((row, position) =>
    row.reduce((sum, log, index) => sum + Math.exp(log) * (log - (q[position]?.[index] ?? NaN)), 0),
  );
  return each.reduce((sum, value) => sum + value, 0) / each.length;
}

/** The float16 nearest to a number, ties to even, infinite beyond them: arithmetic in float64, as IEEE 754 words it. */
export function nearestHalf(value: number): number {
  if (!Number.isFinite(value) || value === 0) return value;
  const magnitude = Math.abs(value);
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), -14); // subnormals share the smallest
  const step = 2 ** (exponent - 10);
  const steps = magnitude / step; // exact
  const below = Math.floor(steps);
  const rest = steps - below;
  const rounded = (rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1) * step;
  return Math.sign(value) * (rounded > 65504 ? Infinity : rounded);
}

/** A stream of numbers in [-1, 1). */
export function numbers(seed: number): (count: number) => Float32Array {
  const uniform = uniformStream(seed, 0);
  return (count) => Float32Array.from({ length: count }, () => 2 * uniform() - 1);
}

/** A stream of integers from `low` to `high`, both included. */
export function integers(seed: number): (low: number, high: number) => number {
  const uniform = uniformStream(seed, 1);
  return (low, high) => low + Math.floor(uniform() * (high - low + 1));
}

/** Values and shape of every tensor that `ops` returns on a backend; leaves nothing behind. */
export async function run(name: "cpu" | "native", ops: () => tf.Tensor | tf.Tensor[]): Promise<Result[]> {
  await useBackend(name);
  const before = tf.memory().numTensors;
  const outputs = tf.tidy(() => {
    const result = ops();
    return Array.isArray(result) ? result : [result];
  });
  const results = await Promise.all(
    outputs.map(async (tensor) => ({ values: await tensor.data(), shape: tensor.shape, dtype: tensor.dtype })),
  );
  outputs.forEach((tensor) => {
    tensor.dispose();
  });
  if (tf.memory().numTensors !== before) throw new Error("the ops left tensors behind");
  return results;
}

export interface Result {
  readonly values: Float32Array | Int32Array | Uint8Array;
  readonly shape: number[];
  readonly dtype: string;
}
