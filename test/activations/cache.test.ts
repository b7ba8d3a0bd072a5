import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import { disposeCache } from "../../src/activations/cache.js";
import type { Hook } from "../../src/activations/hooks.js";
import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { shortText, someCodes, valuesOf } from "./support.js";

/** Adds to positions 2 … 4 of the conditional row, whatever pass they come in: an edit addressed by position. */
const POSITIONED: Hook = {
  name: "positioned",
  sites: "blocks.1.hook_resid_pre",
  run: (value, at) =>
    tf.tidy(() => {
      const mask = tf.buffer(value.shape);
      at.rows.forEach(({ role }, row) => {
        at.positions.forEach((position, index) => {
          if (role !== "cond" || position < 2 || position > 4) return;
          for (let d = 0; d < (value.shape[2] ?? 0); d++) mask.set(2 * Math.sin(d + position), row, index, d);
        });
      });
      return tf.add(value, mask.toTensor());
    }),
};

describeOnEachBackend("a cache of activations", (backend) => {
  let model: MusicGen;
  const text = shortText();

  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono"), { backend });
  });
  afterAll(() => model.dispose());

  const forced = () => ({ text, codes: someCodes(model, 2) });

  it("is a dictionary of what was asked for, with layers from the end, and frees all it holds", async () => {
    const before = tf.memory().numTensors;
    const { logits, cache } = await model.runWithCache(forced(), { sites: ["blocks.*.hook_resid_post", "hook_embed"] });
    expect(Object.keys(cache)).toEqual(["hook_embed", ...[0, 1, 2].map((layer) => `blocks.${layer}.hook_resid_post`)]);
    expect(cache["blocks.-1.hook_resid_post"]).toBe(cache["blocks.2.hook_resid_post"]);
    expect(cache["hook_embed"]?.shape).toEqual([1, 6, 32]);
    expect(tf.memory().numTensors).toBe(before + 5);
    logits.dispose();
    disposeCache(cache);
    expect(tf.memory().numTensors).toBe(before);
  });

  it("refuses a site that was not captured, and tells it from one that does not exist", async () => {
    const { logits, cache } = await model.runWithCache(forced(), { sites: "blocks.*.hook_resid_post" });
    logits.dispose();
    expect(() => cache["blocks.1.hook_resid_pre"]).toThrow(/nearest: blocks\.1\.hook_resid_post.*Add it to the sites/);
    expect(() => cache["blocks.1.hook_resid_pots"]).toThrow(/no such site; nearest: blocks\.1\.hook_resid_post/);
    await expect(Promise.resolve(cache)).resolves.toBe(cache); // an await asks for `then`
    disposeCache(cache);
  });

  it("refuses a misspelt site and one that the run never comes by, before handing out an empty cache", async () => {
    const before = tf.memory().numTensors;
    await expect(model.runWithCache(forced(), { sites: "blocks.1.hook_resid_pots" })).rejects.toThrow("nearest");
    await expect(model.runWithCache(forced(), { sites: "codec.hook_latent" })).rejects.toThrow("without coming by");
    expect(tf.memory().numTensors).toBe(before);
  });

  it("refuses to exceed its budget before the run, with the numbers and the biggest sites", async () => {
    const before = tf.memory().numTensors;
    const sites = ["blocks.1.hook_resid_post", "hook_logits"];
    const bytes = 4 * (6 * 32 + 4 * 6 * 64);
    let fired = 0;
    const counting: Hook = {
      sites: "hook_embed",
      run: () => {
        fired++;
      },
    };
    const run = (budgetBytes: number) => model.runWithCache(forced(), { sites, budgetBytes }, [counting]);
    await expect(run(bytes - 1)).rejects.toThrow(
      /2 sites over 6 positions of 1 rows.*the biggest: hook_logits 0\.006 MiB/,
    );
    await expect(run(bytes - 1)).rejects.toMatchObject({ code: "memory" });
    expect(fired).toBe(0);
    expect(tf.memory().numTensors).toBe(before);
    const { logits, cache } = await run(bytes);
    logits.dispose();
    const held = Object.values(cache).reduce((sum, tensor) => sum + 4 * tensor.size, 0);
    expect(held).toBe(bytes);
    disposeCache(cache);
    const settings = { text, frames: 2, hooks: [counting] };
    await expect(model.generateWithCache(settings, { sites: "**", budgetBytes: 1000 })).rejects.toThrow("MiB");
  });

  it("estimates exactly what a run and a generation will hold", async () => {
    const promptAudio = { sampleRate: model.sampleRate, channels: [new Float32Array(70).fill(0.1)] };
    const settings = { text, negative: text, promptAudio, frames: 4, count: 2, seed: 1 };
    for (const run of [
      (budgetBytes: number) => model.generateWithCache(settings, { sites: "**", budgetBytes }),
      (budgetBytes: number) =>
        model.runWithCache(
          { ...forced(), rows: ["cond", "null"] },
          { sites: (site) => !/^codec|guided/.test(site), budgetBytes },
        ),
    ]) {
      const { cache } = await run(1e9);
      const held = Object.values(cache).reduce((sum, tensor) => sum + 4 * tensor.size, 0);
      await expect(run(held - 1)).rejects.toMatchObject({ code: "memory" });
      disposeCache((await run(held)).cache);
      disposeCache(cache);
    }
  });

  it("of a generation, steered by position, equals that of one teacher-forced pass over its codes", async () => {
    for (const hooks of [[], [POSITIONED]]) {
      const sites = [
        "hook_logits",
        "blocks.*.hook_resid_post",
        "blocks.*.attn.hook_pattern",
        "blocks.2.**",
        "hook_pos_embed",
      ];
      const { cache, codes } = await model.generateWithCache({ text, frames: 3, seed: 2, hooks }, { sites });
      const whole = await model.runWithCache({ text, codes, rows: ["cond", "null"] }, { sites }, hooks);
      whole.logits.dispose();
      for (const [site, tensor] of Object.entries(cache)) {
        const same = whole.cache[site];
        if (!same) throw new Error(`no ${site} in a teacher-forced pass`);
        // A generation makes no pass over the last position: nothing follows it. Scores of keys still to come differ.
        const size = tensor.shape.map((length, axis) => Math.min(length, same.shape[axis] ?? 0));
        const part = tf.slice(
          same,
          size.map(() => 0),
          size,
        );
        expect(tensor.shape, site).toEqual(part.shape);
        if (site.endsWith(".attn.hook_attn_scores")) part.dispose();
        else expect(await tensor.data(), site).toBeAllClose(await valuesOf(part), { within: 2e-5 });
      }
      disposeCache(cache);
      disposeCache(whole.cache);
    }
  });

  it("of a generation from a sound: prefill and steps are one pass, steered or not", async () => {
    const promptAudio = { sampleRate: model.sampleRate, channels: [new Float32Array(80).fill(0.3)] };
    for (const hooks of [[], [POSITIONED]]) {
      const sites = ["blocks.2.hook_resid_post", "hook_guided_logits"];
      const settings = { text, promptAudio, frames: 5, seed: 2, hooks };
      const { cache, codes } = await model.generateWithCache(settings, { sites });
      const forcedRun = await model.runWithCache(
        { text, codes, rows: ["cond", "null"] },
        { sites: "blocks.2.hook_resid_post" },
        hooks,
      );
      forcedRun.logits.dispose();
      const residual = tf.slice(forcedRun.cache["blocks.2.hook_resid_post"] ?? tf.scalar(0), [0, 0, 0], [2, 8, 32]);
      const left = (await cache["blocks.2.hook_resid_post"]?.data()) ?? [];
      expect(left).toBeAllClose(await valuesOf(residual), { within: 2e-5 });
      expect(cache["hook_guided_logits"]?.shape).toEqual([1, 4, 6, 64]); // none for the prompt's positions
      disposeCache(cache);
      disposeCache(forcedRun.cache);
    }
  });

  it("holds the text's keys and the codec's passes once each", async () => {
    const stereo = await MusicGen.load(fixtureDirectory("stereo"), { backend });
    const sites = [
      "blocks.0.cross_attn.hook_k",
      "codec.hook_quantized",
      "text.hook_embed",
      "blocks.0.cross_attn.hook_pattern",
    ];
    const { cache } = await stereo.generateWithCache({ text, frames: 2, count: 2, seed: 2 }, { sites });
    const shapes = Object.fromEntries(Object.entries(cache).map(([site, { shape }]) => [site, shape]));
    const { heads, headWidth } = stereo.config.decoder;
    expect(shapes).toEqual({
      "text.hook_embed": [1, 3, 24],
      "blocks.0.cross_attn.hook_k": [2, 3, heads, headWidth],
      "blocks.0.cross_attn.hook_pattern": [2, heads, 5, 3],
      "codec.hook_quantized": [4, 2, 16], // 2 items × 2 channels
    });
    disposeCache(cache);
    await stereo.dispose();
  });

  it("of a run that a hook ends leaves nothing", async () => {
    const before = tf.memory().numTensors;
    const failing: Hook = {
      sites: "blocks.2.hook_resid_pre",
      run: () => {
        throw new Error("enough");
      },
    };
    await expect(model.runWithCache(forced(), { sites: "blocks.**" }, [failing])).rejects.toThrow("enough");
    await expect(
      model.generateWithCache({ text, frames: 2, hooks: [failing] }, { sites: "blocks.**" }),
    ).rejects.toThrow("enough");
    expect(tf.memory().numTensors).toBe(before);
  });
});
