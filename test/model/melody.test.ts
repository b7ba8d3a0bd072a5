import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { chromaRows, melodyPrefix, melodyWindow, readMelodies, type Melody } from "../../src/model/melody.js";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { readMusicGenConfig } from "../../src/model/checkpoint.js";
import { runDecoder } from "../../src/model/decoder.js";
import type { Codes } from "../../src/model/delay.js";
import { Networks } from "../../src/model/networks.js";
import { TINY_SHAPE, writeRandomCheckpoint } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import { complete, NO_TAPS } from "../../src/runtime/announce.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory, golden, goldenGeneration } from "../support/fixtures.js";
import { temporaryDirectory } from "../support/temporary.js";

// Goldens: transformers 5.18.0 on a tiny random melody checkpoint. Versions from 4.49 on drop the conditioning before it.

const DIRECTORY = fixtureDirectory("melody");
const expected = golden("melody");
const CHROMA = 9; // rows of the fixture's prefix
const TOKENS = 8;
const text: TokenBatch = {
  ids: Int32Array.from(expected("input_ids").data),
  mask: Int32Array.from(expected("attention_mask").data),
  batch: 2,
  length: TOKENS,
};
const melody: readonly Melody[] = [0, 1].map((item) => ({
  chroma: Float32Array.from(expected("chroma").data.slice(item * 48, (item + 1) * 48)), // [4, 12]
}));

/** A tone of one second, at the model's rate. */
function tone(frequency: number, samples = 32_000): Float32Array {
  return Float32Array.from({ length: samples }, (_, n) => 0.5 * Math.sin((2 * Math.PI * frequency * n) / 32_000));
}

describeOnEachBackend("a melody model", (backend) => {
  it.each([
    ["logits", melody],
    ["logits_text_only", []],
  ] as const)("gives the reference's teacher-forced logits (%s)", async (name, melodies) => {
    const config = await readMusicGenConfig(DIRECTORY);
    const checkpoint = await openCheckpoint(DIRECTORY);
    const networks = new Networks(checkpoint, config, "together");
    await checkpoint.close();
    const decoder = await networks.decoder();
    const states = tf.tensor3d([...expected("t5_last_hidden_state").data], [2, TOKENS, 24]);
    const encoded = { states, mask: text.mask, textOfRow: [0, 1] };
    const { embeddings } = melodyPrefix(decoder, CHROMA, encoded, melodies, { batch: 2, roles: ["cond"] });
    expect(embeddings.shape).toEqual([2, CHROMA + TOKENS, 32]);
    const { logits } = complete(
      runDecoder(
        decoder.weights,
        decoder.config,
        {
          ids: Int32Array.from(expected("decoder_input_ids").data),
          batch: 2,
          positions: 11,
          rows: 2,
          prefix: embeddings,
        },
        { state: undefined, memory: undefined, logits: "all", positionTable: decoder.positionTable },
        NO_TAPS,
      ),
    );
    // The reference gives logits of the prefix's positions too.
    const whole = tf.tensor4d([...expected(name).data], [2, 4, CHROMA + TOKENS + 11, 64]);
    const reference = tf.slice(whole, [0, 0, CHROMA + TOKENS, 0], [2, 4, 11, 64]);
    expect(logits.shape).toEqual([2, 4, 11, 64]);
    expect(await logits.data()).toBeAllClose(await reference.data(), { within: 1e-5 });
    tf.dispose([states, embeddings, logits, whole, reference]);
    await networks.dispose();
  });

  it.each([
    ["greedy_cfg3_new12", 3, melody],
    ["greedy_cfg1_new12", 1, melody],
    ["greedy_cfg3_new12_text_only", 3, undefined],
  ] as const)("generates the reference's greedy codes and sound (%s)", async (run, guidance, given) => {
    const model = await MusicGen.load(DIRECTORY, { backend });
    const { codes, audio } = goldenGeneration("melody", run);
    const { clips } = await model.generate({ text, melody: given, frames: 9, greedy: true, guidance });
    expect(clips).toHaveLength(2);
    for (const clip of clips) {
      expect([...clip.codes.values]).toEqual(codes[0]?.data.slice(clip.item * 36, clip.item * 36 + 36));
      const wave = audio.data.slice(clip.item * 360, clip.item * 360 + 360);
      expect(clip.audio.channels[0]).toBeAllClose(wave, { within: 1e-4 });
    }
    await model.dispose();
  });

  it("tells hooks which positions are the melody's and the text's, and gives them no time and no frame", async () => {
    const model = await MusicGen.load(DIRECTORY, { backend });
    const seen: unknown[] = [];
    await model.generate({
      text,
      melody,
      frames: 2,
      greedy: true,
      hooks: [
        {
          sites: ["blocks.0.hook_resid_pre", "hook_guided_logits"],
          run: (value, at) => {
            const { positions, seconds, prefix } = at;
            seen.push([
              at.site,
              value.shape.slice(0, 3),
              positions.length,
              positions[0],
              seconds[0],
              at.frames(0)[17],
              prefix,
            ]);
            return undefined;
          },
        },
      ],
    });
    const none = { melody: 0, text: 0 };
    expect(seen.slice(0, 4)).toEqual([
      ["blocks.0.hook_resid_pre", [4, 18, 32], 18, -17, NaN, undefined, { melody: 9, text: 8 }],
      ["hook_guided_logits", [2, 4, 1], 1, 0, -1 / 800, undefined, none],
      ["blocks.0.hook_resid_pre", [4, 1, 32], 1, 1, 0, undefined, none],
      ["hook_guided_logits", [2, 4, 1], 1, 1, 0, undefined, none],
    ]);
    await model.dispose();
  });

  it("runs teacher-forced over what it generated: cache on and off agree, behind a prefix", async () => {
    const model = await MusicGen.load(DIRECTORY, { backend });
    const one: TokenBatch = { ids: text.ids.subarray(8), mask: text.mask.subarray(8), batch: 1, length: 8 };
    const [first] = melody;
    const site = "blocks.1.hook_resid_post";
    const { codes, cache } = await model.generateWithCache(
      { text: one, melody: first, frames: 6, greedy: true, guidance: 1 },
      { sites: site },
    );
    const { logits, cache: forced } = await model.runWithCache({ text: one, melody: first, codes }, { sites: site });
    expect(logits.shape).toEqual([1, 4, 10, 64]);
    expect(cache[site]?.shape).toEqual([1, 17 + 9, 32]);
    expect(forced[site]?.shape).toEqual([1, 17 + 10, 32]);
    const same = tf.slice(forced[site] ?? tf.zeros([1]), [0, 0, 0], [1, 26, 32]);
    expect(await cache[site]?.data()).toBeAllClose(await same.data(), { within: 1e-5 });
    await model.dispose();
  });

  it("plays without a text, with a melody alone, and leaves no tensor behind", async () => {
    const model = await MusicGen.load(DIRECTORY, { backend });
    const sound = { sampleRate: 32_000, channels: [tone(440)] };
    const before = tf.memory().numTensors;
    const alone = await model.generate({ frames: 5, seed: 1 });
    const led = await model.generate({ melody: sound, frames: 5, seed: 1 });
    expect(alone.settings.guidance).toBe(1); // one row a clip: nothing to guide by
    expect(led.settings).toMatchObject({ guidance: 3, melody: true });
    expect(led.codes).not.toEqual(alone.codes);
    for await (const at of model.walk({ text: null, melody: sound, codes: led.codes })) {
      if (at.site === "blocks.1.hook_resid_mid") break;
    }
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });

  it("refuses what it can't do, saying why", async () => {
    const model = await MusicGen.load(DIRECTORY, { backend });
    const silence = { sampleRate: 32_000, channels: [new Float32Array(3200)] };
    await expect(model.generate({ melody: silence, frames: 3 })).rejects.toThrow("silent");
    await expect(model.generate({ melody: { chroma: new Float32Array(13) }, frames: 3 })).rejects.toThrow("13 values");
    await expect(model.generate({ melody: [...melody, ...melody], text, frames: 3 })).rejects.toThrow(
      "2 items of text for 4 clips",
    );
    expect(() => model.walk({ text: null, codes: anyCodes }, "blocks.0.cross_attn.hook_z")).toThrow(
      "without cross-attention: it reads its text as the first positions",
    );
    expect(model.sites().some(({ site }) => site.includes("cross"))).toBe(false);
    await model.dispose();
    const mono = await MusicGen.load(fixtureDirectory("mono"), { backend });
    await expect(mono.generate({ melody, text, frames: 3 })).rejects.toThrow("reads none");
    await mono.dispose();
  });
});

describe("a stereo melody model", () => {
  it("is made of random weights, and follows a melody on two channels", async () => {
    const directory = await temporaryDirectory();
    const decoder = { ...TINY_SHAPE.decoder, audioChannels: 2, melodyRows: 20 } as const;
    await writeRandomCheckpoint(directory, { ...TINY_SHAPE, decoder }, 2);
    const model = await MusicGen.load(directory, { backend: "cpu" });
    expect(model.config).toMatchObject({ melody: { rows: 20 }, decoder: { codebooks: 8, crossAttention: false } });
    const sound = { sampleRate: 32_000, channels: [tone(440), tone(440)] };
    const { audio, codes } = await model.generate({ text: "a tune", melody: sound, frames: 4, seed: 1 });
    expect([audio.channels.length, codes.codebooks, codes.frames]).toEqual([2, 8, 4]);
    await model.dispose();
  });
});

const anyCodes: Codes = { values: new Int32Array(8), codebooks: 4, frames: 2 };

describe("a melody", () => {
  it("is its strongest pitch class, repeated or cut to the model's rows", async () => {
    const config = await readMusicGenConfig(DIRECTORY);
    const sound = { sampleRate: 32_000, channels: [Float32Array.of(...tone(440, 16_384), ...tone(392, 32_768))] };
    const classesOf = (rows: Float32Array): readonly number[] =>
      Array.from({ length: rows.length / 12 }, (_, row) => rows.subarray(row * 12, row * 12 + 12).indexOf(1));
    const [read] = readMelodies(sound, config);
    const short = classesOf(chromaRows(read, 5));
    const long = classesOf(chromaRows(read, 30));
    expect(short.slice(0, 3)).toEqual([9, 9, 9]); // A
    expect(long.slice(8, 13)).toEqual([7, 7, 7, 7, 7]); // G; 13 frames in all
    expect(long.slice(13, 26)).toEqual(long.slice(0, 13));
    expect(classesOf(chromaRows(undefined, 3))).toEqual([0, 0, 0]);
  });

  it("of 0.1 s is padded with silence and then repeated, as in the reference", async () => {
    const config = await readMusicGenConfig(DIRECTORY);
    const [read] = readMelodies({ sampleRate: 32_000, channels: [tone(440, 3200)] }, config);
    const rows = chromaRows(read, 7);
    expect(rows.filter((value) => value === 1)).toHaveLength(7);
    expect(rows.subarray(2 * 12, 3 * 12).indexOf(1)).toBe(9); // the middle one of 5 frames
  });

  it("begins anew where it ends, for a window of a long clip", () => {
    const sound = { sampleRate: 10, channels: [Float32Array.of(1, 2, 3)] };
    expect(melodyWindow(sound, 0.4, 0.5)).toEqual({ sampleRate: 10, channels: [Float32Array.of(2, 3, 1, 2, 3)] });
    const given = { chroma: Float32Array.from({ length: 24 }, (_, index) => index) }; // two frames
    const turned = melodyWindow(given, 3 * 0.128, 0.256);
    expect("chroma" in turned && [...turned.chroma.subarray(0, 13)]).toEqual([...given.chroma.subarray(12), 0]);
  });
});
