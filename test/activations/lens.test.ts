import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import { disposeCache, type ActivationCache } from "../../src/activations/cache.js";
import { hearLens, lensCodes, lensTable } from "../../src/activations/lens.js";
import { attentionTables } from "../../src/activations/patterns.js";
import { accumulatedSites } from "../../src/activations/residual.js";
import { MusicGen, type Generation } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { shortText } from "./support.js";

describeOnEachBackend("the logit lens", (backend) => {
  for (const kind of ["mono", "stereo"]) {
    let model: MusicGen;
    let greedy: Generation;
    let cache: ActivationCache;
    let logits: tf.Tensor;
    let before: number;

    beforeAll(async () => {
      model = await MusicGen.load(fixtureDirectory(kind), { backend });
      greedy = await model.generate({ text: shortText(), frames: 4, greedy: true, guidance: 1 });
      before = tf.memory().numTensors;
      const options = { text: shortText(), codes: greedy.codes };
      const sites = (site: string) => accumulatedSites(site) || site === "blocks.1.attn.hook_pattern";
      ({ cache, logits } = await model.runWithCache(options, { sites }));
    });
    afterAll(async () => {
      disposeCache(cache);
      logits.dispose();
      expect(tf.memory().numTensors).toBe(before);
      await model.dispose();
    });

    const residual = (layer: number) => cache[`blocks.${layer}.hook_resid_post`] ?? tf.scalar(NaN);

    it(`at the last layer says what the model says, in codes and in sound (${kind})`, async () => {
      expect(await lensCodes(model, logits)).toEqual(greedy.codes);
      const heard = await hearLens(model, residual(2));
      expect(heard.channels).toEqual(greedy.audio.channels);
    });

    it(`at an earlier layer says something else (${kind})`, async () => {
      const heard = await hearLens(model, residual(0), { frames: 3 });
      expect(heard.channels[0]).toHaveLength(3 * model.config.codec.hop);
      expect(heard.channels[0]).not.toEqual(greedy.audio.channels[0]?.slice(0, 3 * model.config.codec.hop));
    });

    it(`draws the same from the same seed (${kind})`, async () => {
      const sampling = { greedy: false, temperature: 1, topK: 0, topP: 1 };
      const drawn = await lensCodes(model, logits, { sampling, seed: 3 });
      expect(await lensCodes(model, logits, { sampling, seed: 3 })).toEqual(drawn);
      expect(await lensCodes(model, logits, { sampling, seed: 4 })).not.toEqual(drawn);
    });

    it(`tells layer by layer how likely the true codes are (${kind})`, async () => {
      const codebook = 3;
      const delay = Math.floor(codebook / model.config.decoder.audioChannels);
      const { rows, columns, values } = await lensTable(model, cache, { codes: greedy.codes, codebook });
      expect(rows).toEqual([...[0, 1, 2].map((layer) => `blocks.${layer}.hook_resid_pre`), "blocks.2.hook_resid_post"]);
      expect(columns).toHaveLength(8);
      const last = values.at(-1) ?? [];
      expect(last.map(Number.isNaN)).toEqual(columns.map((_, position) => position < delay || position >= 4 + delay));
      const host = await logits.data(); // [1, K, 8, V]
      const { codebookSize } = model.config.decoder;
      const start = (codebook * 8 + delay) * codebookSize;
      const scores = [...host.subarray(start, start + codebookSize)];
      const total = Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0));
      const token = greedy.codes.values[codebook * 4] ?? NaN;
      expect([last[delay] ?? NaN]).toBeAllClose([(scores[token] ?? NaN) - total], { within: 1e-5 });
    });

    it(`refuses rows, frames, codebooks and shapes that are not there (${kind})`, async () => {
      await expect(lensCodes(model, logits, { row: 1 })).rejects.toThrow("row 1");
      await expect(lensCodes(model, logits, { frames: 6 })).rejects.toThrow("1 … 5");
      await expect(lensCodes(model, residual(0))).rejects.toThrow("[R, K, T, V]");
      await expect(lensTable(model, cache, { codes: greedy.codes, codebook: 8 })).rejects.toThrow("codebook 8");
      await expect(lensTable(model, cache, { codes: greedy.codes, row: 2 })).rejects.toThrow("row 2");
    });

    it(`patterns are exported head by head, as JSON (${kind})`, async () => {
      const tables = await attentionTables(cache, "blocks.1.attn.hook_pattern");
      expect(tables).toHaveLength(model.config.decoder.heads);
      const [first] = tables;
      const host = (await cache["blocks.1.attn.hook_pattern"]?.data()) ?? [];
      expect(first?.values.flat()).toEqual([...host.slice(0, 64)]);
      expect(JSON.parse(JSON.stringify(first))).toEqual(first);
      await expect(attentionTables(cache, "blocks.1.hook_resid_post")).rejects.toThrow("hook_pattern");
      await expect(attentionTables(cache, "blocks.0.attn.hook_pattern")).rejects.toThrow("Add it to the sites");
    });
  }
});
