import { copyFile, cp, open, readdir, readFile, rename, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { expect, it, vi } from "vitest";

import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { packCheckpoint } from "../../src/checkpoint/pack.js";
import type { PackedStorage } from "../../src/checkpoint/pack-format.js";
import { SafetensorsFile } from "../../src/checkpoint/safetensors.js";
import { CancelledError, CheckpointError, MemoryError, UsageError, type TonearmError } from "../../src/errors.js";
import { readMusicGenConfig } from "../../src/model/checkpoint.js";
import { planResidency } from "../../src/model/memory-plan.js";
import { configJson, MUSICGEN_SMALL_SHAPE } from "../../src/model/random-checkpoint.js";
import { MusicGen, type LoadOptions } from "../../src/musicgen.js";
import { useBackend } from "../../src/runtime/backend.js";
import { linear, linearWeight } from "../../src/runtime/linear.js";
import { describeNative, native, numbers } from "../runtime/native/support.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { temporaryDirectory, temporaryFile } from "../support/temporary.js";

const SOURCE = fixtureDirectory("mono");
const STORAGES = ["f32", "f16", "int8", "int4"] as const;
const MATRIX = "decoder.model.decoder.layers.0.fc1.weight";

async function pack(weights: PackedStorage): Promise<string> {
  const directory = join(await temporaryDirectory(), "packed");
  await packCheckpoint(SOURCE, directory, { weights });
  return directory;
}

/** A teacher-forced pass of a checkpoint. */
async function forward(
  directory: string,
  options: LoadOptions,
): Promise<{ logits: Float32Array; fingerprint: string }> {
  const before = tf.memory().numTensors;
  const model = await MusicGen.load(directory, options);
  try {
    return { logits: await logitsOf(model), fingerprint: model.fingerprint };
  } finally {
    await model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  }
}

async function logitsOf(model: MusicGen): Promise<Float32Array> {
  const values = Int32Array.from({ length: 4 * 12 }, (_, index) => (index * 7919) % 64);
  const text = { ids: Int32Array.of(3, 5, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };
  const logits = await model.forward({ text, codes: { values, codebooks: 4, frames: 12 } });
  const result = await logits.data<"float32">();
  logits.dispose();
  return result;
}

async function failureOf(promise: Promise<unknown>): Promise<TonearmError> {
  return promise.then(
    () => expect.fail("it was not refused"),
    (error: unknown) => error as TonearmError,
  );
}

/** Changes `pack` metadata of a file without changing its length. */
async function patchHeader(directory: string, from: RegExp, to: string): Promise<void> {
  const path = join(directory, "model.safetensors");
  const bytes = await readFile(path);
  const length = Number(bytes.readBigUInt64LE());
  const header = bytes.toString("utf8", 8, 8 + length);
  const changed = header.replace(from, to);
  expect(changed).not.toBe(header);
  bytes.write(changed.trimEnd().padEnd(length), 8);
  await writeFile(path, bytes);
}

describeNative("a packed checkpoint", () => {
  it.each(STORAGES)("gives the same bits as the original loaded as %s, and is the same model", async (weights) => {
    const expected = await forward(SOURCE, { backend: "native", weights });
    expect(await forward(await pack(weights), { backend: "native" })).toEqual(expected);
  });

  it.each(STORAGES)("of %s runs on a backend that knows no storages", async (weights) => {
    const directory = await pack(weights);
    const expected = await forward(directory, { backend: "native" });
    const { logits } = await forward(directory, { backend: "cpu" });
    // Integer weights meet activations of 16 bits on the native backend.
    expect(logits).toBeAllClose(expected.logits, { within: weights === "f32" || weights === "f16" ? 2e-5 : 2e-3 });
  });

  it.each(STORAGES)("of %s is mapped and not copied: every matrix, joined ones too", async (weights) => {
    const directory = await pack(weights);
    await useBackend("native");
    const { addon } = native();
    const make = vi.spyOn(addon, "makePackedWeight");
    const model = await MusicGen.load(directory, { backend: "native" });
    try {
      expect(make.mock.results.length).toBeGreaterThan(10);
      for (const { type, value } of make.mock.results) {
        expect(type).toBe("return");
        if (type === "return") expect(addon.weightIsMapped(value)).toBe(true);
      }
    } finally {
      make.mockRestore();
      await model.dispose();
    }
  });

  it("keeps the files beside the weights, and tells what it did", async () => {
    const directory = join(await temporaryDirectory(), "packed");
    const done: number[] = [];
    const summary = await packCheckpoint(SOURCE, directory, {
      weights: "f32",
      onProgress: (bytes) => done.push(bytes),
    });
    expect((await readdir(directory)).toSorted()).toEqual([
      "config.json",
      "generation_config.json",
      "model.safetensors",
    ]);
    expect(summary.exact).toBe(true);
    expect(done.at(-1)).toBe(summary.originalBytes);
    expect((await packCheckpoint(SOURCE, join(directory, "8"), { weights: "int8" })).exact).toBe(false);
  });

  it("is a safetensors file that any reader can open", async () => {
    const file = await SafetensorsFile.open(join(await pack("int8"), "model.safetensors"));
    try {
      const scales = await file.floats(`${MATRIX}.scales`);
      expect(scales).toHaveLength(file.entry(MATRIX).shape[0] ?? 0);
      expect(file.entry(MATRIX).dtype).toBe("I8");
    } finally {
      await file.close();
    }
  });
});

describeNative("packing is refused, and leaves nothing half done", () => {
  it("for a checkpoint that is packed already", async () => {
    const error = await failureOf(packCheckpoint(await pack("int8"), await temporaryDirectory(), { weights: "int4" }));
    expect(error).toBeInstanceOf(UsageError);
    expect(error.message).toMatch(/packed already, as int8/);
  });

  it("where weights are, its own source among them", async () => {
    const directory = await temporaryDirectory();
    await cp(SOURCE, directory, { recursive: true });
    const before = await readFile(join(directory, "model.safetensors"));
    await expect(packCheckpoint(directory, directory, { weights: "f16" })).rejects.toThrow(/model\.safetensors there/);
    expect((await readFile(join(directory, "model.safetensors"))).equals(before)).toBe(true);
  });

  it("when it is interrupted", async () => {
    const target = await temporaryDirectory();
    const signal = AbortSignal.abort();
    await expect(packCheckpoint(SOURCE, target, { weights: "f16", signal })).rejects.toThrow(CancelledError);
    expect(await readdir(target)).toEqual([]);
  });

  it.each([NaN, Infinity])("for weights with %d", async (value) => {
    const directory = await temporaryDirectory();
    await cp(SOURCE, directory, { recursive: true });
    const path = join(directory, "model.safetensors");
    await overwrite(path, MATRIX, new Uint8Array(Float32Array.of(value).buffer));
    const target = await temporaryDirectory();
    await expect(packCheckpoint(directory, target, { weights: "int8" })).rejects.toThrow(
      /fc1\.weight.*NaN or an infinite value/,
    );
    expect(await readdir(target)).toEqual([]);
  });
});

/** Writes bytes to the beginning of a tensor. */
async function overwrite(path: string, name: string, bytes: Uint8Array): Promise<void> {
  const file = await SafetensorsFile.open(path);
  const { start } = file.entry(name);
  await file.close();
  const handle = await open(path, "r+");
  await handle.write(bytes, 0, bytes.byteLength, start);
  await handle.close();
}

describeNative("a packed checkpoint is refused", () => {
  it.each([
    ["of another version", /\\"version\\":1/, String.raw`\"version\":2`, /version 2; this tonearm reads version 1/],
    [
      "of another layout",
      /rows of 32/,
      "rows of 64",
      /layout "rows of 64, little-endian"; this tonearm reads "rows of 32/,
    ],
    ["of an unknown storage", /\\"weights\\":\\"int8/, String.raw`\"weights\":\"int9`, /weights stored as "int9"/],
    ["with another shape in its list", /\\"shape\\":\[64,/, String.raw`\"shape\":[65,`, /where I8 \[65,32\] should be/],
    ["with a damaged list", /\\"matrices\\":/, String.raw`\"matrixes\":`, /list of matrices that is damaged/],
    [
      "without a tensor's checksum",
      /embed_tokens\.0\.weight\\":\\"/,
      String.raw`embed_tokens.9.weight\":\"`,
      /no checksum of/,
    ],
  ])("if it is %s", async (_, from, to, message) => {
    const directory = await pack("int8");
    await patchHeader(directory, from, to);
    const error = await failureOf(openCheckpoint(directory));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(message);
  });

  it.each(["native", "cpu"])("on %s if a byte of a matrix, its scales or another tensor changed", async (backend) => {
    const original = await pack("int8");
    for (const name of [MATRIX, `${MATRIX}.scales`, "decoder.model.decoder.embed_tokens.0.weight"]) {
      const directory = await temporaryDirectory();
      await cp(original, directory, { recursive: true });
      await overwrite(join(directory, "model.safetensors"), name, Uint8Array.of(77));
      const error = await failureOf(MusicGen.load(directory, { backend }));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toMatch(/checksum/);
      expect(error.message).toContain(name.replace(".scales", ""));
    }
  });

  it("if it was cut short", async () => {
    const directory = await pack("int8");
    await truncate(join(directory, "model.safetensors"), 200_000);
    await expect(MusicGen.load(directory, { backend: "native" })).rejects.toThrow(/in a file of 200000/);
  });

  it("in a storage other than its own", async () => {
    const directory = await pack("int8");
    const error = await failureOf(MusicGen.load(directory, { backend: "native", weights: "int4" }));
    expect(error).toBeInstanceOf(UsageError);
    expect(error.message).toMatch(/stored as int4: .*packed as int8/);
    await forward(directory, { backend: "native", weights: "int8" });
  });
});

describeNative("a mapped file that gets shorter while it is in use", () => {
  it.each(STORAGES)("is reported with the numbers, stored as %s, and the process goes on", async (weights) => {
    const directory = await pack(weights);
    const model = await MusicGen.load(directory, { backend: "native" });
    const before = await logitsOf(model);
    await truncate(join(directory, "model.safetensors"), 4096);
    const error = await failureOf(logitsOf(model));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(/the file has 4096 bytes where \d+ are needed: it became shorter while in use/);
    await expect(logitsOf(model)).rejects.toThrow(CheckpointError);
    await model.dispose();

    const again = await forward(await pack(weights), { backend: "native" });
    expect(again.logits).toEqual(before);
  });

  it("does not disturb a model from another file", async () => {
    const [first, second] = [await pack("int8"), await pack("int8")];
    const models = [
      await MusicGen.load(first, { backend: "native" }),
      await MusicGen.load(second, { backend: "native" }),
    ] as const;
    const expected = await logitsOf(models[1]);
    await truncate(join(first, "model.safetensors"), 0);
    await expect(logitsOf(models[0])).rejects.toThrow(/has 0 bytes/);
    expect(await logitsOf(models[1])).toEqual(expected);
    await Promise.all(models.map((model) => model.dispose()));
  });

  it("does not matter when it is replaced by another file instead", async () => {
    const directory = await pack("int8");
    const model = await MusicGen.load(directory, { backend: "native" });
    const expected = await logitsOf(model);
    const path = join(directory, "model.safetensors");
    await copyFile(join(await pack("int4"), "model.safetensors"), `${path}.new`);
    await rename(`${path}.new`, path);
    expect(await logitsOf(model)).toEqual(expected);
    await model.dispose();
  });
});

describeNative("a matrix in a plain file", () => {
  const [rows, columns] = [48, 64];

  async function inFile(
    dtype: "F32" | "F16" | "BF16",
    bytes: Uint8Array,
    padding = 0,
  ): Promise<{ x: tf.Tensor2D; mapped: boolean; storage: string | undefined }> {
    await useBackend("native");
    const path = await temporaryFile("weights", Buffer.concat([Buffer.alloc(padding), bytes]));
    const handle = await open(path);
    const { addon } = native();
    const make = vi.spyOn(addon, "makeFileWeight");
    try {
      const place = { fileDescriptor: handle.fd, start: padding, dtype };
      const x = linearWeight({ name: "w", path, place, rows, columns });
      const [made] = make.mock.results;
      const mapped = made?.type === "return" && addon.weightIsMapped(made.value);
      return { x, mapped, storage: native().storageOf(x) };
    } finally {
      make.mockRestore();
      await handle.close();
    }
  }

  const values = numbers(5)(rows * columns);
  const halves = Uint16Array.from(values, (_, index) => 0x3000 + ((index * 37) % 0x0c00)); // finite

  it.each([
    ["float32", "F32", values, 0, "f32"],
    ["float32 that 16 bits hold", "F32", values.map((value) => Math.round(value * 512) / 512), 0, "f16"],
    ["float32 at an odd place", "F32", values, 3, "f32"],
    ["float16", "F16", halves, 0, "f16"],
    ["bfloat16", "BF16", halves, 0, "f32"],
  ] as const)("of %s is read in the smallest exact storage", async (_, dtype, stored, padding, storage) => {
    const bytes = new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
    const found = await inFile(dtype, bytes, padding);
    expect(found.mapped).toBe(false);
    expect(found.storage).toBe(storage);
    const expected = linearWeight({ values: floats(dtype, stored), rows, columns });
    expect(await found.x.data()).toEqual(await expected.data());
    const input = tf.tensor2d(numbers(1)(3 * columns), [3, columns]);
    const [a, b] = [linear(input, { weight: found.x }), linear(input, { weight: expected })];
    expect(await a.data()).toEqual(await b.data());
    tf.dispose([found.x, expected, input, a, b]);
  });

  it("is refused with NaN", async () => {
    for (const padding of [0, 3]) {
      const bad = values.with(rows * columns - 1, NaN);
      await expect(inFile("F32", new Uint8Array(bad.buffer), padding)).rejects.toThrow(
        /"w" of .*NaN or an infinite value/,
      );
    }
  });

  it("is refused where its file is too short, with the numbers", async () => {
    for (const padding of [0, 3]) {
      const bytes = new Uint8Array(values.buffer, 0, 5000);
      await expect(inFile("F32", bytes, padding)).rejects.toThrow(/has 500\d bytes where 122\d\d are needed/);
    }
  });

  function floats(dtype: "F32" | "F16" | "BF16", stored: Float32Array | Uint16Array): Float32Array {
    if (dtype === "F32") return Float32Array.from(stored);
    if (dtype === "BF16") return new Float32Array(Uint32Array.from(stored, (bits) => bits << 16).buffer);
    return Float32Array.from(stored, (bits) => (1 + (bits & 1023) / 1024) * 2 ** (((bits >> 10) & 31) - 15));
  }
});

describeNative("too little memory for the chosen storage", () => {
  it("is refused with the storage and the numbers; a smaller storage fits", async () => {
    const shape = { layers: 48, width: 1536, heads: 24, ffnWidth: 6144, audioChannels: 1 } as const; // musicgen-medium's
    const json = configJson({ ...MUSICGEN_SMALL_SHAPE, decoder: shape });
    const config = await readMusicGenConfig(dirname(await temporaryFile("config.json", JSON.stringify(json))));
    const budget = { bytes: 5 * 2 ** 30, what: "a test", productCopies: 1, convolutionCopies: 1 };
    const plan = (storage: PackedStorage) => () => planResidency(config, { ...budget, storage });
    expect(plan("f32")).toThrow(MemoryError);
    expect(plan("f32")).toThrow(/6\.\d\d GiB with weights stored as f32: 5\.00 GiB of a test/);
    expect(plan("int8")()).toBe("together");
  });
});
