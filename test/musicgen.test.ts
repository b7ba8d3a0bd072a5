import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import type { Codes } from "../src/model/delay.js";
import { MusicGen } from "../src/musicgen.js";
import type { TokenBatch } from "../src/text/tokenizer.js";
import { describeOnEachBackend } from "./support/backends.js";
import { fixtureDirectory, golden, goldenGeneration, type GoldenGeneration } from "./support/fixtures.js";

/** The two prompts of a fixture as token ids. */
function tokens(kind: string): TokenBatch {
  const expected = golden(kind);
  const [batch = 0, length = 0] = expected("input_ids").shape;
  return {
    ids: Int32Array.from(expected("input_ids").data),
    mask: Int32Array.from(expected("attention_mask").data),
    batch,
    length,
  };
}

/** The reference's codes of one item, its codec calls (one per channel) interleaved as the decoder has them. */
function codesOf({ codes }: GoldenGeneration, item: number): Codes {
  const [, , perChannel = 0, frames = 0] = codes[0]?.shape ?? [];
  const codebooks = perChannel * codes.length;
  const rows = Array.from({ length: codebooks }, (_, k) => {
    const start = (item * perChannel + Math.floor(k / codes.length)) * frames;
    return codes[k % codes.length]?.data.slice(start, start + frames) ?? [];
  });
  return { values: Int32Array.from(rows.flat()), codebooks, frames };
}

/** One item's channel from a flat [B, channels, N]. */
function channelOf({ audio }: GoldenGeneration, item: number, channel: number): readonly number[] {
  const [, channels = 1, samples = 0] = audio.shape;
  const start = (item * channels + channel) * samples;
  return audio.data.slice(start, start + samples);
}

describeOnEachBackend("MusicGen", (backend) => {
  for (const [kind, channels] of [
    ["mono", 1],
    ["stereo", 2],
  ] as const) {
    it.each([
      ["greedy_cfg3_new12", 3],
      ["greedy_cfg1_new12", 1],
    ])(`generates the reference's greedy codes and sound (${kind}, %s)`, async (run, guidance) => {
      const model = await MusicGen.load(fixtureDirectory(kind), { backend });
      const expected = goldenGeneration(kind, run);
      const { clips } = await model.generate({ text: tokens(kind), frames: 9, greedy: true, guidance });
      expect(clips).toHaveLength(2);
      for (const { item, codes, audio } of clips) {
        expect(codes).toEqual(codesOf(expected, item));
        expect(audio.channels).toHaveLength(channels);
        audio.channels.forEach((samples, channel) =>
          expect(samples).toBeAllClose(channelOf(expected, item, channel), { within: 1e-4 }),
        );
      }
      await model.dispose();
    });

    it(`continues an audio prompt as the reference does (${kind})`, async () => {
      const model = await MusicGen.load(fixtureDirectory(kind), { backend });
      const expected = goldenGeneration(kind, "greedy_cfg3_prompt_new12");
      const wave = golden(kind)("prompt_wav");
      const promptAudio = [0, 1].map((item) => ({
        sampleRate: model.sampleRate,
        channels: Array.from({ length: channels }, (_, channel) =>
          Float32Array.from(wave.data.slice((item * channels + channel) * 400, (item * channels + channel + 1) * 400)),
        ),
      }));
      const { clips } = await model.generate({ text: tokens(kind), promptAudio, frames: 19, greedy: true });
      for (const { item, codes, audio } of clips) {
        expect(codes).toEqual(codesOf(expected, item));
        audio.channels.forEach((samples, channel) =>
          expect(samples).toBeAllClose(channelOf(expected, item, channel), { within: 1e-4 }),
        );
      }
      await model.dispose();
    });
  }

  it("makes a clip that depends on seed and item alone, not on the batch", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const text: TokenBatch = { ids: Int32Array.of(5, 9, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };
    const three = await model.generate({ text, frames: 8, seed: 11, count: 3 });
    const one = await model.generate({ text, frames: 8, seed: 11 });
    expect(one.codes).toEqual(three.codes);
    expect(three.clips[1]?.codes).not.toEqual(three.clips[0]?.codes);
    const again = await model.generate({ text, frames: 8, seed: 11, count: 3 });
    expect(again.clips).toEqual(three.clips);
    await model.dispose();
  });

  it("leaves no tensor behind", async () => {
    const before = tf.memory().numTensors;
    const model = await MusicGen.load(fixtureDirectory("stereo"), { backend });
    const text = tokens("stereo");
    await model.generate({ text, frames: 4, seed: 1 });
    const loaded = tf.memory().numTensors;
    const { codes } = await model.generate({ text, negative: text, frames: 5, seed: 1 });
    await model.decodeCodes(codes);
    await model.encodeAudio({ sampleRate: 32_000, channels: [new Float32Array(100).fill(0.1)] });
    const logits = await model.forward({ text: null, codes });
    expect(tf.memory().numTensors).toBe(loaded + 1);
    logits.dispose();
    const stop = new AbortController();
    await model.generate({ text, frames: 9, signal: stop.signal, onProgress: () => stop.abort() });
    await expect(model.generate({ text, frames: 0 })).rejects.toThrow("0 frames");
    await expect(model.generate({ text, negative: text, guidance: 1, frames: 4 })).rejects.toThrow("guidance 1");
    expect(tf.memory().numTensors).toBe(loaded);
    await model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  it("gives what was complete when it is interrupted", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const text = tokens("mono");
    const whole = await model.generate({ text, frames: 12, seed: 3 });
    const stop = new AbortController();
    const part = await model.generate({
      text,
      frames: 12,
      seed: 3,
      signal: stop.signal,
      onProgress: ({ stage, done }) => {
        if (stage === "tokens" && done === 8) stop.abort();
      },
    });
    expect(part.interrupted).toBe(true);
    expect(part.codes.frames).toBe(5); // 8 positions, less the delay of 3
    for (let k = 0; k < 4; k++) {
      expect(part.codes.values.subarray(k * 5, k * 5 + 5)).toEqual(whole.codes.values.subarray(k * 12, k * 12 + 5));
    }
    expect(part.audio.channels[0]).toHaveLength(5 * 40);
    await model.dispose();
  });

  it("lets timers and signals in between two steps", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const stop = new AbortController();
    const { interrupted } = await model.generate({
      text: tokens("mono"),
      frames: 1000,
      signal: stop.signal,
      onProgress: ({ stage, done }) => {
        if (stage === "tokens" && done === 1) setTimeout(() => stop.abort(), 0);
      },
    });
    expect(interrupted).toBe(true);
    await model.dispose();
  });

  it("generates the same with its networks taking turns in memory", async () => {
    const text = tokens("mono");
    const together = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const staged = await MusicGen.load(fixtureDirectory("mono"), { backend, residency: "staged" });
    const options = { text, frames: 6, seed: 5 };
    expect((await staged.generate(options)).clips).toEqual((await together.generate(options)).clips);
    await together.dispose();
    await staged.dispose();
  });
});
