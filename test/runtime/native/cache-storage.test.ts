import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { openCheckpoint } from "../../../src/checkpoint/checkpoint.js";
import { disposeCache } from "../../../src/activations/cache.js";
import type { Hook } from "../../../src/activations/hooks.js";
import { UsageError } from "../../../src/errors.js";
import { readMusicGenConfig } from "../../../src/model/checkpoint.js";
import { disposeState, initialState, runDecoder } from "../../../src/model/decoder.js";
import { Networks } from "../../../src/model/networks.js";
import { MusicGen, type LoadOptions } from "../../../src/musicgen.js";
import { complete, NO_TAPS } from "../../../src/runtime/announce.js";
import { requireCacheStorage, type CacheStorage } from "../../../src/runtime/attention.js";
import { useBackend } from "../../../src/runtime/backend.js";
import { describeOnEachBackend } from "../../support/backends.js";
import { fixtureDirectory } from "../../support/fixtures.js";
import { describeNative, describeOnEachKernelSet, divergence, nearestHalf, type Logits } from "./support.js";

/** Generating with keys and values in 16 bits: what it costs, who sees it, and where it is refused. */

const MONO = fixtureDirectory("mono");
const TEXT = { ids: Int32Array.of(3, 5, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };

function load(options: LoadOptions): Promise<MusicGen> {
  return MusicGen.load(MONO, { backend: "native", weights: "f32", ...options });
}

const POSITIONS = 240;
const PREFILL = 90; // more than a block of queries

/** Logits over fixed codes, the first positions in one pass and the others one by one, as a generation has them. */
async function overCache(storage: CacheStorage): Promise<Logits> {
  await useBackend("native");
  const config = await readMusicGenConfig(MONO);
  const checkpoint = await openCheckpoint(MONO);
  const networks = new Networks(checkpoint, config, "together", { storage: "f32", cacheStorage: storage });
  await checkpoint.close();
  const decoder = await networks.decoder();
  const { codebooks, codebookSize } = config.decoder;
  const codes = (first: number, count: number): Int32Array =>
    Int32Array.from({ length: codebooks * count }, (_, index) => {
      const [k, t] = [Math.floor(index / count), first + (index % count)];
      return ((k * POSITIONS + t) * 7919) % codebookSize;
    }); // [1, K, T]
  let state = initialState(decoder.config, decoder.cacheStorage);
  const parts: Float32Array[] = [];
  for (let first = 0; first < POSITIONS; first += first === 0 ? PREFILL : 1) {
    const positions = first === 0 ? PREFILL : 1;
    const input = { ids: codes(first, positions), batch: 1, positions, rows: 1 };
    const pass = { state, memory: undefined, logits: "last" as const, positionTable: decoder.positionTable };
    const output = complete(runDecoder(decoder.weights, decoder.config, input, pass, NO_TAPS));
    if (!output.state) throw new Error("a pass with a state leaves one");
    state = output.state;
    parts.push(await output.logits.data<"float32">()); // [1, K, 1, V]
    output.logits.dispose();
  }
  disposeState(state);
  await networks.dispose();
  const logits = new Float32Array(parts.length * codebooks * codebookSize);
  parts.forEach((part, index) => {
    logits.set(part, index * part.length);
  });
  return { logits, entries: codebookSize };
}

describeOnEachKernelSet("the cost of keys and values in 16 bits, on fixed codes", (backend) => {
  // Twice what was measured. Rounding errs by 2⁻¹¹ of a number at most, attention averages that, the stream dilutes it.
  it("is a divergence from float32 of less than 2.5e-9 nats, and not nothing", async () => {
    await useBackend("native");
    backend();
    const reference = await overCache("f32");
    const rounded = await overCache("f16");
    const cost = divergence(reference, rounded);
    expect(cost).toBeGreaterThan(0);
    expect(cost).toBeLessThan(2.5e-9);
    expect(rounded.logits).toBeAllClose(reference.logits, { within: 6.5e-4 });
  });
});

describeNative("a generation with keys and values in 16 bits", () => {
  it("takes the same tokens for any number of threads, on every kernel set", async () => {
    const model = await load({ cache: "f16" });
    const { registerNativeBackend } = await import("../../../src/runtime/native/register.js");
    const { addon } = registerNativeBackend();
    const [set, threads] = [addon.kernelSet(), addon.threads()];
    for (const name of addon.kernelSets()) {
      addon.useKernelSet(name);
      const codes = [];
      for (const count of [1, 2, 3]) {
        addon.useThreads(count);
        codes.push((await model.generate({ text: TEXT, frames: 60, greedy: true, seed: 1 })).codes.values);
      }
      expect(codes[1], name).toEqual(codes[0]);
      expect(codes[2], name).toEqual(codes[0]);
    }
    addon.useKernelSet(set);
    addon.useThreads(threads);
    await model.dispose();
  });

  it("leaves no tensor behind, and says in its settings how it was made", async () => {
    const model = await load({ cache: "f16" });
    const before = tf.memory().numTensors;
    const { settings } = await model.generate({ text: TEXT, frames: 30, seed: 1 });
    expect(settings.cache).toBe("f16");
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });

  it("shows hooks the keys and values that were computed, and attends to them rounded from the first pass on", async () => {
    const sites = ["hook_k", "hook_v", "hook_z"].map((hook) => `blocks.0.attn.${hook}`);
    const seen: Record<string, Float32Array>[] = [];
    for (const cache of ["f32", "f16"] as const) {
      const model = await load({ cache });
      const run = await model.generateWithCache({ text: TEXT, frames: 4, seed: 1 }, { sites });
      const first: Record<string, Float32Array> = {};
      for (const [site, tensor] of Object.entries(run.cache)) {
        const position = tf.slice(tensor, [0, 0], [-1, 1]); // [R, 1, H, Dh]
        first[site.slice(-1)] = await position.data<"float32">();
        position.dispose();
      }
      seen.push(first);
      disposeCache(run.cache);
      await model.dispose();
    }
    const [wide, half] = seen;
    expect(half?.["k"]).toEqual(wide?.["k"]);
    expect(half?.["v"]).toEqual(wide?.["v"]);
    expect(half?.["v"]).not.toEqual(half?.["v"]?.map(nearestHalf));
    // The first position attends to itself alone.
    expect(wide?.["z"]).toEqual(wide?.["v"]);
    expect(half?.["z"]).toEqual(half?.["v"]?.map(nearestHalf));
  });

  it("leaves teacher-forced passes as they are", async () => {
    const values = Int32Array.from({ length: 4 * 24 }, (_, index) => (index * 31) % 64);
    const logits: Float32Array[] = [];
    for (const cache of ["f32", "f16"] as const) {
      const model = await load({ cache });
      const texts = [{ text: TEXT }, { from: 0.01, text: TEXT }];
      const result = await model.forward({ text: texts, codes: { values, codebooks: 4, frames: 24 } });
      logits.push(await result.data<"float32">());
      result.dispose();
      await model.dispose();
    }
    expect(logits[1]).toEqual(logits[0]);
  });

  it("ends with the number where an edit makes a key too large, and frees all it held", async () => {
    const enlarge: Hook = { sites: "blocks.1.attn.hook_k", run: (key) => tf.mul(key, 1e7) };
    const wide = await load({});
    await expect(wide.generate({ text: TEXT, frames: 4, seed: 1, hooks: [enlarge] })).resolves.toBeDefined();
    await wide.dispose();
    const model = await load({ cache: "f16" });
    const before = tf.memory().numTensors;
    const refused = model.generate({ text: TEXT, frames: 4, seed: 1, hooks: [enlarge] });
    await expect(refused).rejects.toThrow(UsageError);
    await expect(refused).rejects.toThrow(/keys and values of attention as f16: a magnitude of \d+.*65504.*f32/);
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });
});

describeOnEachBackend("keys and values in 16 bits", (backend) => {
  it(backend === "native" ? "are taken" : "are refused by name, before anything is read", async () => {
    const before = tf.memory().numTensors;
    const loading = MusicGen.load(MONO, { backend, cache: "f16" });
    if (backend === "native") {
      await (await loading).dispose();
      return;
    }
    await expect(loading).rejects.toThrow(UsageError);
    const name = tf.getBackend();
    await expect(loading).rejects.toThrow(`keep keys and values as f16: the backend ${name}, which keeps float32 only`);
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe("a storage of keys and values that there is not", () => {
  it("is refused with the names that there are", () => {
    const asked: string = "int8";
    expect(() => {
      requireCacheStorage(asked as CacheStorage);
    }).toThrow(/keep keys and values as int8: no storage of that name. Choose one of f32, f16/);
  });
});
