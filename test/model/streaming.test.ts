import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it, onTestFinished } from "vitest";

import type { Intervention } from "../../src/activations/intervention.js";
import { MusicGen, type AudioStream } from "../../src/musicgen.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";

const RATE = 32_000;
const HOP = 40; // samples of a frame, in the fixtures' codec
const text: TokenBatch = { ids: Int32Array.of(5, 9, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };

/** All blocks of a stream, per clip and channel, each proven to follow the one before. */
async function listen(stream: AudioStream): Promise<{ readonly clips: number[][][]; readonly lengths: number[] }> {
  const clips: number[][][] = [];
  const lengths: number[] = [];
  for await (const { item, start, sampleRate, channels } of stream) {
    expect(sampleRate).toBe(RATE);
    expect(channels).toHaveLength(stream.channels);
    const clip = (clips[item] ??= channels.map(() => []));
    channels.forEach((samples, channel) => {
      expect(start).toBe(clip[channel]?.length);
      clip[channel]?.push(...samples);
    });
    if (item === 0) lengths.push(channels[0]?.length ?? 0);
  }
  return { clips, lengths };
}

describeOnEachBackend("a stream", (backend) => {
  it.each(["mono", "stereo"])("is what generate gives, block by block (%s)", async (kind) => {
    const model = await MusicGen.load(fixtureDirectory(kind), { backend });
    const options = { text, frames: 30, seed: 3, count: 2 };
    const before = tf.memory().numTensors;
    const whole = await model.generate(options);
    const stream = model.stream({ ...options, blockSeconds: 200 / RATE });
    expect(stream.settings).toEqual(whole.settings);
    const { clips, lengths } = await listen(stream);
    expect(lengths).toEqual([200, 200, 200, 200, 200, 200]);
    for (const { item, audio } of whole.clips) {
      audio.channels.forEach((samples, channel) =>
        expect(clips[item]?.[channel] ?? []).toBeAllClose(samples, { within: 1e-5 }),
      );
    }
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });
});

describe("a stream", () => {
  const backend = "cpu"; // the bookkeeping is the same on all

  it("has the exact length in samples, whatever the blocks", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const options = { text, seconds: 1007 / RATE, seed: 3 };
    const { audio } = await model.generate(options);
    for (const [samples, lengths] of [
      [250, [250, 250, 250, 250, 7]],
      [1007, [1007]],
      [5000, [1007]],
    ] as const) {
      const heard = await listen(model.stream({ ...options, blockSeconds: samples / RATE }));
      expect(heard.lengths).toEqual(lengths);
      expect(heard.clips[0]?.[0] ?? []).toBeAllClose(audio.channels[0] ?? [], { within: 1e-5 });
    }
    await model.dispose();
  });

  it("goes on through the windows of a long clip, behind a prompt and with a melody", async () => {
    const directory = await mkdtemp(join(tmpdir(), "tonearm-"));
    onTestFinished(() => rm(directory, { recursive: true, force: true }));
    await cp(fixtureDirectory("melody"), directory, { recursive: true });
    await writeFile(join(directory, "generation_config.json"), JSON.stringify({ max_length: 24 }));
    const model = await MusicGen.load(directory, { backend });
    const sound = { sampleRate: RATE, channels: [Float32Array.from({ length: 411 }, (_, n) => Math.sin(n / 5) / 2)] };
    const options = { text, frames: 53, stride: 10 / 800, seed: 4, promptAudio: sound, melody: sound };
    const before = tf.memory().numTensors;
    const { audio, settings } = await model.generate(options);
    const stream = model.stream({ ...options, blockSeconds: 333 / RATE });
    expect(stream.settings).toEqual(settings);
    const { clips } = await listen(stream);
    expect(clips[0]?.[0] ?? []).toBeAllClose(audio.channels[0] ?? [], { within: 1e-5 });
    expect(clips[0]?.[0]).toHaveLength(53 * HOP);
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });

  it("computes no pass that the block asked for doesn't need, and stops when nobody listens", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const before = tf.memory().numTensors;
    let passes = 0;
    const count = {
      sites: "hook_logits",
      run: () => {
        passes++;
        return undefined;
      },
    };
    for await (const block of model.stream({ text, frames: 100, hooks: [count], blockSeconds: (10 * HOP) / RATE })) {
      // 10 frames and those that the decoder looks ahead; a frame's last codebook comes three passes after its first
      const enough = passes;
      expect(enough).toBeGreaterThanOrEqual(10 + 3 + 3);
      expect(enough).toBeLessThanOrEqual(10 + 3 + 7);
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(passes).toBe(enough);
      if (block.start === 0) break;
    }
    const enough = passes;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(passes).toBe(enough);
    expect(tf.memory().numTensors).toBe(before);
    await expect(async () => {
      for await (const block of model.stream({ text, frames: 100, blockSeconds: 0.005 }))
        throw new Error(`${block.start}`);
    }).rejects.toThrow("0");
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });

  it("ends with what is complete when the signal fires", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const run = (): {
      readonly signal: AbortSignal;
      readonly onProgress: (at: { stage: string; done: number }) => void;
    } => {
      const stop = new AbortController();
      return {
        signal: stop.signal,
        onProgress: ({ stage, done }) => stage === "tokens" && done === 20 && stop.abort(),
      };
    };
    const part = await model.generate({ text, frames: 40, seed: 3, ...run() });
    const blocks = model.stream({ text, frames: 40, seed: 3, blockSeconds: 0.005, ...run() })[Symbol.asyncIterator]();
    const heard: number[] = [];
    for (;;) {
      const next = await blocks.next();
      if (next.done) {
        expect(next.value.interrupted).toBe(true);
        expect(next.value.codes).toEqual([part.codes]);
        break;
      }
      heard.push(...(next.value.channels[0] ?? []));
    }
    expect(part.codes.frames).toBe(17);
    expect(heard).toBeAllClose(part.audio.channels[0] ?? [], { within: 1e-5 });
    await model.dispose();
  });

  it("is steered and hooked as generate is, and ends the steering's run when left", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    let running = 0;
    const push = tf.randomNormal([1, 1, 32], 0, 2, "float32", 5);
    const steering: Intervention = {
      record: { pushed: true },
      begin: () => {
        running++;
        const run = (value: tf.Tensor): tf.Tensor => tf.add(value, push);
        return { hooks: [{ sites: "blocks.1.hook_resid_post", run }], end: () => running-- };
      },
    };
    const options = { text, frames: 20, seed: 3, steering, blockSeconds: 0.01 };
    const { audio, settings } = await model.generate(options);
    const plain = await model.generate({ ...options, steering: undefined });
    const stream = model.stream(options);
    expect(stream.settings).toEqual(settings);
    const first = await listen(stream);
    expect(first.clips[0]?.[0] ?? []).toBeAllClose(audio.channels[0] ?? [], { within: 1e-5 });
    expect(plain.audio).not.toEqual(audio);
    expect(await listen(stream)).toEqual(first);
    for await (const block of stream) if (block.start === 0) break;
    expect(running).toBe(0);
    push.dispose();
    await model.dispose();
  });

  it("draws one seed for all loops over it, and tells it", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const stream = model.stream({ text, frames: 9 });
    const [first, second] = [await listen(stream), await listen(stream)];
    expect(first).toEqual(second);
    const { audio } = await model.generate({ text, frames: 9, seed: stream.settings.seed });
    expect(first.clips[0]?.[0] ?? []).toBeAllClose(audio.channels[0] ?? [], { within: 1e-5 });
    await model.dispose();
  });

  it("refuses at once what it can't do", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const nothing = (): undefined => undefined;
    expect(() => model.stream({ frames: 0 })).toThrow("0 frames");
    expect(() => model.stream({ blockSeconds: 0 })).toThrow("blocks of 0 seconds");
    expect(() => model.stream({ hooks: [{ sites: "codec.decoder.**", run: nothing }] })).toThrow("piece by piece");
    expect(() => model.stream({ hooks: [{ sites: "no.such", run: nothing }] })).toThrow("no site of that name");
    const staged = await MusicGen.load(fixtureDirectory("mono"), { backend, residency: "staged" });
    await expect(listen(staged.stream({ frames: 4 }))).rejects.toThrow("take turns");
    await model.dispose();
    await staged.dispose();
  });
});
