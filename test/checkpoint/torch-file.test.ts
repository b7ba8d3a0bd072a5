import { access, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";

import { SafetensorsFile } from "../../src/checkpoint/safetensors.js";
import { TorchFile } from "../../src/checkpoint/torch-file.js";
import { PickleError, TonearmError } from "../../src/errors.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { temporaryDirectory, temporaryFile } from "../support/temporary.js";

// Written by PyTorch 2.13.0: tools/reference/make_torch_files.py.
const directory = fixtureDirectory("torch");

async function opened(path: string, key?: string): Promise<TorchFile> {
  const file = await TorchFile.open(path, key);
  onTestFinished(() => file.close());
  return file;
}

async function refusal(path: string, key?: string): Promise<TonearmError> {
  const error: unknown = await opened(path, key).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(TonearmError);
  return error as TonearmError;
}

/** The same archive with all of its directory's numbers in Zip64 fields. */
function inZip64(archive: Buffer): Buffer {
  const end = archive.lastIndexOf("PK\x05\x06");
  const count = archive.readUInt16LE(end + 10);
  const start = archive.readUInt32LE(end + 16);
  const entries: Buffer[] = [];
  for (let at = start; entries.length < 2 * count;) {
    const [name, extra] = [archive.readUInt16LE(at + 28), archive.readUInt16LE(at + 30)];
    const entry = Buffer.from(archive.subarray(at, at + 46 + name));
    const field = Buffer.alloc(28);
    field.writeUInt16LE(1, 0);
    field.writeUInt16LE(24, 2);
    field.writeBigUInt64LE(BigInt(entry.readUInt32LE(24)), 4);
    field.writeBigUInt64LE(BigInt(entry.readUInt32LE(20)), 12);
    field.writeBigUInt64LE(BigInt(entry.readUInt32LE(42)), 20);
    for (const offset of [20, 24, 42]) entry.writeUInt32LE(0xffffffff, offset);
    entry.writeUInt16LE(field.length, 30);
    entry.writeUInt16LE(0, 32);
    entries.push(entry, field);
    at += 46 + name + extra + archive.readUInt16LE(at + 32);
  }
  const list = Buffer.concat(entries);
  const record = Buffer.alloc(56);
  record.write("PK\x06\x06", 0, "latin1");
  record.writeBigUInt64LE(44n, 4);
  record.writeBigUInt64LE(BigInt(count), 24);
  record.writeBigUInt64LE(BigInt(count), 32);
  record.writeBigUInt64LE(BigInt(list.length), 40);
  record.writeBigUInt64LE(BigInt(start), 48);
  const locator = Buffer.alloc(20);
  locator.write("PK\x06\x07", 0, "latin1");
  locator.writeBigUInt64LE(BigInt(start + list.length), 8);
  locator.writeUInt32LE(1, 16);
  const last = Buffer.alloc(22, 0xff);
  last.write("PK\x05\x06", 0, "latin1");
  last.writeUInt16LE(0, 20);
  return Buffer.concat([archive.subarray(0, start), list, record, locator, last]);
}

describe("TorchFile", () => {
  it.each(["example.bin", "example-protocol-4.bin", "example-legacy.bin"])(
    "reads the same values from %s as from the safetensors of the same weights",
    async (name) => {
      const file = await opened(join(directory, name));
      const same = await SafetensorsFile.open(join(directory, "example.safetensors"));
      onTestFinished(() => same.close());
      expect([...file.tensors.keys()].toSorted()).toEqual([...same.tensors.keys()].toSorted());
      for (const [tensor, { dtype, shape, size }] of same.tensors) {
        expect(file.tensors.get(tensor)).toMatchObject({ dtype, shape, size });
        const { start, end } = same.entry(tensor);
        const all = { first: 0, count: end - start };
        expect(await file.bytes(tensor, all), tensor).toEqual(await same.bytes(tensor, all));
        if (!/F32|F16|BF16|F64/.test(dtype)) continue;
        expect(await file.floats(tensor), tensor).toEqual(await same.floats(tensor));
        if (size < 4) continue;
        const range = { first: 1, count: size - 2 };
        expect(await file.floats(tensor, range), tensor).toEqual(await same.floats(tensor, range));
      }
    },
  );

  it("reads a module's state dict, whose attributes it drops", async () => {
    const file = await opened(join(directory, "module.bin"));
    expect([...file.tensors.keys()]).toEqual([
      ...["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"],
    ]);
    expect(await file.floats("0.weight")).toEqual(Float32Array.of(0, 1, 2, 3, 4, 5));
  });

  it("reads a state dict under a key, and what stands beside it", async () => {
    const file = await opened(join(directory, "wrapped.bin"), "best_state");
    expect(await file.floats("w")).toEqual(Float32Array.of(1, 1));
    expect(file.beside.entries.get("xp.cfg")).toBe("a: 1\n");
    expect(await refusal(join(directory, "wrapped.bin"), "worst_state")).toMatchObject({
      found: "no worst_state among best_state, xp.cfg, version, exported, none",
    });
    expect((await refusal(join(directory, "wrapped.bin"))).found).toContain("a dict under");
  });

  it.each([
    ["hostile-system", "posix.system"],
    ["hostile-system-legacy", "posix.system"],
    ["hostile-eval", "builtins.eval"], // pickled as __builtin__ in protocol 2
    ["hostile-eval-legacy", "builtins.eval"],
    ["hostile-getattr", "builtins.getattr"],
    ["whole-module", "torch.nn.modules.container.Sequential"],
    ["numpy", "numpy"],
    ["bytes", "_codecs.encode"],
  ])("refuses %s by naming %s, and runs nothing", async (name, global) => {
    const error = await refusal(join(directory, `${name}.bin`));
    expect(error).toBeInstanceOf(PickleError);
    expect(error.code).toBe("pickle");
    expect(error.message.replace("__builtin__", "builtins")).toContain(global);
    await expect(access("owned.txt")).rejects.toThrow();
  });

  it("says what other files are", async () => {
    expect(await refusal(join(directory, "none.bin"))).toMatchObject({ code: "checkpoint" });
    expect((await refusal(join(directory, "bare.bin"))).message).toMatch(/neither of the formats/);
    expect((await refusal(join(directory, "example.safetensors"))).message).toMatch(/neither of the formats/);
    expect((await refusal(await temporaryFile("e.bin", ""))).message).toMatch(/an empty file/);
    const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    expect((await refusal(await temporaryFile("p.bin", pointer))).message).toMatch(/Git LFS pointer/);
  });

  it("refuses compressed and renamed parts, and sizes that disagree", async () => {
    const bytes = await readFile(join(directory, "module.bin"));
    const directoryAt = bytes.indexOf("PK\x01\x02");
    const changed = async (offset: number, value: number): Promise<string> => {
      const copy = Buffer.from(bytes);
      copy.writeUInt16LE(value, directoryAt + offset);
      return (await refusal(await temporaryFile("m.bin", copy))).message;
    };
    expect(await changed(10, 8)).toMatch(/compressed by method 8/);
    expect(await changed(8, 1)).toMatch(/encrypted/);
    expect(await changed(24, 9)).toMatch(/stored as \d+ bytes of 9/);
    const name = Buffer.from(bytes);
    name.write("X", bytes.lastIndexOf("data.pkl"));
    expect((await refusal(await temporaryFile("m.bin", name))).message).toMatch(/torch\.save did not write/);
  });

  it("reads sizes and places from Zip64 records, as files beyond 4 GiB have them", async () => {
    const original = await opened(join(directory, "module.bin"));
    const wide = await opened(await temporaryFile("wide.bin", inZip64(await readFile(join(directory, "module.bin")))));
    expect([...wide.tensors]).toEqual([...original.tensors]);
    expect(await wide.floats("0.weight")).toEqual(Float32Array.of(0, 1, 2, 3, 4, 5));
  });

  it("notices every truncation", async () => {
    for (const name of ["module.bin", "example-legacy.bin"]) {
      const bytes = await readFile(join(directory, name));
      for (let length = 0; length < bytes.length; length += 97) {
        const error = await refusal(await temporaryFile("cut.bin", bytes.subarray(0, length)));
        expect(["checkpoint", "pickle"]).toContain(error.code);
      }
    }
  });

  it("survives any damage: it reads or refuses, in bounded time and without growing", { timeout: 60_000 }, async () => {
    const originals = await Promise.all(
      ["example.bin", "example-legacy.bin", "module.bin"].map((name) => readFile(join(directory, name))),
    );
    const folder = await temporaryDirectory();
    const damage = fc.record({
      which: fc.nat(originals.length - 1),
      flips: fc.array(fc.record({ at: fc.nat(6000), to: fc.nat(255) }), { maxLength: 4 }),
      insert: fc.option(fc.record({ at: fc.nat(6000), bytes: fc.uint8Array({ maxLength: 8 }) })),
      keep: fc.option(fc.nat(6000), { freq: 8 }),
    });
    let tries = 0;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(damage, async ({ which, flips, insert, keep }) => {
        let bytes = Buffer.from(originals[which] ?? []);
        for (const { at, to } of flips) bytes[at % bytes.length] = to;
        if (insert) {
          const at = insert.at % bytes.length;
          bytes = Buffer.concat([bytes.subarray(0, at), insert.bytes, bytes.subarray(at)]);
        }
        if (keep !== null) bytes = bytes.subarray(0, keep);
        const path = join(folder, `${tries++}.bin`);
        await writeFile(path, bytes);
        const start = performance.now();
        try {
          const file = await TorchFile.open(path);
          try {
            for (const [name, { start: first, end }] of file.tensors) {
              const values = await file.bytes(name, { first: 0, count: end - first });
              expect(values.byteLength).toBeLessThanOrEqual(bytes.length);
            }
          } finally {
            await file.close();
          }
        } catch (error) {
          refused++;
          expect(error).toBeInstanceOf(TonearmError);
        }
        expect(performance.now() - start).toBeLessThan(10_000);
      }),
      { numRuns: 1500, seed: 11 },
    );
    expect(refused).toBeGreaterThan(tries / 4); // the damage reached the parts that matter
  });
});
