import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { disposeCache } from "../../../src/activations/cache.js";
import { UsageError } from "../../../src/errors.js";
import { MusicGen, type LoadOptions } from "../../../src/musicgen.js";
import type { Precision } from "../../../src/runtime/linear.js";
import { describeOnEachBackend } from "../../support/backends.js";
import { fixtureDirectory } from "../../support/fixtures.js";
import { describeNative, describeOnEachKernelSet, divergence, type Logits } from "./support.js";

/** A model that computes in bfloat16: what it costs, what it leaves alone, and where it is refused. */

const MONO = fixtureDirectory("mono");
const TEXT = { ids: Int32Array.of(3, 5, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };
const FRAMES = 120;
const CODES = {
  values: Int32Array.from({ length: 4 * FRAMES }, (_, index) => (index * 7919) % 64),
  codebooks: 4,
  frames: FRAMES,
};

function load(options: LoadOptions): Promise<MusicGen> {
  return MusicGen.load(MONO, { backend: "native", ...options });
}

async function forced(compute: Precision): Promise<Logits & { readonly streams: readonly Float32Array[] }> {
  const model = await load({ compute });
  const before = tf.memory().numTensors;
  const { logits, cache } = await model.runWithCache(
    { text: TEXT, codes: CODES },
    { sites: "blocks.*.hook_resid_post" },
  );
  const result = { logits: await logits.data<"float32">(), entries: logits.shape.at(-1) ?? 0 };
  const streams = await Promise.all(Object.values(cache).map((stream) => stream.data<"float32">()));
  logits.dispose();
  disposeCache(cache);
  expect(tf.memory().numTensors).toBe(before);
  await model.dispose();
  return { ...result, streams };
}

/** |a − b| / |b| over all values. */
function relativeError(actual: readonly Float32Array[], expected: readonly Float32Array[]): number {
  let [error, size] = [0, 0];
  expected.forEach((stream, index) => {
    stream.forEach((value, at) => {
      error += ((actual[index]?.[at] ?? NaN) - value) ** 2;
      size += value ** 2;
    });
  });
  return Math.sqrt(error / size);
}

describeOnEachKernelSet("a teacher-forced pass in bfloat16, against float32", (backend) => {
  // Twice what was measured. Rounding a factor errs by 2⁻⁹ of it at most and 1.1e-3 on average, independently from term to
  // term, and layer norm takes none of that away; the stream adds up what some eight products per block err.
  it("moves residual streams by less than 6e-3 of their size, and logits by less than 1.6e-5 nats: and not by nothing", async () => {
    backend();
    const [reference, rounded] = [await forced("f32"), await forced("bf16")];
    const moved = relativeError(rounded.streams, reference.streams);
    const cost = divergence(reference, rounded);
    expect(moved).toBeGreaterThan(1e-4);
    expect(moved).toBeLessThan(6e-3);
    expect(cost).toBeLessThan(1.6e-5);
  });
});

describeNative("a model that computes in bfloat16", () => {
  it("generates as one in float32 does, step by step, and says in its settings how", async () => {
    const clips = [];
    for (const compute of ["f32", "bf16"] as const) {
      const model = await load({ compute });
      const { codes, settings } = await model.generate({ text: TEXT, frames: 40, seed: 1 });
      expect(settings.compute).toBe(compute);
      clips.push(codes.values);
      await model.dispose();
    }
    expect(clips[1]).toEqual(clips[0]);
  });

  it("gives the same bits for any number of threads", async () => {
    const { registerNativeBackend } = await import("../../../src/runtime/native/register.js");
    await load({}).then((model) => model.dispose());
    const { addon } = registerNativeBackend();
    const threads = addon.threads();
    const passes = [];
    for (const count of [1, 2, 3]) {
      addon.useThreads(count);
      passes.push((await forced("bf16")).logits);
    }
    addon.useThreads(threads);
    expect(passes[1]).toEqual(passes[0]);
    expect(passes[2]).toEqual(passes[0]);
  });
});

describeOnEachBackend("computing in bfloat16", (backend) => {
  it(backend === "native" ? "is taken" : "is refused by name, before anything is read", async () => {
    const before = tf.memory().numTensors;
    const loading = MusicGen.load(MONO, { backend, compute: "bf16" });
    if (backend === "native") {
      await (await loading).dispose();
      return;
    }
    await expect(loading).rejects.toThrow(UsageError);
    await expect(loading).rejects.toThrow(`compute in bf16: the backend ${tf.getBackend()}, which computes in float32`);
    expect(tf.memory().numTensors).toBe(before);
  });
});
