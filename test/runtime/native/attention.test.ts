import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { UsageError } from "../../../src/errors.js";
import {
  attend,
  attentionPattern,
  attentionScores,
  CACHE_STORAGES,
  causalMask,
  disposeCache,
  EMPTY_CACHE,
  extendCache,
  mergeHeads,
  paddingMask,
  splitHeads,
  type CacheStorage,
  type KeyValueCache,
} from "../../../src/runtime/attention.js";
import { useBackend } from "../../../src/runtime/backend.js";
import { describeNative, describeOnEachKernelSet, integers, nearestHalf, numbers } from "./support.js";

/** Attention on the native backend against the composed one on the cpu backend. */

interface Sizes {
  readonly rows: number;
  readonly heads: number;
  readonly width: number;
  readonly chunks: readonly number[]; // positions of each pass
}

type Rounding = (value: number) => number;

function heads(
  seed: number,
  { rows, heads: count, width }: Sizes,
  positions: number,
  rounding: Rounding = (value) => value,
): tf.Tensor4D {
  const values = numbers(seed)(rows * count * positions * width).map((value) => rounding(Math.fround(1.5 * value)));
  return tf.tensor4d(values, [rows, count, positions, width]);
}

/** Sizes that no kernel's blocks divide, for each seed others. */
function raggedSizes(seed: number): Sizes {
  const pick = integers(seed);
  return {
    rows: pick(1, 3),
    heads: pick(1, 4),
    width: [1, 3, 8, 16, 40, 64, 72, 128][pick(0, 7)] ?? 64,
    chunks: Array.from({ length: pick(1, 6) }, () => (pick(0, 2) === 0 ? pick(2, 140) : 1)),
  };
}

/** Runs passes over a growing cache; the outputs of each. */
async function passes(
  backend: "cpu" | "native",
  sizes: Sizes,
  { storage = "f32", rounding }: { readonly storage?: CacheStorage; readonly rounding?: Rounding } = {},
): Promise<Float32Array[]> {
  await useBackend(backend);
  const before = tf.memory().numTensors;
  let cache: KeyValueCache = { ...EMPTY_CACHE, storage };
  const outputs: Float32Array[] = [];
  for (const [index, count] of sizes.chunks.entries()) {
    cache = extendCache(cache, {
      keys: heads(2 * index, sizes, count, rounding),
      values: heads(2 * index + 1, sizes, count, rounding),
    });
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
      const sizes = raggedSizes(seed);
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

describeOnEachKernelSet("attention over a cache in 16 bits", (backend) => {
  it("is that of float32 keys and values rounded beforehand, to the last bit", async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const sizes = raggedSizes(seed);
      backend();
      const expected = await passes("native", sizes, { rounding: nearestHalf });
      const actual = await passes("native", sizes, { storage: "f16" });
      expect(actual, JSON.stringify(sizes)).toEqual(expected);
      const composed = await passes("cpu", sizes, { rounding: nearestHalf });
      for (const [index, values] of composed.entries()) {
        expect(actual[index] ?? [], JSON.stringify(sizes)).toBeAllClose(values, { within: 5e-6 });
      }
    }
  });

  it("differs from that of float32: the rounding takes place", async () => {
    const sizes: Sizes = { rows: 1, heads: 2, width: 64, chunks: [5, 1] };
    backend();
    expect(await passes("native", sizes, { storage: "f16" })).not.toEqual(await passes("native", sizes));
  });

  it("gives what its scores and pattern give, read as tensors", async () => {
    await useBackend("native");
    backend();
    const sizes: Sizes = { rows: 2, heads: 2, width: 40, chunks: [] };
    const half: KeyValueCache = { ...EMPTY_CACHE, storage: "f16" };
    const cache = extendCache(half, { keys: heads(1, sizes, 70), values: heads(2, sizes, 70) });
    const q = heads(3, sizes, 1);
    const fused = attend(q, cache.segments, undefined);
    const composed = tf.tidy(() => {
      const pattern = attentionPattern(attentionScores(q, cache.segments), undefined);
      return tf.matMul(pattern, cache.segments[0]?.values ?? pattern);
    });
    expect(await fused.data()).toBeAllClose(await composed.data<"float32">(), { within: 1e-6 });
    tf.dispose([q, fused, composed]);
    disposeCache(cache);
  });
});

describeOnEachKernelSet("a cache in 16 bits", (backend) => {
  const half: KeyValueCache = { ...EMPTY_CACHE, storage: "f16" };
  const line = (values: readonly number[]): tf.Tensor4D => tf.tensor4d([...values], [1, 1, 1, values.length]);
  const stored = async (values: readonly number[]): Promise<Float32Array> => {
    const cache = extendCache(half, { keys: line(values), values: line(values) });
    const read = (await cache.segments[0]?.keys.data<"float32">()) ?? new Float32Array(0);
    disposeCache(cache);
    return read;
  };

  it("holds the nearest float16, ties to even, subnormals, signed zeros and what is not finite", async () => {
    await useBackend("native");
    backend();
    const random = Array.from(numbers(1)(4001), (value, index) => Math.fround(value * 2 ** ((index % 40) - 24)));
    const special = [
      0,
      -0,
      1 + 2 ** -11,
      1 + 3 * 2 ** -11,
      2 ** -24,
      2 ** -25,
      3 * 2 ** -25,
      -(2 ** -26),
      65504,
      65519.5,
    ];
    const strange = [NaN, Infinity, -Infinity, 1e-40];
    const values = [...random, ...special, ...strange];
    expect(await stored(values)).toEqual(Float32Array.from(values, nearestHalf));
  });

  it("refuses what would become infinite, with the number, and stays as it was", async () => {
    await useBackend("native");
    backend();
    const before = tf.memory().numTensors;
    for (const width of [1, 5, 64, 67]) {
      const fine = Array.from({ length: width }, (_, index) => index);
      for (const [beyond, where] of [
        [65520, 0],
        [-70000, width - 1],
        [3e38, width >> 1],
      ] as const) {
        const cache = extendCache(half, { keys: line(fine), values: line(fine) });
        const large = fine.with(where, beyond);
        for (const added of [
          { keys: line(large), values: line(fine) },
          { keys: line(fine), values: line(large) },
        ]) {
          const found = `a magnitude of ${Math.abs(Math.fround(beyond))}, where float16 ends at 65504`;
          expect(() => extendCache(cache, added)).toThrow(
            expect.objectContaining({ name: "UsageError", found }) as Error,
          );
        }
        expect(() => extendCache(half, { keys: line(large), values: line(fine) })).toThrow(UsageError);
        const longer = extendCache(cache, { keys: line(fine), values: line(fine) });
        expect([...((await longer.segments[0]?.keys.data()) ?? [])]).toEqual([...fine, ...fine]);
        expect([...((await longer.segments[0]?.values.data()) ?? [])]).toEqual([...fine, ...fine]);
        disposeCache(longer);
      }
    }
    expect(tf.memory().numTensors).toBe(before);
  });
});

describeNative("a cache that grows in place", () => {
  const sizes: Sizes = { rows: 1, heads: 2, width: 4, chunks: [] };
  const grow = (past: tf.Tensor4D, seed: number, storage: CacheStorage = "f32"): tf.Tensor4D => {
    const added = heads(seed, sizes, 1, nearestHalf);
    const result = tf.engine().runKernel<tf.Tensor4D>("TonearmExtend", { past, added }, { storage });
    added.dispose();
    return result;
  };

  it.each(CACHE_STORAGES)(
    "leaves shorter tensors of its memory as they were, and lets two go on from one (%s)",
    async (storage) => {
      await useBackend("native");
      const start = heads(1, sizes, 3, nearestHalf);
      const a = grow(start, 2, storage);
      const before = await a.data();
      const longer = grow(a, 3, storage);
      const other = grow(a, 4, storage);
      const [longerValues, otherValues] = [await longer.data(), await other.data()];
      expect(await a.data()).toEqual(before);
      expect(longer.shape).toEqual([1, 2, 5, 4]);
      const expected = (seed: number) =>
        tf.tidy(() => tf.concat([start, ...[2, seed].map((one) => heads(one, sizes, 1, nearestHalf))], 2)).data();
      expect(longerValues).toEqual(await expected(3));
      expect(otherValues).toEqual(await expected(4));
      a.dispose();
      expect(await longer.data()).toEqual(longerValues);
      tf.disposeVariables();
      tf.dispose([start, longer, other]);
    },
  );

  it.each(CACHE_STORAGES)("moves to more memory when it is full (%s)", async (storage) => {
    await useBackend("native");
    let cache: KeyValueCache = { ...EMPTY_CACHE, storage };
    const values: number[] = [];
    for (let position = 0; position < 2100; position++) {
      const entry = (): tf.Tensor4D => tf.fill([1, 2, 1, 1], position % 2048); // a float16 holds integers up to 2,048
      cache = extendCache(cache, { keys: entry(), values: entry() });
      values.push(position % 2048);
    }
    expect([...((await cache.segments[0]?.keys.data()) ?? [])]).toEqual([...values, ...values]);
    disposeCache(cache);
  });

  it("begins anew where the storage asked for is another", async () => {
    await useBackend("native");
    const start = heads(1, sizes, 3);
    const wide = grow(start, 2);
    const narrow = grow(wide, 3, "f16");
    const wideValues = await wide.data<"float32">();
    const narrowValues = await narrow.data<"float32">();
    expect(narrowValues.subarray(0, 16)).toEqual(wideValues.map(nearestHalf).subarray(0, 16)); // the first head's
    tf.dispose([start, wide, narrow]);
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
