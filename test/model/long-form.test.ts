import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";

import type { Codes } from "../../src/model/delay.js";
import { GrowingCodes, planWindows, strideFrames } from "../../src/model/long-form.js";
import { MusicGen } from "../../src/musicgen.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";

const WINDOW = 24; // frames
const STRIDE = 10;
const FRAME_RATE = 800; // of the fixtures' codec
const LONG = 53; // frames: windows 0 … 24, 10 … 34, 20 … 44, 30 … 53
const text: TokenBatch = { ids: Int32Array.of(5, 9, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };
const options = { text, stride: STRIDE / FRAME_RATE, seed: 4 };

/** A fixture that was "trained" on windows of 24 frames. */
async function shortSighted(kind: string, backend: string): Promise<MusicGen> {
  const directory = await mkdtemp(join(tmpdir(), "tonearm-"));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  await cp(fixtureDirectory(kind), directory, { recursive: true });
  await writeFile(join(directory, "generation_config.json"), JSON.stringify({ max_length: WINDOW }));
  return MusicGen.load(directory, { backend });
}

/** Frames `first` … `end − 1`. */
function framesOf({ values, codebooks, frames }: Codes, first: number, end: number): Codes {
  const rows = Array.from({ length: codebooks }, (_, k) => [...values.subarray(k * frames + first, k * frames + end)]);
  return { values: Int32Array.from(rows.flat()), codebooks, frames: end - first };
}

describe("the windows of a clip", () => {
  /** audiocraft's loop, restated: offsets, prompts and chunk lengths in frames. */
  function asAudiocraft(frames: number, prompt: number, length: number, stride: number) {
    const windows = [];
    let [offset, known] = [0, prompt];
    while (offset + known < frames) {
      const chunk = Math.min(frames - offset, length);
      windows.push({ first: offset, end: offset + chunk, known });
      known = chunk - stride;
      offset += stride;
    }
    return windows;
  }

  it("are audiocraft's", () => {
    expect(planWindows(4500, 0, { length: 1500, stride: 900 })).toEqual([
      { first: 0, end: 1500, known: 0 },
      { first: 900, end: 2400, known: 600 },
      { first: 1800, end: 3300, known: 600 },
      { first: 2700, end: 4200, known: 600 },
      { first: 3600, end: 4500, known: 600 },
    ]);
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 40 }), fc.nat(39), fc.nat(300), fc.nat(39), (length, s, f, p) => {
        const stride = 1 + (s % (length - 1));
        const prompt = p % length;
        const frames = prompt + 1 + f;
        expect(planWindows(frames, prompt, { length, stride })).toEqual(asAudiocraft(frames, prompt, length, stride));
      }),
    );
  });

  it("make every frame once, each behind at least what the strides leave of a window", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 40 }), fc.nat(39), fc.nat(300), fc.nat(200), (length, s, f, prompt) => {
        const stride = 1 + (s % (length - 1));
        const frames = prompt + 1 + f;
        let made = prompt;
        for (const { first, end, known } of planWindows(frames, prompt, { length, stride })) {
          expect(first + known).toBe(made);
          expect(end - first).toBeLessThanOrEqual(length);
          expect(end).toBeGreaterThan(made);
          if (first > 0) expect(known).toBe(length - stride);
          made = end;
        }
        expect(made).toBe(frames);
      }),
    );
  });

  it("begin inside the one before, by whole frames", () => {
    expect(strideFrames(18, 1500, 50)).toBe(900);
    expect(strideFrames(17.999, 1500, 50)).toBe(899);
    for (const seconds of [0, -1, 30, NaN, Infinity, 0.01]) {
      expect(() => strideFrames(seconds, 1500, 50)).toThrow("less than 30 seconds");
    }
  });

  it("refuse frames that are missing or come twice", () => {
    const two: Codes = { values: Int32Array.of(1, 2, 3, 4), codebooks: 2, frames: 2 };
    const codes = new GrowingCodes(2, two);
    codes.append(two, 2);
    expect(codes.slice(1, 3)).toEqual({ values: Int32Array.of(2, 1, 4, 3), codebooks: 2, frames: 2 });
    expect(() => codes.append(two, 3)).toThrow("frame 3 came where 4 was expected");
    expect(() => codes.append(two, 2)).toThrow("frame 2 came where 4 was expected");
  });
});

describeOnEachBackend("a clip longer than a window", (backend) => {
  it.each(backend === "native" ? ["mono", "stereo"] : ["mono"])(
    "has in every window the codes that the model expects there (%s)",
    async (kind) => {
      const model = await shortSighted(kind, backend);
      const { codes, settings } = await model.generate({ ...options, frames: LONG, greedy: true, guidance: 1 });
      expect(codes.frames).toBe(LONG);
      expect(settings.stride).toBe(STRIDE / FRAME_RATE);
      const delays = Array.from({ length: codes.codebooks }, (_, k) => (kind === "mono" ? k : k >> 1));
      for (const { first, end, known } of planWindows(LONG, 0, { length: WINDOW, stride: STRIDE })) {
        const logits = await model.forward({ text, codes: framesOf(codes, first, end) });
        const best = tf.argMax(logits, -1); // [1, K, T]
        const expected = await best.data();
        const positions = logits.shape[2] ?? 0;
        delays.forEach((delay, k) => {
          for (let frame = known; frame < end - first; frame++) {
            expect(codes.values[k * LONG + first + frame]).toBe(expected[k * positions + frame + delay]);
          }
        });
        tf.dispose([logits, best]);
      }
      await model.dispose();
    },
  );
});

describe("a clip longer than a window", () => {
  const backend = "cpu"; // the bookkeeping is the same on all
  it("begins as the clip of one window does, and is decoded in one go", async () => {
    const model = await shortSighted("mono", backend);
    const long = await model.generate({ ...options, frames: LONG, count: 2 });
    const short = await model.generate({ ...options, frames: WINDOW, count: 2 });
    for (const { item, codes, audio } of long.clips) {
      expect(framesOf(codes, 0, WINDOW)).toEqual(short.clips[item]?.codes);
      expect((await model.decodeCodes(codes)).channels).toEqual(audio.channels);
      expect(audio.channels[0]).toHaveLength(LONG * 40);
    }
    expect(short.settings.stride).toBeNull();
    await model.dispose();
  });

  it("has the length that was asked for: by frames, and by seconds to the sample", async () => {
    const model = await shortSighted("mono", backend);
    const byFrames = await model.generate({ ...options, frames: LONG });
    const bySeconds = await model.generate({ ...options, seconds: (LONG * 40 - 13) / 32_000 });
    expect(bySeconds.codes).toEqual(byFrames.codes);
    expect(bySeconds.audio.channels[0]).toEqual(byFrames.audio.channels[0]?.subarray(0, LONG * 40 - 13));
    await model.dispose();
  });

  it("tells hooks positions, seconds and frames of the whole clip", async () => {
    const model = await shortSighted("mono", backend);
    const decided: (number | undefined)[] = [];
    const prefills: unknown[] = [];
    const steps: number[] = [];
    await model.generate({
      ...options,
      frames: LONG,
      hooks: [
        {
          sites: "blocks.0.hook_resid_pre",
          run: (_value, at) => {
            if (at.phase === "decode") decided.push(...at.frames(3));
            else prefills.push([at.positions[0], at.positions.length, at.seconds[0], at.frames(3).slice(0, 6)]);
            steps.push(at.step);
            return undefined;
          },
        },
      ],
    });
    expect(steps).toEqual(Array.from(steps, (_, index) => index));
    const none = undefined;
    expect(prefills).toEqual([
      [0, 1, -1 / FRAME_RATE, [none]],
      [10, 15, 9 / FRAME_RATE, [none, none, none, none, 10, 11]],
      [20, 15, 19 / FRAME_RATE, [none, none, none, none, 20, 21]],
      [30, 15, 29 / FRAME_RATE, [none, none, none, none, 30, 31]],
    ]);
    const read = decided.filter((frame) => frame !== undefined);
    expect(new Set(read).size).toBeGreaterThanOrEqual(LONG - 4); // each window's last frame is drawn, not read
    expect(Math.max(...read)).toBe(LONG - 2);
    await model.dispose();
  });

  it("continues a prompt that is longer than a window from its end", async () => {
    const model = await shortSighted("mono", backend);
    const channels = [Float32Array.from({ length: 40 * 30 }, (_, n) => 0.3 * Math.sin(n / 7))];
    const prompt = await model.encodeAudio({ sampleRate: 32_000, channels });
    const continued = { ...options, promptAudio: { sampleRate: 32_000, channels }, greedy: true, guidance: 1 };
    const { codes } = await model.generate({ ...continued, frames: 38 });
    expect(framesOf(codes, 0, 30)).toEqual(prompt);
    const end = await model.generate({ ...continued, promptSeconds: (WINDOW - STRIDE) / FRAME_RATE, frames: 22 });
    expect(end.settings.promptFrames).toBe(WINDOW - STRIDE);
    await expect(model.generate({ ...options, promptSeconds: 1, frames: 22 })).rejects.toThrow("no audio prompt");
    await model.dispose();
  });

  it("ends with what is complete when it is interrupted, and leaves no tensor behind", async () => {
    const model = await shortSighted("mono", backend);
    const whole = await model.generate({ ...options, frames: LONG });
    const before = tf.memory().numTensors;
    const stop = new AbortController();
    const part = await model.generate({
      ...options,
      frames: LONG,
      signal: stop.signal,
      onProgress: ({ stage, done }) => {
        if (stage === "tokens" && done === 27 + 5) stop.abort(); // 27 passes make the first window
      },
    });
    expect(part.interrupted).toBe(true);
    expect(part.codes).toEqual(framesOf(whole.codes, 0, WINDOW + 5 - 3));
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });

  it("follows the part of a melody that its window covers", async () => {
    const model = await shortSighted("melody", backend);
    const embedded: tf.Tensor[] = [];
    const frequencies = [440, 261.6, 329.6];
    const channels = [
      Float32Array.from({ length: 3 * 24 * 40 }, (_, n) =>
        Math.sin((2 * Math.PI * (frequencies[Math.floor(n / 960)] ?? 0) * n) / 32_000),
      ),
    ];
    await model.generate({
      ...options,
      melody: { sampleRate: 32_000, channels },
      stride: 23 / FRAME_RATE,
      frames: 48,
      guidance: 1,
      hooks: [
        {
          sites: "hook_embed",
          run: (value, at) => {
            if (at.phase === "prefill") {
              embedded.push(tf.tidy(() => tf.slice(value as tf.Tensor3D, [0, 0, 0], [1, at.prefix.melody, 32])));
              expect([at.positions[0], at.positions[11], at.positions[12]]).toEqual([
                -12,
                -1,
                embedded.length === 1 ? 0 : 23 * (embedded.length - 1),
              ]);
            }
            return undefined;
          },
        },
      ],
    });
    expect(embedded.length).toBe(3);
    const [first, second] = await Promise.all(embedded.slice(0, 2).map((one) => one.data()));
    expect(first).not.toEqual(second);
    tf.dispose(embedded);
    await model.dispose();
  });

  it("keeps its activations only in one window", async () => {
    const model = await shortSighted("mono", backend);
    await expect(model.generateWithCache({ ...options, frames: LONG }, { sites: "hook_embed" })).rejects.toThrow(
      "4 windows",
    );
    await model.dispose();
  });
});

describe("a batch", () => {
  it("with a seed for each clip has the clips of these seeds", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const both = await model.generate({ text, frames: 8, seed: [7, 12] });
    expect(both.settings.seed).toEqual([7, 12]);
    for (const [item, seed] of [7, 12].entries()) {
      expect(both.clips[item]?.codes).toEqual((await model.generate({ text, frames: 8, seed })).codes);
    }
    await expect(model.generate({ text, frames: 8, seed: [7, 12], count: 3 })).rejects.toThrow(
      "2 items of seed for 3 clips",
    );
    await expect(model.generate({ text, frames: 8, seed: [7, 0.5] })).rejects.toThrow("seed 0.5");
    await model.dispose();
  });
});
