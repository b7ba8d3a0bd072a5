import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough, Writable } from "node:stream";

import { describe, expect, it } from "vitest";

import { isClosedPipe, SoundWriter, type SoundLayout } from "../../src/audio/wav-stream.js";
import { readWav, readWavMetadata, writeWav } from "../../src/audio/wav.js";
import { temporaryDirectory } from "../support/temporary.js";

const RATE = 32_000;
const layout: SoundLayout = {
  ...{ sampleRate: RATE, channels: 2, samples: 700, format: "pcm16", container: "wav" },
  metadata: { seed: 5, text: "ü" },
};

function part(from: number, to: number): Float32Array {
  return Float32Array.from({ length: to - from }, (_, n) => Math.sin((from + n) / 9) * 0.7);
}

function block(from: number, to: number) {
  return { sampleRate: RATE, channels: [part(from, to), part(from + 5, to + 5)] };
}

describe("a WAV file that grows", () => {
  it.each(["pcm16", "float32"] as const)("is at its end the file that is written at once (%s)", async (format) => {
    const path = join(await temporaryDirectory(), "grown.wav");
    const whole = join(await temporaryDirectory(), "whole.wav");
    await writeFile(path, "something that was there, and longer than what comes".repeat(200));
    const writer = await SoundWriter.toFile(path, { ...layout, format });
    for (const to of [300, 301, 700]) await writer.write(block(writer.written, to));
    await writer.close();
    await writeWav(whole, block(0, 700), { format, metadata: { ...layout.metadata } });
    expect(await readWav(path)).toEqual(await readWav(whole));
    expect(await readWavMetadata(path)).toEqual(layout.metadata);
    expect((await stat(path)).size).toBe((await stat(whole)).size);
  });

  it("tells of the samples that came, where they were fewer", async () => {
    const path = join(await temporaryDirectory(), "short.wav");
    const writer = await SoundWriter.toFile(path, layout);
    await writer.write(block(0, 11));
    await writer.close();
    expect((await readWav(path)).channels[0]).toHaveLength(11);
    expect(writer.written).toBe(11);
  });

  it("counts what 16 bits cut off", async () => {
    const writer = await SoundWriter.toStream(new PassThrough(), layout);
    await writer.write({ sampleRate: RATE, channels: [Float32Array.of(0, 2, 0.5), Float32Array.of(-1.5, 0, 0)] });
    expect(writer.clipped).toBe(2);
  });
});

describe("bare samples", () => {
  it("are little-endian, channels interleaved, without a header", async () => {
    const pipe = new PassThrough();
    const writer = await SoundWriter.toStream(pipe, { ...layout, container: "raw" });
    await writer.write({ sampleRate: RATE, channels: [Float32Array.of(0.5, -1), Float32Array.of(0, 1)] });
    await writer.close();
    expect([...(pipe.read() as Buffer)]).toEqual([0x00, 0x40, 0, 0, 0x00, 0x80, 0xff, 0x7f]);
  });
});

describe("writing sound", () => {
  it("waits until what it wrote is taken", async () => {
    const taken: (() => void)[] = [];
    const slow = new Writable({ highWaterMark: 1, write: (_bytes, _encoding, done) => void taken.push(done) });
    const writer = SoundWriter.toStream(slow, { ...layout, container: "raw" });
    let written = false;
    const writing = (await writer).write(block(0, 10)).then(() => (written = true));
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(written).toBe(false);
    taken.forEach((done) => done());
    await writing;
    expect(written).toBe(true);
  });

  it("tells a pipe that nobody reads from a fault", async () => {
    const broken = (code: string) =>
      new Writable({ write: (_bytes, _encoding, done) => done(Object.assign(new Error(code), { code })) });
    for (const [code, closed] of [
      ["EPIPE", true],
      ["ENOSPC", false],
    ] as const) {
      const error: unknown = await SoundWriter.toStream(broken(code), layout).catch((cause: unknown) => cause);
      expect(error).toMatchObject({ code: "audio", found: code });
      expect(isClosedPipe(error)).toBe(closed);
    }
    await expect(SoundWriter.toFile(join(await temporaryDirectory(), "no", "where.wav"), layout)).rejects.toThrow(
      "ENOENT",
    );
  });
});
