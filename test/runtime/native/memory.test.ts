import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { TINY_SHAPE, writeRandomCheckpoint } from "../../../src/model/random-checkpoint.js";
import { MusicGen } from "../../../src/musicgen.js";
import {
  attend,
  CACHE_STORAGES,
  disposeCache,
  EMPTY_CACHE,
  extendCache,
  type KeyValueCache,
} from "../../../src/runtime/attention.js";
import { useBackend } from "../../../src/runtime/backend.js";
import { gelu } from "../../../src/runtime/gelu.js";
import { linear, linearWeight } from "../../../src/runtime/linear.js";
import { layerNorm } from "../../../src/runtime/norm.js";
import { BufferPool } from "../../../src/runtime/native/pool.js";
import { temporaryDirectory } from "../../support/temporary.js";
import { describeNative, native, numbers } from "./support.js";

describeNative("memory that somebody still holds is never used again", () => {
  /** Makes and frees many tensors of a size, so that any memory of that size in the pool is written to. */
  function stir(size: number): void {
    const made = Array.from({ length: 8 }, (_, index) => tf.add(tf.fill([size], 1000 + index), 1));
    tf.dispose(made);
  }

  it("after reading a tensor and disposing it", async () => {
    await useBackend("native");
    const tensor = tf.add(tf.fill([100], 1), 1);
    const held = await tensor.data();
    const heldToo = tensor.dataSync();
    tensor.dispose();
    stir(100);
    expect([...held]).toEqual(new Array(100).fill(2));
    expect([...heldToo]).toEqual(new Array(100).fill(2));
  });

  it("by a tensor that a kernel of the cpu backend made as a view of another", async () => {
    await useBackend("native");
    const source = tf.cast(tf.add(tf.fill([64], 1), 1), "int32");
    // A kernel as the cpu backend writes them: its output is part of its input's memory.
    const view = native().makeTensorInfo([32], "int32", native().integers(source).subarray(0, 32));
    const tensor = tf.engine().makeTensorFromTensorInfo(view, native());
    source.dispose();
    tf.dispose(Array.from({ length: 8 }, () => tf.cast(tf.fill([64], 9.5), "int32")));
    expect([...(await tensor.data())]).toEqual(new Array(32).fill(2));
    tensor.dispose();
  });

  it("by a reshaped tensor or a clone", async () => {
    await useBackend("native");
    const source = tf.add(tf.fill([60], 1), 1);
    const [reshaped, clone] = [tf.reshape(source, [6, 10]), tf.clone(source)];
    source.dispose();
    stir(60);
    expect([...(await reshaped.data())]).toEqual(new Array(60).fill(2));
    expect([...(await clone.data())]).toEqual(new Array(60).fill(2));
    tf.dispose([reshaped, clone]);
  });

  it("by the array a tensor was made of", async () => {
    await useBackend("native");
    const values = Float32Array.from({ length: 40 }, (_, index) => index);
    tf.tensor1d(values).dispose();
    stir(40);
    expect(values[39]).toBe(39);
  });

  it("when a tensor moves to another backend and back", async () => {
    await useBackend("native");
    const tensor = tf.add(tf.fill([50], 1), 1);
    await useBackend("cpu");
    const there = tf.add(tensor, 1);
    await useBackend("native");
    const back = tf.add(tf.add(there, tensor), 0);
    expect([...(await back.data())]).toEqual(new Array(50).fill(5));
    tf.dispose([tensor, there, back]);
  });
});

describeNative("the buffer pool", () => {
  it("gives memory back out once it was returned, and not before", () => {
    const pool = new BufferPool();
    const first = pool.floats(1000);
    const second = pool.floats(1000);
    expect(second.buffer).not.toBe(first.buffer);
    pool.giveBack(first);
    expect(pool.floats(1000).buffer).toBe(first.buffer);
  });

  it("serves a smaller size of the same class, and integers from what held floats", () => {
    const pool = new BufferPool();
    const large = pool.floats(1000);
    pool.giveBack(large);
    const small = pool.integers(990);
    expect(small.buffer).toBe(large.buffer);
    expect(small).toHaveLength(990);
  });

  it("is never more than a quarter too large", () => {
    const pool = new BufferPool();
    for (let length = 17; length < 70_000; length = Math.ceil(length * 1.07)) {
      expect(pool.floats(length).buffer.byteLength).toBeLessThanOrEqual(5 * length);
    }
  });

  it("does not take back what is shared, or what came from elsewhere", () => {
    const pool = new BufferPool();
    const shared = pool.floats(100);
    pool.share(shared.subarray(3, 5));
    pool.giveBack(shared);
    pool.giveBack(new Float32Array(100));
    expect(pool.freeBytes).toBe(0);
  });
});

describeNative("ten thousand steps", () => {
  it.each(CACHE_STORAGES)("leave no tensor and no memory behind, with keys and values in %s", async (storage) => {
    await useBackend("native");
    const empty = { ...EMPTY_CACHE, storage };
    const weight = linearWeight({ values: numbers(1)(64 * 64), rows: 64, columns: 64 });
    const norm = { gain: tf.ones<tf.Rank.R1>([64]), bias: tf.zeros<tf.Rank.R1>([64]) };
    const tensors = tf.memory().numTensors;
    let x = tf.tensor2d(numbers(2)(2 * 64), [2, 64]);
    let cache: KeyValueCache = empty;
    let early = 0;
    for (let step = 0; step < 10_000; step++) {
      const next = tf.tidy(() => gelu(linear(layerNorm(x, norm, 1e-5), { weight })));
      x.dispose();
      x = next;
      const position = (): tf.Tensor4D => tf.tidy(() => tf.reshape<tf.Rank.R4>(tf.mul(x, 1), [2, 4, 1, 16]));
      if (step % 50 === 0) {
        disposeCache(cache);
        cache = empty;
      }
      cache = extendCache(cache, { keys: position(), values: position() });
      const q = position();
      attend(q, cache.segments, undefined).dispose();
      q.dispose();
      if (step === 2000) early = process.memoryUsage().rss;
    }
    const late = process.memoryUsage().rss;
    disposeCache(cache);
    x.dispose();
    expect(tf.memory().numTensors).toBe(tensors);
    expect(late - early).toBeLessThan(64 * 2 ** 20);
    tf.dispose([weight, norm.gain, norm.bias]);
  });
});

/** Steps of generation by the tiny model, in clips of 500. */
async function generateSteps(clips: number): Promise<{ readonly tensors: number; readonly grown: number }> {
  const directory = await temporaryDirectory();
  await writeRandomCheckpoint(directory, TINY_SHAPE, 1);
  const model = await MusicGen.load(directory, { backend: "native" });
  const tensors = tf.memory().numTensors;
  const text = { ids: Int32Array.of(3, 5, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };
  let early = 0;
  for (let clip = 0; clip < clips; clip++) {
    await model.generate({ text, frames: 500, seed: clip });
    if (clip === Math.floor(clips / 4)) early = process.memoryUsage().rss;
  }
  const result = { tensors: tf.memory().numTensors - tensors, grown: process.memoryUsage().rss - early };
  await model.dispose();
  return result;
}

describeNative("generating clip after clip", () => {
  it("leaves no tensor behind", async () => {
    expect((await generateSteps(1)).tensors).toBe(0);
  });
});

const isLong = process.env["TONEARM_LONG"] === "1";
(isLong ? describeNative : describe.skip)(
  `ten thousand steps of generation${isLong ? "" : " [skipped, a minute long: TONEARM_LONG=1 runs it]"}`,
  () => {
    it("leave no tensor and no memory behind", { timeout: 600_000 }, async () => {
      const { tensors, grown } = await generateSteps(20);
      expect(tensors).toBe(0);
      expect(grown).toBeLessThan(96 * 2 ** 20);
    });
  },
);
