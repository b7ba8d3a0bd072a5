import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import {
  attend,
  causalMask,
  disposeCache,
  EMPTY_CACHE,
  extendCache,
  mergeHeads,
  paddingMask,
  splitHeads,
  type KeyValueCache,
} from "../../../src/runtime/attention.js";
import { useBackend } from "../../../src/runtime/backend.js";
import { describeNative, describeOnEachKernelSet, integers, numbers } from "./support.js";

/** Attention on the native backend against the composed one on the cpu backend. */

interface Sizes {
  readonly rows: number;
  readonly heads: number;
  readonly width: number;
  readonly chunks: readonly number[]; // positions of each pass
}

function heads(seed: number, { rows, heads: count, width }: Sizes, positions: number): tf.Tensor4D {
  const values = numbers(seed)(rows * count * positions * width).map((value) => 1.5 * value);
  return tf.tensor4d(values, [rows, count, positions, width]);
}

/** Runs passes over a growing cache; the outputs of each. */
async function passes(backend: "cpu" | "native", sizes: Sizes): Promise<Float32Array[]> {
  await useBackend(backend);
  const before = tf.memory().numTensors;
  let cache: KeyValueCache = EMPTY_CACHE;
  const outputs: Float32Array[] = [];
  for (const [index, count] of sizes.chunks.entries()) {
    cache = extendCache(cache, { keys: heads(2 * index, sizes, count), values: heads(2 * index + 1, sizes, count) });
    const q = heads(100 + index, sizes, count);
    const mask = causalMask(count, cache.length);
    const out = attend(q, cache.segments, mask);
    outputs.push(await out.data<"float32">());
    tf.dispose([q, out]);
    mask?.dispose();
  }
  disposeCache(cache);
  expect(tf.memory().numTensors).toBe(before);
  return outputs;
}

describeOnEachKernelSet("attention over a cache that grows in place equals the composed one", (backend) => {
  it("for random sizes, prefills and single steps", async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const pick = integers(seed);
      const sizes: Sizes = {
        rows: pick(1, 3),
        heads: pick(1, 4),
        width: [1, 3, 8, 16, 40, 64, 72, 128][pick(0, 7)] ?? 64,
        chunks: Array.from({ length: pick(1, 6) }, () => (pick(0, 2) === 0 ? pick(2, 140) : 1)),
      };
      const expected = await passes("cpu", sizes);
      backend();
      const actual = await passes("native", sizes);
      for (const [index, values] of expected.entries()) {
        expect(actual[index] ?? [], JSON.stringify(sizes)).toBeAllClose(values, { within: 5e-6 });
      }
    }
  });

  it("with padded keys, for one query and for many", async () => {
    const sizes: Sizes = { rows: 2, heads: 3, width: 64, chunks: [] };
    for (const queries of [1, 5]) {
      const results: Float32Array[] = [];
      for (const name of ["cpu", "native"] as const) {
        await useBackend(name);
        backend();
        const [q, keys, values] = [heads(1, sizes, queries), heads(2, sizes, 9), heads(3, sizes, 9)];
        const mask = paddingMask([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0], 2);
        const out = attend(q, [{ keys, values }], mask);
        results.push(await out.data<"float32">());
        tf.dispose([q, keys, values, out]);
        mask?.dispose();
      }
      expect(results[1] ?? []).toBeAllClose(results[0] ?? [], { within: 2e-6 });
    }
  });

  it("and splits and merges heads without changing a value", async () => {
    for (const [rows, positions] of [
      [1, 1],
      [2, 1],
      [3, 7],
    ] as const) {
      const results: Float32Array[][] = [];
      for (const name of ["cpu", "native"] as const) {
        await useBackend(name);
        backend();
        const x = tf.tensor3d(numbers(1)(rows * positions * 24), [rows, positions, 24]);
        const parts = splitHeads(x, 3, 2);
        const merged = parts.map(mergeHeads);
        const outputs = [...parts, ...merged];
        expect(parts.map(({ shape }) => shape)).toEqual(parts.map(() => [rows, 2, positions, 4]));
        expect(merged.map(({ shape }) => shape)).toEqual(parts.map(() => [rows, positions, 8]));
        results.push(await Promise.all(outputs.map((tensor) => tensor.data<"float32">())));
        tf.dispose([x, ...outputs]);
      }
      expect(results[1]).toEqual(results[0]);
    }
  });
});

describeNative("a cache that grows in place", () => {
  const sizes: Sizes = { rows: 1, heads: 2, width: 4, chunks: [] };
  const grow = (past: tf.Tensor4D, seed: number): tf.Tensor4D => {
    const added = heads(seed, sizes, 1);
    const result = tf.engine().runKernel<tf.Tensor4D>("TonearmExtend", { past, added });
    added.dispose();
    return result;
  };

  it("leaves shorter tensors of the same memory as they were, and lets two go on from one", async () => {
    await useBackend("native");
    const start = heads(1, sizes, 3);
    const a = grow(start, 2);
    const before = await a.data();
    const longer = grow(a, 3);
    const other = grow(a, 4);
    const [longerValues, otherValues] = [await longer.data(), await other.data()];
    expect(await a.data()).toEqual(before);
    expect(longer.shape).toEqual([1, 2, 5, 4]);
    const expected = (seed: number) =>
      tf.tidy(() => tf.concat([start, heads(2, sizes, 1), heads(seed, sizes, 1)], 2)).data();
    expect(longerValues).toEqual(await expected(3));
    expect(otherValues).toEqual(await expected(4));
    a.dispose();
    expect(await longer.data()).toEqual(longerValues);
    tf.disposeVariables();
    tf.dispose([start, longer, other]);
  });

  it("moves to more memory when it is full", async () => {
    await useBackend("native");
    let cache: KeyValueCache = EMPTY_CACHE;
    const values: number[] = [];
    for (let position = 0; position < 2100; position++) {
      const entry = (): tf.Tensor4D => tf.fill([1, 1, 1, 1], position);
      cache = extendCache(cache, { keys: entry(), values: entry() });
      values.push(position);
    }
    expect([...((await cache.segments[0]?.keys.data()) ?? [])]).toEqual(values);
    disposeCache(cache);
  });

  it("is a plain tensor to every other op", async () => {
    await useBackend("native");
    const start = heads(1, sizes, 3);
    const grown = grow(start, 2);
    const doubled = tf.mul(grown, 2);
    expect(await doubled.data()).toEqual((await grown.data()).map((value) => 2 * value));
    tf.dispose([start, grown, doubled]);
  });
});
