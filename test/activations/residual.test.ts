import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import { attributionSites, logitAttribution } from "../../src/activations/attribution.js";
import { disposeCache, type ActivationCache } from "../../src/activations/cache.js";
import {
  accumulatedResidual,
  accumulatedSites,
  applyFinalNorm,
  decomposedResidual,
  headResults,
} from "../../src/activations/residual.js";
import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { shortText, someCodes, valuesOf } from "./support.js";

describeOnEachBackend("the residual stream taken apart", (backend) => {
  let model: MusicGen;
  let cache: ActivationCache;
  let logits: tf.Tensor;

  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono-layers"), { backend });
    const options = { text: shortText(), codes: someCodes(model, 2), rows: ["cond", "null"] } as const;
    const sites = (site: string) =>
      attributionSites(site) || accumulatedSites(site) || site === "ln_final.hook_normalized";
    ({ cache, logits } = await model.runWithCache(options, { sites }));
  });
  afterAll(async () => {
    disposeCache(cache);
    logits.dispose();
    await model.dispose();
  });

  const last = async () => (await cache["blocks.3.hook_resid_post"]?.data()) ?? [];

  it("is accumulated stage by stage", async () => {
    const { labels, values } = accumulatedResidual(cache);
    expect(labels).toEqual([
      ...[0, 1, 2, 3].map((layer) => `blocks.${layer}.hook_resid_pre`),
      "blocks.3.hook_resid_post",
    ]);
    expect(values.shape).toEqual([5, 2, 6, 48]);
    expect(await valuesOf(tf.slice(values, [4, 0, 0, 0], [1, -1, -1, -1]))).toEqual(await last());
    values.dispose();
  });

  it.each([
    ["by part", false, 2 + 4 * 3],
    ["by head", true, 2 + 4 * (6 + 2)],
  ])("%s adds up to the last residual", async (_, byHead, parts) => {
    const before = tf.memory().numTensors;
    const { labels, values } = decomposedResidual(cache, { byHead });
    expect(tf.memory().numTensors).toBe(before + 1);
    expect(labels).toHaveLength(parts);
    expect(new Set(labels).size).toBe(parts);
    expect(await valuesOf(tf.sum(values, 0))).toBeAllClose(await last(), { within: 2e-5 });
    values.dispose();
  });

  it("names each head's result", async () => {
    const { labels, values } = headResults(cache);
    expect(labels).toHaveLength(24);
    expect(labels[7]).toBe("blocks.1.attn.hook_result[1]");
    const own = tf.slice(cache["blocks.1.attn.hook_result"] ?? tf.scalar(0), [0, 0, 1, 0], [2, 6, 1, 48]);
    expect(await valuesOf(tf.slice(values, [7, 0, 0, 0], [1, -1, -1, -1]))).toEqual(await valuesOf(own));
    values.dispose();
  });

  it("goes through the final norm part by part", async () => {
    const parts = decomposedResidual(cache);
    const normed = await applyFinalNorm(model, parts, cache);
    const { gain, bias, heads } = await model.unembedding();
    const whole = tf.tidy(() => tf.mul(cache["ln_final.hook_normalized"] ?? tf.scalar(0), gain));
    expect(await valuesOf(tf.sum(normed.values, 0))).toBeAllClose(await valuesOf(whole), { within: 2e-5 });
    tf.dispose([parts.values, normed.values, gain, bias, heads]);
  });

  it.each([
    ["a logit", { token: 5 }],
    ["a logit, head by head", { token: 5, byHead: true }],
    ["the difference of two logits", { token: 5, minus: 11 }],
    ["the logits of a token for each position", { token: [3, 1, 4, 1, 5, 9], minus: [2, 7, 1, 8, 2, 8] }],
  ])("explains %s in full", async (_, options) => {
    const before = tf.memory().numTensors;
    const { labels, values } = await logitAttribution(model, cache, { codebook: 2, ...options });
    expect(tf.memory().numTensors).toBe(before + 1);
    expect(values.shape).toEqual([labels.length, 2, 6]);
    const host = await logits.data(); // [2, 4, 6, 32]
    const at = (row: number, position: number, token: number): number =>
      host[((row * 4 + 2) * 6 + position) * 32 + token] ?? NaN;
    const pick = (tokens: number | readonly number[], position: number): number =>
      typeof tokens === "number" ? tokens : (tokens[position] ?? NaN);
    const expected = [0, 1].flatMap((row) =>
      [0, 1, 2, 3, 4, 5].map((position) => {
        const minus = "minus" in options ? at(row, position, pick(options.minus, position)) : 0;
        return at(row, position, pick(options.token, position)) - minus;
      }),
    );
    expect(await valuesOf(tf.sum(values, 0))).toBeAllClose(expected, { within: 2e-5 });
    values.dispose();
  });

  it("refuses a cache without its parts, a codebook, a token and a count out of range", async () => {
    const before = tf.memory().numTensors;
    const run = await model.runWithCache({ text: null, codes: someCodes(model, 2) }, { sites: "hook_embed" });
    expect(() => accumulatedResidual(run.cache)).toThrow("accumulatedSites");
    expect(() => decomposedResidual(run.cache)).toThrow("decomposedSites");
    expect(() => headResults(run.cache)).toThrow('read "blocks.0.attn.hook_result"');
    run.logits.dispose();
    disposeCache(run.cache);
    await expect(logitAttribution(model, cache, { codebook: 4, token: 0 })).rejects.toThrow("0 … 3");
    await expect(logitAttribution(model, cache, { codebook: 0, token: 32 })).rejects.toThrow("0 … 31");
    await expect(logitAttribution(model, cache, { codebook: 0, token: [1, 2] })).rejects.toThrow("6 positions");
    await expect(model.unembed(tf.keep(tf.zeros([6, 47])))).rejects.toThrow("48");
    expect(tf.memory().numTensors).toBe(before + 1); // the one made for the refusal
  });
});
