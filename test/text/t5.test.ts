import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { readConfig } from "../../src/checkpoint/config.js";
import { writeSafetensors, type NamedTensor } from "../../src/checkpoint/safetensors.js";
import { CheckpointError, SiteError, UsageError } from "../../src/errors.js";
import { Announcement, complete, NO_TAPS, type Taps } from "../../src/runtime/announce.js";
import { disposeTree } from "../../src/runtime/owner.js";
import { readT5Config, type T5Config } from "../../src/text/config.js";
import { encodeText, loadT5, relativePositionBucket, textSites, type T5Weights } from "../../src/text/t5.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory, golden } from "../support/fixtures.js";
import { temporaryDirectory } from "../support/temporary.js";

const EVERYTHING: Taps = { wants: () => true };

async function fixtureConfig(kind: string): Promise<T5Config> {
  const root = await readConfig(join(fixtureDirectory(kind), "config.json"));
  return readT5Config(root.block("text_encoder"));
}

/** Loads the encoder of a checkpoint directory, all of whose text weights it must use. */
async function loadFrom(directory: string, config: T5Config): Promise<T5Weights> {
  const checkpoint = await openCheckpoint(directory);
  try {
    const weights = await loadT5(checkpoint.scope("text_encoder"), config);
    checkpoint.finish("text_encoder");
    return weights;
  } finally {
    await checkpoint.close();
  }
}

/** A checkpoint of the mono fixture's text encoder after some change. */
async function changedCheckpoint(change: (tensors: readonly NamedTensor[]) => readonly NamedTensor[]): Promise<string> {
  const checkpoint = await openCheckpoint(fixtureDirectory("mono"));
  const tensors: NamedTensor[] = [];
  for (const [name, { shape, file }] of checkpoint.tensors) {
    if (!name.startsWith("text_encoder.")) continue;
    tensors.push({ name, shape, dtype: "F32", values: await file.floats(name) });
  }
  await checkpoint.close();
  const directory = await temporaryDirectory();
  await writeSafetensors(join(directory, "model.safetensors"), change(tensors));
  return directory;
}

/** The prompts of a fixture: two, the first padded by two tokens. */
function fixtureTokens(kind: string): TokenBatch {
  const [batch = 0, length = 0] = golden(kind)("input_ids").shape;
  const ids = Int32Array.from(golden(kind)("input_ids").data);
  const mask = Int32Array.from(golden(kind)("attention_mask").data);
  return { ids, mask, batch, length };
}

function tokensOf(...rows: readonly (readonly number[])[]): TokenBatch {
  const length = rows[0]?.length ?? 0;
  const ids = Int32Array.from(rows.flat());
  return { ids, mask: ids.map((id) => (id === 0 ? 0 : 1)), batch: rows.length, length };
}

describe("relativePositionBucket", () => {
  it("follows the table of T5's 32 buckets up to distance 128", () => {
    const starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]; // first distance of each bucket
    for (let distance = 0; distance <= 600; distance++) {
      const bucket = starts.findLastIndex((start) => start <= distance);
      expect(relativePositionBucket(-distance, { buckets: 32, maxDistance: 128 })).toBe(bucket);
      if (distance > 0) {
        expect(relativePositionBucket(distance, { buckets: 32, maxDistance: 128 })).toBe(16 + bucket);
      }
    }
  });
});

describeOnEachBackend("the text encoder", () => {
  let config: T5Config;
  let weights: T5Weights;
  let tokens: TokenBatch;
  let plain: Float32Array;

  /** The states after `visit` has seen every stop that `taps` wants. */
  async function states(taps: Taps, visit: (stop: Announcement) => void, of = tokens): Promise<Float32Array> {
    const walk = encodeText(weights, config, of, taps);
    for (;;) {
      const { done, value } = walk.next();
      if (!done) {
        visit(value);
        continue;
      }
      const values = Float32Array.from(await value.data());
      value.dispose();
      return values;
    }
  }

  beforeAll(async () => {
    config = await fixtureConfig("mono");
    weights = await loadFrom(fixtureDirectory("mono"), config);
    tokens = fixtureTokens("mono");
    plain = await states(NO_TAPS, () => undefined);
  });

  afterAll(() => {
    disposeTree(weights);
  });

  it.each(["mono", "stereo", "melody"])("gives the reference's last hidden states (%s)", async (kind) => {
    const kindConfig = await fixtureConfig(kind);
    const kindWeights = await loadFrom(fixtureDirectory(kind), kindConfig);
    const result = complete(encodeText(kindWeights, kindConfig, fixtureTokens(kind), NO_TAPS));
    const expected = golden(kind)("t5_last_hidden_state");
    expect(result.shape).toEqual(expected.shape);
    expect(await result.data()).toBeAllClose(expected.data, { within: 1e-5 });
    result.dispose();
    disposeTree(kindWeights);
  });

  it("announces the listed sites in their order, each once and of its listed shape", async () => {
    const size = { B: 2, S: 8, D: config.width, H: config.heads, Dh: config.headWidth, Dff: config.ffnWidth, "1": 1 };
    const seen: { site: string; shape: number[] }[] = [];
    await states(EVERYTHING, ({ site, value }) => seen.push({ site, shape: value.shape }));
    const listed = textSites(config).map(({ site, shape }) => ({ site, shape: shape.map((letter) => size[letter]) }));
    expect(seen).toEqual(listed);
    expect(listed).toHaveLength(1 + 18 * config.layers + 2);
  });

  it("stops at the wanted sites only", async () => {
    const seen: string[] = [];
    const wanted = new Set(["text.blocks.1.attn.hook_pattern", "text.ln_final.hook_scale"]);
    await states({ wants: (site) => wanted.has(site) }, ({ site }) => seen.push(site));
    expect(seen).toEqual([...wanted]);
  });

  it("does not change by one bit when everything is looked at, or replaced by its own copy", async () => {
    expect(await states(EVERYTHING, () => undefined)).toEqual(plain);
    expect(await states(EVERYTHING, (stop) => stop.replace(tf.clone(stop.value)))).toEqual(plain);
    const copied = (stop: Announcement): void => stop.replace(tf.mul(stop.value, 1));
    expect(await states(EVERYTHING, copied)).toEqual(plain);
  });

  it("goes on with what is put in at every site", async () => {
    for (const { site } of textSites(config)) {
      const changed = await states({ wants: (name) => name === site }, (stop) => stop.replace(tf.mul(stop.value, 1.5)));
      expect(changed, site).not.toEqual(plain);
      expect(changed.every(Number.isFinite), site).toBe(true);
    }
  });

  it("adds up: residual, attention and feed-forward, heads, patterns", async () => {
    const seen = new Map<string, tf.Tensor>();
    await states(EVERYTHING, ({ site, value }) => seen.set(site, tf.clone(value)));
    const at = (site: string): tf.Tensor => {
      const found = seen.get(`text.${site}`);
      if (!found) throw new Error(`no ${site}`);
      return found;
    };
    for (let layer = 0; layer < config.layers; layer++) {
      const block = `blocks.${layer}`;
      const before = layer === 0 ? at("hook_embed") : at(`blocks.${layer - 1}.hook_resid_post`);
      await expectSame(at(`${block}.hook_resid_pre`), before);
      await expectSame(at(`${block}.hook_resid_mid`), tf.add(before, at(`${block}.hook_attn_out`)));
      const mid = at(`${block}.hook_resid_mid`);
      await expectSame(at(`${block}.hook_resid_post`), tf.add(mid, at(`${block}.hook_mlp_out`)));
      await expectSame(at(`${block}.mlp.hook_post`), tf.relu(at(`${block}.mlp.hook_pre`)));
      const sumOfHeads = await tf.sum(at(`${block}.attn.hook_result`), 2).data();
      expect(sumOfHeads).toBeAllClose(await at(`${block}.hook_attn_out`).data(), { within: 1e-5 });
      const pattern = at(`${block}.attn.hook_pattern`);
      expect(await tf.sum(pattern, -1).data()).toBeAllClose(Array<number>(2 * config.heads * 8).fill(1), {
        within: 1e-6,
      });
      const onPadding = tf.slice(pattern, [0, 0, 0, 6], [1, config.heads, 8, 2]);
      expect((await onPadding.data()).every((weight) => weight === 0)).toBe(true);
    }
    await expectSame(
      tf.mul(at("ln_final.hook_normalized"), weights.lnFinal),
      tf.tensor(plain, [tokens.batch, tokens.length, config.width]),
    );
  });

  it("takes the sum of edited head results as the attention output", async () => {
    const out = "text.blocks.1.hook_attn_out";
    const result = "text.blocks.1.attn.hook_result";
    let kept: tf.Tensor | undefined;
    let attnOut: tf.Tensor | undefined;
    await states({ wants: (site) => site === out || site === result }, (stop) => {
      if (stop.site === out) attnOut = tf.clone(stop.value);
      else {
        const mask = tf.tensor4d([1, 0, 1], [1, 1, 3, 1]); // without head 1
        kept = tf.mul(stop.value, mask);
        stop.replace(tf.clone(kept));
      }
    });
    if (!kept || !attnOut) throw new Error("both sites are announced");
    expect(await attnOut.data()).toBeAllClose(await tf.sum(kept, 2).data(), { within: 1e-6 });
  });

  it("divides by an edited scale", async () => {
    const taps = { wants: (site: string) => site.startsWith("text.ln_final") };
    const halved = await states(taps, (stop) => {
      if (stop.site.endsWith("hook_scale")) stop.replace(tf.mul(stop.value, 2));
    });
    expect(halved).toEqual(plain.map((value) => value / 2));
  });

  it("gives a prompt the same states alone, beside others, and padded", async () => {
    const alone = await states(NO_TAPS, () => undefined, tokensOf([5, 9, 30, 1]));
    const padded = await states(NO_TAPS, () => undefined, tokensOf([5, 9, 30, 1, 0, 0, 0], [3, 8, 8, 40, 41, 7, 1]));
    expect(padded.subarray(0, 4 * config.width)).toBeAllClose(alone, { within: 1e-6 });
    const long = await states(NO_TAPS, () => undefined, tokensOf(Array.from({ length: 150 }, (_, i) => 1 + (i % 59))));
    expect(long.every(Number.isFinite)).toBe(true);
  });

  describe("leaves no tensor behind", () => {
    const count = (): number => tf.memory().numTensors;

    it("but its result, looked at or not", () => {
      const before = count();
      for (const taps of [NO_TAPS, EVERYTHING]) {
        const result = complete(encodeText(weights, config, tokens, taps));
        expect(count()).toBe(before + 1);
        result.dispose();
      }
    });

    it("of a block once it has ended", async () => {
      const held: number[] = [];
      await states({ wants: (site) => site.endsWith("hook_resid_pre") }, () => held.push(count()));
      expect(held).toEqual(Array<number>(config.layers).fill(held[0] ?? NaN));
    });

    it("when replaced everywhere, twice, or by the value itself", async () => {
      const before = count();
      await states(EVERYTHING, (stop) => {
        stop.replace(tf.add(stop.value, 1));
        stop.replace(tf.add(stop.value, 2));
      });
      expect(count()).toBe(before);
      await states(EVERYTHING, (stop) => stop.replace(stop.value));
      expect(count()).toBe(before);
    });

    it("when the consumer stops at any site, with a replacement in place", () => {
      const before = count();
      for (const { site } of textSites(config)) {
        for (const stop of encodeText(weights, config, tokens, EVERYTHING)) {
          stop.replace(tf.mul(stop.value, 1));
          if (stop.site === site) break;
        }
        expect(count(), site).toBe(before);
      }
    });

    it("when the consumer throws at any site, with a replacement in place", () => {
      const before = count();
      for (const { site } of textSites(config)) {
        const walk = encodeText(weights, config, tokens, { wants: (name) => name === site });
        const { value } = walk.next();
        if (!(value instanceof Announcement)) throw new Error("the walk ended early");
        value.replace(tf.mul(value.value, 1));
        expect(() => walk.throw(new RangeError("enough"))).toThrow("enough");
        expect(count(), site).toBe(before);
      }
    });

    it("when a replacement of another shape is refused", () => {
      const before = count();
      const walk = encodeText(weights, config, tokens, EVERYTHING);
      const { value } = walk.next();
      const wrong = tf.zeros([1]);
      if (!(value instanceof Announcement)) throw new Error("the walk ended early");
      expect(() => value.replace(wrong)).toThrow(SiteError);
      wrong.dispose();
      expect(() => walk.throw(new Error("gave up"))).toThrow("gave up");
      expect(count()).toBe(before);
    });

    it("when loading fails at any tensor", async () => {
      const before = count();
      const all: string[] = [];
      await changedCheckpoint((tensors) => {
        all.push(...tensors.map(({ name }) => name));
        return tensors;
      });
      for (const absent of all) {
        const directory = await changedCheckpoint((tensors) => tensors.filter(({ name }) => name !== absent));
        await expect(loadFrom(directory, config), absent).rejects.toThrow(CheckpointError);
        expect(count(), absent).toBe(before);
      }
    });
  });

  describe("refuses", () => {
    it.each([
      ["ids beyond the vocabulary", tokensOf([5, 60, 1]), /token 60 where the vocabulary has 60.*tokenizer\.json/],
      ["negative ids", tokensOf([5, -1, 1]), /token -1/],
      ["no prompt", tokensOf(), /0 ids/],
      ["empty prompts", tokensOf([], []), /0 ids/],
      ["too few ids", { ...tokensOf([5, 1]), length: 3 }, /2 ids and 2 mask values/],
      ["too short a mask", { ...tokensOf([5, 1]), mask: new Int32Array(1) }, /2 ids and 1 mask values/],
    ])("%s", (_, bad, message) => {
      const before = tf.memory().numTensors;
      expect(() => complete(encodeText(weights, config, bad, NO_TAPS))).toThrow(UsageError);
      expect(() => complete(encodeText(weights, config, bad, NO_TAPS))).toThrow(message);
      expect(tf.memory().numTensors).toBe(before);
    });

    it("weights of another shape, damaged, or of more layers than configured", async () => {
      await expect(loadFrom(fixtureDirectory("mono"), { ...config, ffnWidth: 41 })).rejects.toThrow(
        /"text_encoder\.encoder\.block\.0\.layer\.1\.DenseReluDense\.wi\.weight" as \[41,24\]: \[40,24\]/,
      );
      await expect(loadFrom(fixtureDirectory("mono"), { ...config, layers: 4 })).rejects.toThrow(/block\.3\./);
      const { layers } = config;
      const fewer = loadFrom(fixtureDirectory("mono"), { ...config, layers: layers - 1 });
      await expect(fewer).rejects.toThrow(/8 tensors that no network uses: .*block\.2\./);
      const damaged = await changedCheckpoint((tensors) =>
        tensors.map((tensor) =>
          tensor.name.endsWith("block.1.layer.0.SelfAttention.v.weight")
            ? { ...tensor, values: new Float32Array(576).fill(NaN) }
            : tensor,
        ),
      );
      await expect(loadFrom(damaged, config)).rejects.toThrow(/block\.1\.layer\.0\.SelfAttention\.v\.weight.*NaN/);
    });
  });

  it("loads the embedding under either of its names, or both", async () => {
    const alias = "text_encoder.encoder.embed_tokens.weight";
    const isShared = ({ name }: NamedTensor): boolean => name === "text_encoder.shared.weight";
    const renamed = await changedCheckpoint((tensors) =>
      tensors.map((tensor) => (isShared(tensor) ? { ...tensor, name: alias } : tensor)),
    );
    const both = await changedCheckpoint((tensors) => [
      ...tensors,
      ...tensors.filter(isShared).map((tensor) => ({ ...tensor, name: alias })),
    ]);
    for (const directory of [renamed, both]) {
      const same = await loadFrom(directory, config);
      await expectSame(same.embed, weights.embed);
      disposeTree(same);
    }
  });
});

async function expectSame(received: tf.Tensor, expected: tf.Tensor): Promise<void> {
  expect(received.shape).toEqual(expected.shape);
  expect(await received.data()).toEqual(await expected.data());
}
