import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import wavefile from "wavefile";

import type { Audio } from "../../src/audio/audio.js";
import { readWav, readWavMetadata, writeWav } from "../../src/audio/wav.js";
import { AudioError } from "../../src/errors.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tonearm-wav-"));
});
afterAll(() => rm(folder, { recursive: true }));

const inFolder = (name: string): string => join(folder, name);

/** Writes a file for one test to read. */
async function put(name: string, bytes: Uint8Array): Promise<string> {
  await writeFile(inFolder(name), bytes);
  return inFolder(name);
}

const left = Float32Array.of(0, 0.5, -1, 0.25, -0.125, 0.75);
const right = Float32Array.of(0.5, -0.5, 0, -0.75, 0.125, -1);
const stereo: Audio = { sampleRate: 32_000, channels: [left, right] };
const mono: Audio = { sampleRate: 32_000, channels: [left] };

/** The same sound written by an independent library, at one of its bit depths. */
function byLibrary(bitDepth: string, audio: Audio, container = "RIFF"): Uint8Array {
  const wav = new wavefile.WaveFile();
  const scale = bitDepth === "32f" || bitDepth === "64" ? 1 : 2 ** (Number(bitDepth) - 1);
  const shift = bitDepth === "8" ? 128 : 0;
  const largest = bitDepth === "8" ? 255 : scale === 1 ? 1 : scale - 1;
  const channels = audio.channels.map((channel) =>
    Array.from(channel, (sample) => Math.min(largest, sample * scale + shift)),
  );
  wav.fromScratch(channels.length, audio.sampleRate, bitDepth, channels, { container });
  return wav.toBuffer();
}

describe("readWav", () => {
  it.each(["8", "16", "24", "32", "32f", "64"])("reads %s bits, mono and stereo", async (bitDepth) => {
    expect(await readWav(await put("depth.wav", byLibrary(bitDepth, mono)))).toEqual(mono);
    expect(await readWav(await put("depth.wav", byLibrary(bitDepth, stereo)))).toEqual(stereo);
  });

  it("reads six channels under an extensible header", async () => {
    const audio = { sampleRate: 48_000, channels: [left, right, left, left, right, right] };
    const bytes = Buffer.from(byLibrary("24", audio));
    expect(bytes.toString("hex", 44, 60)).toBe("0100000000001000800000aa00389b71"); // the identifier of PCM
    bytes.writeUInt16LE(0xfffe, 20); // the library writes the extension but not the number that says so
    expect(await readWav(await put("six.wav", bytes))).toEqual(audio);
  });

  it.each(["RIFX", "RF64"])("reads the container %s", async (container) => {
    expect(await readWav(await put("container.wav", byLibrary("16", stereo, container)))).toEqual(stereo);
    expect(await readWav(await put("container.wav", byLibrary("24", stereo, container)))).toEqual(stereo);
  });

  it.each(["8a", "8m"])("reads every code of A-law and µ-law as an independent library does: %s", async (bitDepth) => {
    const wav = new wavefile.WaveFile();
    const codes = Array.from({ length: 256 }, (_, code) => code);
    wav.fromScratch(1, 8_000, bitDepth, codes);
    const path = await put("coded.wav", wav.toBuffer());
    if (bitDepth === "8a") wav.fromALaw();
    else wav.fromMuLaw();
    const { channels } = await readWav(path);
    expect(channels[0]).toEqual(Float32Array.from(wav.getSamples(), (sample) => sample / 2 ** 15));
  });

  it("skips chunks it does not know, wherever they are, and minds the byte that pads odd ones", async () => {
    const bytes = Buffer.from(byLibrary("16", mono));
    const odd = Buffer.from("junk\x03\0\0\0abc\0", "latin1");
    const file = Buffer.concat([bytes.subarray(0, 12), odd, bytes.subarray(12), odd]);
    expect(await readWav(await put("junk.wav", file))).toEqual(mono);
  });

  it("takes a length of 2³² − 1, as streaming programs write it, to mean all the rest", async () => {
    const bytes = Buffer.from(byLibrary("16", mono));
    bytes.writeUInt32LE(0xffffffff, 4);
    bytes.writeUInt32LE(0xffffffff, 40);
    expect(await readWav(await put("stream.wav", bytes))).toEqual(mono);
  });

  it("scales 24 bits exactly in both byte orders", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: -(2 ** 23), max: 2 ** 23 - 1 }), { minLength: 1, maxLength: 20 }),
        fc.constantFrom("RIFF", "RIFX"),
        async (values, container) => {
          const wav = new wavefile.WaveFile();
          wav.fromScratch(1, 8_000, "24", values, { container });
          const { channels } = await readWav(await put("exact.wav", wav.toBuffer()));
          expect(channels[0]).toEqual(Float32Array.from(values, (value) => value / 2 ** 23));
        },
      ),
      { numRuns: 30 },
    ));
});

describe("readWav refuses", () => {
  /** A 16-bit mono file with one header field changed. */
  function changed(change: (bytes: Buffer) => unknown): Buffer {
    const bytes = Buffer.from(byLibrary("16", mono));
    change(bytes);
    return bytes;
  }

  const damaged: [string, () => Uint8Array, RegExp][] = [
    ["an empty file", () => new Uint8Array(0), /an empty file/],
    ["a text", () => Buffer.from("these are not the sounds you are looking for"), /not a WAV file/],
    ["an MP3 with tags", () => Buffer.from("ID3\x04\0\0\0\0\0\0\0\0\0\0"), /MP3/],
    ["an MP3 without", () => Buffer.from("fffb9064000000000000000000000000", "hex"), /MP3/],
    ["FLAC", () => Buffer.from("fLaC\0\0\0\x22\x10\0\x10\0"), /FLAC/],
    ["Ogg", () => Buffer.from("OggS\0\x02\0\0\0\0\0\0"), /Ogg/],
    ["an MP4", () => Buffer.from("\0\0\0\x20ftypM4A \0\0"), /MP4/],
    ["an AVI", () => Buffer.from("RIFF\x10\0\0\0AVI LIST"), /RIFF of another kind/],
    ["a file that ends in its header", () => changed(() => 0).subarray(0, 30), /no description of its samples/],
    ["a file that ends before its samples", () => changed(() => 0).subarray(0, 36), /no samples/],
    ["a file that ends in its samples", () => changed(() => 0).subarray(0, 50), /6 bytes of samples .* of 12/],
    ["half a sample", () => changed((b) => b.writeUInt32LE(11, 40)).subarray(0, 55), /not complete/],
    ["no samples", () => changed((b) => b.writeUInt32LE(0, 40)).subarray(0, 44), /no samples/],
    ["a rate of 0", () => changed((b) => b.writeUInt32LE(0, 24)), /a sample rate of 0/],
    ["a rate of 4 GHz", () => changed((b) => b.writeUInt32LE(4e9, 24)), /a sample rate of 4000000000/],
    ["0 channels", () => changed((b) => b.writeUInt16LE(0, 22)), /0 channels/],
    ["channels that do not fit their frames", () => changed((b) => b.writeUInt16LE(3, 22)), /2 bytes for 3 channels/],
    ["coding 17, IMA ADPCM", () => changed((b) => b.writeUInt16LE(17, 20)), /coding 17/],
    ["coding 85, MP3 in RIFF", () => changed((b) => b.writeUInt16LE(85, 20)), /coding 85/],
    ["NaN", () => byLibrary("32f", { sampleRate: 8_000, channels: [Float32Array.of(0, NaN)] }), /NaN at position 1/],
    ["infinity", () => byLibrary("32f", { sampleRate: 8_000, channels: [Float32Array.of(-Infinity)] }), /-Infinity/],
    ["a double too large", () => doubles([1e300]), /Infinity at position 0/],
  ];
  it.each(damaged)("%s", async (_, bytes, found) => {
    const path = await put("damaged.wav", bytes());
    await expect(readWav(path)).rejects.toThrow(AudioError);
    await expect(readWav(path)).rejects.toThrow(found);
    await expect(readWav(path)).rejects.toThrow(path);
  });

  it("a missing file and a folder", async () => {
    await expect(readWav(inFolder("nowhere.wav"))).rejects.toThrow(/no such file/);
    await expect(readWav(folder)).rejects.toThrow(/a folder/);
    await expect(readWav(folder)).rejects.toThrow(AudioError);
  });

  it("every truncation, and never with anything but an AudioError", async () => {
    for (const bytes of [byLibrary("16", stereo), byLibrary("24", { ...stereo, channels: [left, right, left] })]) {
      for (let length = 0; length < bytes.byteLength; length++) {
        const path = await put("cut.wav", bytes.subarray(0, length));
        await expect(readWav(path), `${length} bytes`).rejects.toThrow(AudioError);
      }
    }
  });

  it("or reads, but never fails otherwise on, a file with damaged bytes", () => {
    const whole = [byLibrary("16", mono), byLibrary("24", stereo, "RIFX"), muLaw()];
    return fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...whole),
        fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        async (bytes, edits) => {
          const damaged = Uint8Array.from(bytes);
          for (const [at, value] of edits) damaged[at] = value;
          const path = await put("fuzz.wav", damaged);
          await readWav(path).catch((error: unknown) => expect(error).toBeInstanceOf(AudioError));
        },
      ),
      { numRuns: 300 },
    );
  });

  function muLaw(): Uint8Array {
    const wav = new wavefile.WaveFile(byLibrary("16", mono));
    wav.toMuLaw();
    return wav.toBuffer();
  }

  function doubles(values: readonly number[]): Uint8Array {
    const wav = new wavefile.WaveFile();
    wav.fromScratch(1, 8_000, "64", [...values]);
    return wav.toBuffer();
  }
});

describe("writeWav", () => {
  it("keeps every bit in float32, also beyond ±1", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.float32Array({ minLength: 7, maxLength: 7, noNaN: true, noDefaultInfinity: true }), {
          minLength: 1,
          maxLength: 3,
        }),
        async (channels) => {
          const audio = { sampleRate: 44_100, channels };
          expect(await writeWav(inFolder("float.wav"), audio, { format: "float32" })).toEqual({ clipped: 0 });
          expect(await readWav(inFolder("float.wav"))).toEqual(audio);
        },
      ),
      { numRuns: 30 },
    ));

  it("gives the same pcm16 file again for one that was read", async () => {
    const values = Array.from({ length: 65_536 }, (_, index) => index - 32_768);
    const wav = new wavefile.WaveFile();
    wav.fromScratch(2, 32_000, "16", [values, values.toReversed()]);
    const path = await put("every.wav", wav.toBuffer());
    expect(await writeWav(inFolder("again.wav"), await readWav(path))).toEqual({ clipped: 0 });
    expect(await readFile(inFolder("again.wav"))).toEqual(await readFile(path));
  });

  it("clips what pcm16 can't hold and says how many samples", async () => {
    const loud = { sampleRate: 32_000, channels: [Float32Array.of(1, -1, 1.5, -2, 0), new Float32Array(5).fill(1.01)] };
    expect(await writeWav(inFolder("loud.wav"), loud)).toEqual({ clipped: 7 });
    const { channels } = await readWav(inFolder("loud.wav"));
    const most = 32_767 / 32_768;
    expect(channels[0]).toEqual(Float32Array.of(most, -1, most, -1, 0));
    expect(channels[1]).toEqual(new Float32Array(5).fill(most));
  });

  it.each(["pcm16", "float32"] as const)("writes %s that an independent library reads", async (format) => {
    await writeWav(inFolder("ours.wav"), stereo, { format, metadata: { seed: 1 } });
    const wav = new wavefile.WaveFile(await readFile(inFolder("ours.wav")));
    expect(wav.bitDepth).toBe(format === "pcm16" ? "16" : "32f");
    const scale = format === "pcm16" ? 32_768 : 1;
    expect(Array.from(wav.getSamples(true))).toEqual(
      Array.from(left, (sample, index) => [sample * scale, (right[index] ?? NaN) * scale]).flat(),
    );
    expect(wav.getTag("ICMT")).toBe('{"seed":1}');
  });

  it("keeps settings of any text in the file", () =>
    fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string({ unit: "binary" }), fc.jsonValue()), async (metadata) => {
        const plain: unknown = JSON.parse(JSON.stringify(metadata));
        await writeWav(inFolder("settings.wav"), mono, { metadata });
        expect(await readWavMetadata(inFolder("settings.wav"))).toEqual(plain);
        expect((await readWav(inFolder("settings.wav"))).channels[0]).toEqual(left);
      }),
      { numRuns: 50 },
    ));

  it("finds no settings where there are none, or somebody else's comment", async () => {
    await writeWav(inFolder("plain.wav"), mono);
    expect(await readWavMetadata(inFolder("plain.wav"))).toBeUndefined();
    const wav = new wavefile.WaveFile(byLibrary("16", mono));
    wav.setTag("ICMT", "recorded in the kitchen");
    wav.setTag("INAM", "title");
    expect(await readWavMetadata(await put("foreign.wav", wav.toBuffer()))).toBeUndefined();
    await expect(readWavMetadata(await put("text.wav", Buffer.from("text")))).rejects.toThrow(AudioError);
  });

  it("refuses sounds that no file should hold, and then leaves no file", async () => {
    const bad: Audio[] = [
      { sampleRate: 32_000, channels: [] },
      { sampleRate: 32_000, channels: [new Float32Array(0)] },
      { sampleRate: 32_000, channels: [left, left.subarray(1)] },
      { sampleRate: 32_000, channels: [Float32Array.of(NaN)] },
      { sampleRate: 0, channels: [left] },
    ];
    for (const audio of bad) {
      await expect(writeWav(inFolder("bad.wav"), audio)).rejects.toThrow(AudioError);
    }
    expect(await readdir(folder)).not.toContain("bad.wav");
  });

  it("does not touch an existing file when it fails, and leaves no half-written one", async () => {
    await mkdir(inFolder("place"));
    await writeWav(inFolder("place/kept.wav"), mono);
    const before = await readFile(inFolder("place/kept.wav"));
    await expect(writeWav(inFolder("place/kept.wav"), { ...mono, channels: [Float32Array.of(NaN)] })).rejects.toThrow(
      AudioError,
    );
    await mkdir(inFolder("place/folder.wav"));
    await expect(writeWav(inFolder("place/folder.wav"), mono)).rejects.toThrow(/a folder of that name/);
    await expect(writeWav(inFolder("nowhere/a.wav"), mono)).rejects.toThrow(/no folder .*nowhere.*Make the folder/);
    await expect(writeWav(inFolder("place/kept.wav/a.wav"), mono)).rejects.toThrow(AudioError);
    expect(await readFile(inFolder("place/kept.wav"))).toEqual(before);
    expect((await readdir(inFolder("place"))).toSorted()).toEqual(["folder.wav", "kept.wav"]);
  });

  it.skipIf(process.platform === "win32")(
    "does not put a file in the place of a device (skipped on Windows)",
    async () => {
      await expect(writeWav("/dev/null", mono)).rejects.toThrow(/no file/);
    },
  );

  it.skipIf(process.getuid?.() === 0)(
    "says so when a folder may not be written to (skipped for root, who may)",
    async () => {
      await mkdir(inFolder("locked"));
      await chmod(inFolder("locked"), 0o555);
      await expect(writeWav(inFolder("locked/a.wav"), mono)).rejects.toThrow(/may be written to/);
    },
  );
});
