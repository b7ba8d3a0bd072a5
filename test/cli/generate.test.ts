import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Writable } from "node:stream";

import * as tf from "@tensorflow/tfjs-core";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";

import { readCodesFile } from "../../src/activations/manifest.js";
import { loudness } from "../../src/audio/loudness.js";
import { readWav, readWavMetadata, writeWav } from "../../src/audio/wav.js";
import { generateCommand } from "../../src/cli/generate.js";
import { STDOUT, writeStream } from "../../src/cli/stream.js";
import { TINY_SHAPE, writeRandomCheckpoint } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import { fixtureDirectory } from "../support/fixtures.js";

const SMALL = { ...TINY_SHAPE, codec: { ...TINY_SHAPE.codec, filters: 2, codebookSize: 16 } };

describe("tonearm generate", () => {
  let folder: string;
  let model: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tonearm-generate-"));
    model = join(folder, "model");
    await writeRandomCheckpoint(model, SMALL, 1);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));
  afterEach(() => {
    vi.restoreAllMocks();
    process.exitCode = undefined;
  });

  /** Runs the command; what it printed with --json. */
  async function generate(...args: readonly string[]): Promise<Record<string, unknown>> {
    const print = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    try {
      await generateCommand()
        .exitOverride()
        .parseAsync([...args, "--json", "--backend", "cpu", "-m", model], { from: "user" });
      return JSON.parse(print.mock.calls.map(([text]) => String(text)).join("")) as Record<string, unknown>;
    } finally {
      print.mockRestore();
    }
  }

  it("streams to a file what it would write at its end, settings and codes too", async () => {
    const [whole, grown, codes] = ["whole.wav", "grown.wav", "codes.safetensors"].map((name) => join(folder, name));
    const options = ["a tune", "--seconds", "0.3", "--seed", "3"];
    await generate(...options, "-o", `${whole}`);
    const result = await generate(...options, "--stream", "-o", `${grown}`, "--codes", `${codes}`);
    const [expected, found] = [await readWav(`${whole}`), await readWav(`${grown}`)];
    expect(found.channels[0]).toBeAllClose(expected.channels[0] ?? [], { within: 1 / 2 ** 15 });
    expect(await readWavMetadata(`${grown}`)).toEqual(await readWavMetadata(`${whole}`));
    expect(result).toMatchObject({ files: [grown], seconds: 0.3, interrupted: false });
    expect((await readCodesFile(`${codes}`))[0]?.frames).toBe(15);
  });

  it("refuses keys and values in 16 bits on a backend that has none, by name", async () => {
    const refused = generate("a tune", "--cache", "f16", "--seconds", "0.1", "-o", join(folder, "never.wav"));
    await expect(refused).rejects.toMatchObject({ name: "UsageError", code: "usage" });
    await expect(refused).rejects.toThrow(/keep keys and values as f16: the backend cpu.*Use the native backend/);
  });

  it("streams bare samples to the standard output", async () => {
    const parts: Buffer[] = [];
    const pipe = new Writable({
      write: (bytes: Buffer, _encoding, done) => {
        parts.push(bytes);
        done();
      },
    });
    const loaded = await MusicGen.load(model, { backend: "cpu" });
    const options = { text: "a tune", frames: 9, seed: 3 };
    const streamed = await writeStream(loaded.stream(options), STDOUT, 1, "f32le", pipe);
    expect(streamed).toMatchObject({ files: [], seconds: 0.18, clipped: 0 });
    const bytes = new Uint8Array(Buffer.concat(parts));
    const { audio } = await loaded.generate(options);
    expect(new Float32Array(bytes.buffer)).toBeAllClose(audio.channels[0] ?? [], { within: 1e-5 });
    await loaded.dispose();
  });

  it("ends quietly when the reader closes the pipe", async () => {
    let writes = 0;
    const closing = new Writable({
      write: (_bytes, _encoding, done) => {
        done(writes++ < 2 ? undefined : Object.assign(new Error("write EPIPE"), { code: "EPIPE" })); // header, one block
      },
    });
    const loaded = await MusicGen.load(model, { backend: "cpu" });
    const before = tf.memory().numTensors;
    const stream = loaded.stream({ text: "a tune", seconds: 4, blockSeconds: 0.1 });
    const { seconds, end } = await writeStream(stream, STDOUT, 1, undefined, closing);
    expect({ seconds, end }).toEqual({ seconds: 0.1, end: undefined });
    expect(tf.memory().numTensors).toBe(before);
    const terminal = Object.assign(new PassThrough(), { isTTY: true });
    await expect(writeStream(stream, STDOUT, 1, "s16le", terminal)).rejects.toThrow("terminal");
    await loaded.dispose();
  });

  it("brings clips to a level and tells by how much", async () => {
    const path = join(folder, "level.wav");
    await generate("a tune", "--seconds", "1", "--seed", "3", "--loudness", "-30", "-o", path);
    expect(loudness(await readWav(path))).toBeCloseTo(-30, 1);
    const metadata = await readWavMetadata(path);
    expect(metadata?.["normalization"]).toMatchObject({ strategy: "loudness", target: -30 });
  });

  it("cuts a loop of about the seconds asked for", async () => {
    const path = join(folder, "loop.wav");
    await generate("a tune", "--seconds", "0.5", "--seed", "3", "--loop", "-o", path);
    const length = (await readWav(path)).channels[0]?.length ?? 0;
    expect(length / 32_000).toBeGreaterThanOrEqual(0.45);
    expect(length / 32_000).toBeLessThanOrEqual(0.55);
    const { start, end } = (await readWavMetadata(path))?.["loop"] as { start: number; end: number };
    expect(end - start).toBe(length);
  });

  it("makes a clip of each seed", async () => {
    const path = join(folder, "seeds.wav");
    const { files } = await generate("a tune", "--frames", "4", "--seed", "5,9", "-o", path);
    expect(files).toEqual([join(folder, "seeds-1.wav"), join(folder, "seeds-2.wav")]);
    const alone = join(folder, "seed.wav");
    await generate("a tune", "--frames", "4", "--seed", "9", "-o", alone);
    expect(await readWav(join(folder, "seeds-2.wav"))).toEqual(await readWav(alone));
  });

  it("follows stems that it sums, and continues from a prompt's end", async () => {
    const stems = ["vocals.wav", "other.wav"].map((name) => join(folder, name));
    const sound = (frequency: number) => ({
      sampleRate: 32_000,
      channels: [Float32Array.from({ length: 8000 }, (_, n) => 0.4 * Math.sin((6.283 * frequency * n) / 32_000))],
    });
    for (const [index, path] of stems.entries()) await writeWav(path, sound(440 * (index + 1)));
    const output = join(folder, "continued.wav");
    const prompt = ["--prompt-audio", `${stems[0]}`, "--prompt-seconds", "0.1", "--frames", "8"];
    const { settings } = await generate("a tune", ...prompt, "-o", output);
    expect(settings).toMatchObject({ promptFrames: 5 });
    model = fixtureDirectory("melody");
    const led = await generate("--melody", ...stems, "--frames", "4", "-o", output);
    expect(led["settings"]).toMatchObject({ melody: true, guidance: 3 });
    model = join(folder, "model");
  });

  it.each([
    [["-o", "-"], "no --stream"],
    [["-o", "a.wav", "--pcm", "s16le"], "no --stream"],
    [["-o", "-", "--stream", "--count", "2"], "2 clips"],
    [["-o", "a.wav", "--stream", "--loop"], "before its end is known"],
    [["-o", "a.wav", "--stream", "--loudness", "-14"], "before its end is known"],
    [["-o", "a.wav", "--loudness", "-14", "--normalize", "peak"], "two levels"],
    [["-o", "a.wav", "--loudness", "3"], "3 dB"],
    [["-o", "a.wav", "--compress"], "no loudness"],
    [["-o", "a.wav", "--loop", "--frames", "9"], "--loop with --frames"],
    [["-o", "a.wav", "--stride", "40"], "less than 30 seconds"],
    [["-o", "a.wav", "--prompt-seconds", "4"], "no audio prompt"],
  ])("refuses %j", async (args, found) => {
    await expect(generate("a tune", ...args)).rejects.toThrow(found);
  });
});
