import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import { disposeCache, type ActivationCache } from "../../src/activations/cache.js";
import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory, fixtureJson, type GoldenTensor } from "../support/fixtures.js";
import { fixtureCodes, fixtureTexts, valuesOf } from "./support.js";

/** What transformers 5.18.0 left at each layer: see tools/reference. */
interface LayerReference {
  readonly decoder_hidden_states: readonly GoldenTensor[]; // L + 1 × [B, T, D]: before each block, and after the last
  readonly null_decoder_hidden_states: readonly GoldenTensor[];
  readonly self_attentions: readonly GoldenTensor[]; // L × [B, H, T, T]
  readonly cross_attentions: readonly GoldenTensor[]; // L × [B, H, T, S]
  readonly t5_hidden_states: readonly GoldenTensor[]; // L + 1 × [B, S, D]: before each block, and at the end
}

const REFERENCE_POSITIONS = 10; // the reference leaves out the last column, which nothing is predicted from

describeOnEachBackend("activations add up, and equal the reference's at every layer", (backend) => {
  for (const kind of ["mono-layers", "stereo-layers"]) {
    const reference = fixtureJson(`${kind}/expected.json`) as LayerReference;
    let model: MusicGen;
    let cache: ActivationCache;
    let clean: Float32Array;
    let looked: Float32Array;

    beforeAll(async () => {
      model = await MusicGen.load(fixtureDirectory(kind), { backend });
      const options = { text: fixtureTexts(kind), codes: fixtureCodes(kind), rows: ["cond", "null"] } as const;
      clean = await valuesOf(await model.forward(options));
      const run = await model.runWithCache(options, { sites: "**" });
      cache = run.cache;
      looked = await valuesOf(run.logits);
    });
    afterAll(async () => {
      disposeCache(cache);
      await model.dispose();
    });

    const site = (name: string): tf.Tensor => {
      const tensor = cache[name];
      if (!tensor) throw new Error(`the run left nothing at ${name}`);
      return tensor;
    };
    /** Rows and positions of an activation that the reference has. */
    const part = (name: string, begin: number[], size: readonly number[]): Promise<Float32Array> =>
      valuesOf(tf.slice(site(name), begin, [...size]));
    const layers = [0, 1, 2, 3];

    it(`looking at everything changes not one bit of the logits (${kind})`, () => {
      expect(looked).toEqual(clean);
    });

    it.each(layers)(`layer %i: what is added to the residual stream is what it grows by (${kind})`, async (layer) => {
      const block = `blocks.${layer}`;
      for (const [before, added, after] of [
        ["hook_resid_pre", "hook_attn_out", "hook_resid_mid"],
        ["hook_resid_mid", "hook_cross_attn_out", "hook_resid_mid_cross"],
        ["hook_resid_mid_cross", "hook_mlp_out", "hook_resid_post"],
      ]) {
        const sum = await valuesOf(tf.add(site(`${block}.${before}`), site(`${block}.${added}`)));
        expect(sum).toEqual(await site(`${block}.${after}`).data());
      }
      const next = layer === 3 ? undefined : await site(`blocks.${layer + 1}.hook_resid_pre`).data();
      if (next) expect(await site(`${block}.hook_resid_post`).data()).toEqual(next);
    });

    it(`the first residual is the sum of the embeddings (${kind})`, async () => {
      const sum = await valuesOf(tf.add(site("hook_embed"), site("hook_pos_embed")));
      expect(sum).toEqual(await site("blocks.0.hook_resid_pre").data());
    });

    it.each(layers)(`layer %i: heads' results sum to the attention's output (${kind})`, async (layer) => {
      const self = await valuesOf(tf.sum(site(`blocks.${layer}.attn.hook_result`), 2));
      expect(self).toBeAllClose(await site(`blocks.${layer}.hook_attn_out`).data(), { within: 1e-5 });
      const cross = await valuesOf(tf.sum(site(`blocks.${layer}.cross_attn.hook_result`), 2)); // [Rc, T, D]
      const out = await part(`blocks.${layer}.hook_cross_attn_out`, [0, 0, 0], [2, 11, 48]);
      expect(cross).toBeAllClose(out, { within: 1e-5 });
      const unread = await part(`blocks.${layer}.hook_cross_attn_out`, [2, 0, 0], [2, 11, 48]);
      expect(unread.every((value) => value === 0)).toBe(true);
    });

    it.each(layers)(`layer %i: patterns sum to 1, hide the future, and gather z from v (${kind})`, async (layer) => {
      for (const [attention, keys] of [
        ["attn", 11],
        ["cross_attn", 17],
      ] as const) {
        const name = `blocks.${layer}.${attention}`;
        const pattern = site(`${name}.hook_pattern`);
        const sums = await valuesOf(tf.sum(pattern, -1));
        expect(sums).toBeAllClose(new Float32Array(sums.length).fill(1), { within: 1e-5 });
        expect(pattern.shape[3]).toBe(keys);
        const explicit = tf.tidy(() =>
          tf.transpose(tf.matMul(pattern, tf.transpose(site(`${name}.hook_v`), [0, 2, 1, 3])), [0, 2, 1, 3]),
        ); // [R, T, H, Dh]
        expect(await valuesOf(explicit)).toBeAllClose(await site(`${name}.hook_z`).data(), { within: 1e-5 });
      }
      const self = await site(`blocks.${layer}.attn.hook_pattern`).data();
      const future = self.filter((_, index) => index % 11 > Math.floor(index / 11) % 11);
      expect(future.every((weight) => weight === 0)).toBe(true);
    });

    it.each(layers)(`layer %i: scores are q · k / √Dh, before the mask (${kind})`, async (layer) => {
      const name = `blocks.${layer}.attn`;
      const scores = tf.tidy(() => {
        const [q, k] = ["q", "k"].map((part) => tf.transpose(site(`${name}.hook_${part}`), [0, 2, 1, 3]));
        return q && k ? tf.div(tf.matMul(q, k, false, true), Math.sqrt(8)) : tf.scalar(0);
      });
      expect(await valuesOf(scores)).toBeAllClose(await site(`${name}.hook_attn_scores`).data(), { within: 1e-5 });
    });

    it.each(layers)(`layer %i: residual and patterns are transformers' (${kind})`, async (layer) => {
      const size = [2, REFERENCE_POSITIONS, 48];
      for (const [states, row] of [
        [reference.decoder_hidden_states, 0],
        [reference.null_decoder_hidden_states, 2],
      ] as const) {
        const residual = await part(`blocks.${layer}.hook_resid_pre`, [row, 0, 0], size);
        expect(residual).toBeAllClose(states[layer]?.data ?? [], { within: 1e-5 });
      }
      const self = await part(
        `blocks.${layer}.attn.hook_pattern`,
        [0, 0, 0, 0],
        [2, 6, REFERENCE_POSITIONS, REFERENCE_POSITIONS],
      );
      expect(self).toBeAllClose(reference.self_attentions[layer]?.data ?? [], { within: 1e-5 });
      const cross = await part(
        `blocks.${layer}.cross_attn.hook_pattern`,
        [0, 0, 0, 0],
        [2, 6, REFERENCE_POSITIONS, 17],
      );
      expect(cross).toBeAllClose(reference.cross_attentions[layer]?.data ?? [], { within: 1e-5 });
    });

    it(`the last residual is transformers' (${kind})`, async () => {
      const residual = await part("blocks.3.hook_resid_post", [0, 0, 0], [2, REFERENCE_POSITIONS, 48]);
      expect(residual).toBeAllClose(reference.decoder_hidden_states[4]?.data ?? [], { within: 1e-5 });
    });

    it(`final norm and heads, from the model's own weights, give the logits (${kind})`, async () => {
      const { gain, bias, heads } = await model.unembedding();
      const [, codebooks, entries] = heads.shape;
      const byHand = tf.tidy(() => {
        const normalized = tf.add(tf.mul(site("ln_final.hook_normalized"), gain), bias); // [R, T, D]
        const joined = tf.matMul(tf.reshape(normalized, [-1, 48]), tf.reshape(heads, [48, -1])); // [R·T, K·V]
        return tf.transpose(tf.reshape(joined, [4, 11, codebooks, entries]), [0, 2, 1, 3]); // [R, K, T, V]
      });
      tf.dispose([gain, bias, heads]);
      expect(await valuesOf(byHand)).toBeAllClose(clean, { within: 1e-5 });
      expect(await valuesOf(await model.unembed(site("blocks.3.hook_resid_post")))).toEqual(clean);
    });

    it(`the text encoder's residuals are transformers' where the text is not padding (${kind})`, async () => {
      const { mask } = fixtureTexts(kind);
      for (const [layer, { data, shape }] of reference.t5_hidden_states.slice(0, -1).entries()) {
        const width = shape[2] ?? 0;
        const residual = await site(`text.blocks.${layer}.hook_resid_pre`).data();
        const real = (_: number, index: number): boolean => mask[Math.floor(index / width)] === 1;
        expect(residual.filter(real)).toBeAllClose(data.filter(real), { within: 1e-5 });
      }
    });
  }
});
