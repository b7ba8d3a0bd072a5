import { mkdir, open, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";

import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";

import {
  encodeSafetensors,
  SafetensorsFile,
  writeSafetensors,
  type NamedTensor,
} from "../../src/checkpoint/safetensors.js";
import { parseHeader } from "../../src/checkpoint/safetensors-header.js";
import { CheckpointError, UsageError } from "../../src/errors.js";
import { fixtureDirectory, golden } from "../support/fixtures.js";
import { temporaryDirectory, temporaryFile } from "../support/temporary.js";

/** Opens a file for the running test. */
async function opened(path: string): Promise<SafetensorsFile> {
  const file = await SafetensorsFile.open(path);
  onTestFinished(() => file.close());
  return file;
}

/** A safetensors file with any header and data. */
function assemble(header: unknown, data: Uint8Array = new Uint8Array()): Uint8Array {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, data]);
}

async function openBytes(bytes: Uint8Array): Promise<SafetensorsFile> {
  return opened(await temporaryFile("broken.safetensors", bytes));
}

/** Rejects with an error that names the file and matches. */
async function expectRefusal(bytes: Uint8Array, message: RegExp): Promise<void> {
  const refusal = await openBytes(bytes).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(refusal).toBeInstanceOf(CheckpointError);
  expect(String(refusal)).toContain("broken.safetensors");
  expect(String(refusal)).toMatch(message);
}

const SMALL: readonly NamedTensor[] = [
  { name: "half", shape: [3], dtype: "F16", values: Float32Array.of(1, -0.5, 65504) },
  { name: "weights.0", shape: [2, 3], dtype: "F32", values: Float32Array.of(0, 1.5, -2, 3e-40, 1e38, NaN) },
  { name: "codes", shape: [2, 1], dtype: "I32", values: Int32Array.of(-2147483648, 2147483647) },
  { name: "empty", shape: [0, 7], dtype: "F32", values: new Float32Array() },
  { name: "scalar", shape: [], dtype: "F32", values: Float32Array.of(42) },
];

describe("reading safetensors", () => {
  it("reads a file written by the reference implementation", async () => {
    const file = await opened(join(fixtureDirectory("mono"), "model.safetensors"));
    expect(file.metadata).toEqual({ format: "pt" });
    expect(file.tensors.size).toBeGreaterThan(100);
    expect(file.entry("text_encoder.shared.weight")).toMatchObject({ dtype: "F32", shape: [60, 24], size: 1440 });
    // The embedding of the first token is what the reference's encoder starts from; any misread byte would break parity.
    const embedding = await file.floats("text_encoder.shared.weight");
    expect(embedding).toHaveLength(1440);
    expect(embedding.every(Number.isFinite)).toBe(true);
    expect(embedding.byteOffset).toBe(0);
    expect(embedding.buffer.byteLength).toBe(4 * 1440);
    expect(golden("mono")("t5_last_hidden_state").shape).toEqual([2, 8, 24]);
  });

  it("reads every dtype that has an equal in JavaScript", async () => {
    const data = Buffer.concat([
      Buffer.from(new BigInt64Array([-1n, 7n]).buffer),
      Buffer.from(Float64Array.of(0.1, -2).buffer),
      Buffer.from(Float32Array.of(0.5).buffer),
      Buffer.from(Int32Array.of(-5).buffer),
      Buffer.from([0x80, 0x3f, 0x00, 0x3c]), // bfloat16 1, float16 1
      Buffer.from([255, 1, 9]),
    ]);
    const file = await openBytes(
      assemble(
        {
          long: { dtype: "I64", shape: [2], data_offsets: [0, 16] },
          double: { dtype: "F64", shape: [2], data_offsets: [16, 32] },
          float: { dtype: "F32", shape: [1], data_offsets: [32, 36] },
          int: { dtype: "I32", shape: [1], data_offsets: [36, 40] },
          brain: { dtype: "BF16", shape: [1], data_offsets: [40, 42] },
          half: { dtype: "F16", shape: [1], data_offsets: [42, 44] },
          byte: { dtype: "U8", shape: [1], data_offsets: [44, 45] },
          flag: { dtype: "BOOL", shape: [1], data_offsets: [45, 46] },
          eighth: { dtype: "F8_E5M2", shape: [1], data_offsets: [46, 47] },
        },
        data,
      ),
    );
    expect(await file.floats("double")).toEqual(Float32Array.of(0.1, -2));
    expect(await file.floats("float")).toEqual(Float32Array.of(0.5));
    expect(await file.floats("brain")).toEqual(Float32Array.of(1));
    expect(await file.floats("half")).toEqual(Float32Array.of(1));
    expect(await file.integers("long")).toEqual(Int32Array.of(-1, 7));
    expect(await file.integers("int")).toEqual(Int32Array.of(-5));
    expect(await file.integers("byte")).toEqual(Int32Array.of(255));
    expect(await file.integers("flag")).toEqual(Int32Array.of(1));
    await expect(file.floats("int")).rejects.toThrow(/tensor "int" of .*values of type I32/);
    await expect(file.integers("float")).rejects.toThrow(/tensor "float" of .*values of type F32/);
    await expect(file.floats("eighth")).rejects.toThrow(/tensor "eighth" of .*F8_E5M2/);
    await expect(file.floats("absent")).rejects.toThrow(/no tensor named "absent"/);
  });

  it("refuses integers that do not fit 32 bits", async () => {
    const header = { big: { dtype: "I64", shape: [1], data_offsets: [0, 8] } };
    const file = await openBytes(assemble(header, Buffer.from(new BigInt64Array([2n ** 31n]).buffer)));
    await expect(file.integers("big")).rejects.toThrow(/tensor "big" of .*the value 2147483648/);
  });

  it("reads any range of a tensor, and none outside it", async () => {
    const file = await openBytes(await encodeSafetensors(SMALL));
    expect(await file.floats("weights.0", { first: 1, count: 2 })).toEqual(Float32Array.of(1.5, -2));
    expect(await file.floats("half", { first: 2, count: 1 })).toEqual(Float32Array.of(65504));
    expect(await file.integers("codes", { first: 2, count: 0 })).toEqual(new Int32Array());
    for (const range of [
      { first: 5, count: 2 },
      { first: -1, count: 1 },
      { first: 0.5, count: 1 },
      { first: 0, count: -1 },
    ]) {
      await expect(file.floats("weights.0", range)).rejects.toBeInstanceOf(UsageError);
    }
  });

  it("reads beyond two gigabytes", { timeout: 120_000 }, async () => {
    const path = join(await temporaryDirectory(), "large.safetensors");
    const bytes = 2 ** 31 + 8;
    const header = assemble({
      zeros: { dtype: "U8", shape: [bytes], data_offsets: [0, bytes] },
      last: { dtype: "F32", shape: [1], data_offsets: [bytes, bytes + 4] },
    });
    const handle = await open(path, "w"); // sparse: takes no room on the disk
    await handle.write(header, 0, header.length, 0);
    await handle.write(Float32Array.of(7), 0, 4, header.length + bytes);
    await handle.close();
    const file = await opened(path);
    expect(await file.floats("last")).toEqual(Float32Array.of(7));
    expect(await file.integers("zeros", { first: 2 ** 31, count: 8 })).toEqual(new Int32Array(8));
  });

  it("fails clearly after close and for a file that shrank", async () => {
    const path = await temporaryFile("model.safetensors", await encodeSafetensors(SMALL));
    const file = await opened(path);
    await truncate(path, 300);
    await expect(file.floats("half")).rejects.toBeInstanceOf(CheckpointError);
    await file.close();
    await file.close();
    await expect(file.floats("scalar")).rejects.toBeInstanceOf(CheckpointError);
  });
});

describe("a damaged safetensors file is refused", () => {
  it("when it is missing or a directory", async () => {
    const directory = await temporaryDirectory();
    await expect(SafetensorsFile.open(join(directory, "none"))).rejects.toThrow(/read .*none: ENOENT/);
    await expect(SafetensorsFile.open(directory)).rejects.toThrow(CheckpointError);
  });

  it("when it is cut off anywhere", async () => {
    const bytes = await encodeSafetensors(SMALL, { note: "x" });
    const path = await temporaryFile("cut.safetensors", bytes);
    for (let length = bytes.length - 1; length >= 0; length--) {
      await truncate(path, length);
      await expect(opened(path), `cut to ${length} of ${bytes.length} bytes`).rejects.toBeInstanceOf(CheckpointError);
    }
    await openBytes(bytes);
  });

  it("when bytes follow the last tensor", async () => {
    const bytes = await encodeSafetensors(SMALL);
    await expectRefusal(Buffer.concat([bytes, Buffer.of(0)]), /1 bytes after the last tensor/);
  });

  it("when its header is too long, is no JSON object, or is a pointer to the file", async () => {
    const long = Buffer.alloc(64);
    long.writeBigUInt64LE(100_000_001n);
    await expectRefusal(long, /header of 100000001 bytes, over the limit/);
    long.writeBigUInt64LE(2n ** 63n);
    await expectRefusal(long, /over the limit/);
    long.writeBigUInt64LE(57n);
    await expectRefusal(long, /header of 57 bytes in a file of 64/);
    await expectRefusal(assemble(""), /only 8 bytes/);
    await expectRefusal(assemble("  "), /not JSON/);
    await expectRefusal(assemble("{]"), /not JSON/);
    await expectRefusal(assemble("[".repeat(100_000)), /not JSON/);
    await expectRefusal(assemble("[]"), /not a JSON object/);
    await expectRefusal(assemble("null"), /not a JSON object/);
    await expectRefusal(assemble("\ufeff{}"), /not JSON/);
    await expectRefusal(
      Buffer.concat([Buffer.of(4, 0, 0, 0, 0, 0, 0, 0), Buffer.of(0x22, 0xff, 0xfe, 0x22)]),
      /not JSON/,
    );
    await expectRefusal(Buffer.from("version https://git-lfs.github.com/spec/v1\n"), /Git LFS pointer/);
    await expectRefusal(Buffer.from("PK\u0003\u0004a zip, as PyTorch writes them"), /over the limit/);
  });

  const good = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const eight = new Uint8Array(8);

  it.each([
    ["an entry that is no object", { t: 5 }, /"t".*not a JSON object/],
    ["an unknown dtype", { t: { ...good, dtype: "F31" } }, /"t".*dtype "F31"/],
    ["an inherited name as dtype", { t: { ...good, dtype: "toString" } }, /"t".*dtype "toString"/],
    ["no dtype", { t: { shape: [2], data_offsets: [0, 8] } }, /"t".*dtype missing/],
    ["a negative dimension", { t: { ...good, shape: [-2] } }, /"t".*shape \[-2\]/],
    ["a fraction as dimension", { t: { ...good, shape: [0.5] } }, /"t".*shape \[0.5\]/],
    ["a text as dimension", { t: { ...good, shape: ["2"] } }, /"t".*shape \["2"\]/],
    ["a dimension beyond exact integers", { t: { ...good, shape: [1e300] } }, /"t".*shape/],
    ["a huge product of dimensions", { t: { ...good, shape: [2 ** 50, 2 ** 50] } }, /"t".*takes/],
    ["an infinite product of dimensions", { t: { ...good, shape: Array(40).fill(2 ** 50) } }, /"t".*takes/],
    ["a shape that is no list", { t: { ...good, shape: 2 } }, /"t".*shape 2/],
    ["one offset", { t: { ...good, data_offsets: [0] } }, /"t".*data_offsets \[0\]/],
    ["offsets in reverse", { t: { ...good, data_offsets: [8, 0] } }, /"t".*-8 bytes/],
    ["a negative offset", { t: { ...good, data_offsets: [-8, 0] } }, /"t".*data_offsets/],
    ["fewer bytes than the shape takes", { t: { ...good, shape: [3] } }, /"t".*8 bytes of data.*takes 12/],
    ["data beyond the end", { t: { ...good, shape: [3], data_offsets: [0, 12] } }, /"t".*in a file of/],
    ["a hole before the data", { t: { ...good, shape: [1], data_offsets: [4, 8] } }, /"t".*hole/],
    ["overlapping data", { t: good, u: { ...good, shape: [1], data_offsets: [4, 8] } }, /"u".*overlaps/],
    ["metadata that is no object", { __metadata__: [], t: good }, /metadata that is not/],
    ["metadata that is no text", { __metadata__: { n: 1 }, t: good }, /metadata "n"/],
    ["a name twice", `{"t":${JSON.stringify(good)},"t":${JSON.stringify(good)}}`, /"t" twice/],
    ["a name twice, once escaped", `{"t":${JSON.stringify(good)},"\\u0074":${JSON.stringify(good)}}`, /"t" twice/],
    ["a field twice", `{"t":{"dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, /"dtype" twice/],
  ])("for %s", async (_, header, message) => {
    await expectRefusal(assemble(header, eight), message);
  });

  it("but the same names in different objects are no duplicates, nor are names of JavaScript's own", async () => {
    const header = `{ "__proto__" : ${JSON.stringify(good)} , "__metadata__":{"dtype":"a \\"quoted\\": b"}}  \n`;
    const file = await openBytes(assemble(header, eight));
    expect([...file.tensors.keys()]).toEqual(["__proto__"]);
    expect(file.metadata).toEqual({ dtype: 'a "quoted": b' });
    expect(await file.floats("__proto__")).toEqual(new Float32Array(2));
  });
});

describe("any header", () => {
  it("survives writing and reading", async () => {
    const tensor = fc.record({
      name: fc.string({ unit: "grapheme" }),
      shape: fc.array(fc.nat({ max: 4 }), { maxLength: 4 }),
      dtype: fc.constantFrom("F32", "F16", "I32"),
    });
    const metadata = fc.dictionary(fc.string(), fc.string());
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 8 }),
        metadata,
        async (specs, notes) => {
          const tensors = specs.map(({ name, shape, dtype }, index): NamedTensor => {
            const size = shape.reduce((product, dimension) => product * dimension, 1);
            const values = Array.from({ length: size }, (_, position) => position + index);
            return {
              name,
              shape,
              dtype,
              values: dtype === "I32" ? Int32Array.from(values) : Float32Array.from(values),
            };
          });
          const bytes = await encodeSafetensors(tensors, notes);
          const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
          const header = parseHeader(bytes.subarray(8, 8 + length), bytes.length, "memory");
          expect(Object.entries(header.metadata).toSorted()).toEqual(Object.entries(notes).toSorted());
          expect(header.tensors.size).toBe(tensors.length);
          for (const { name, shape, dtype } of tensors)
            expect(header.tensors.get(name)).toMatchObject({ name, shape, dtype });
          for (const { dtype, start } of header.tensors.values()) expect(start % (dtype === "F16" ? 2 : 4)).toBe(0);
        },
      ),
    );
  });

  it("is accepted whole or refused with a CheckpointError, whatever its fields are", () => {
    const count = fc.oneof(fc.nat({ max: 16 }), fc.constantFrom(-1, 0.5, 2 ** 53, 1e308, "2", null));
    const entry = fc.oneof(
      {
        arbitrary: fc.record(
          { dtype: fc.constantFrom("F32", "U8", "F64", "X", 7), shape: fc.array(count), data_offsets: fc.array(count) },
          { requiredKeys: [] },
        ),
        weight: 4,
      },
      { arbitrary: fc.jsonValue(), weight: 1 },
    );
    fc.assert(
      fc.property(fc.dictionary(fc.string(), entry), fc.nat({ max: 64 }), (fields, dataBytes) => {
        checkAcceptance(Buffer.from(JSON.stringify(fields)), dataBytes);
      }),
      { numRuns: 500 },
    );
  });

  it("is accepted whole or refused with a CheckpointError, however its bytes are damaged", async () => {
    const bytes = await encodeSafetensors(SMALL, { note: "a text" });
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const json = bytes.subarray(8, 8 + length);
    const damage = fc.record({
      at: fc.nat({ max: length - 1 }),
      remove: fc.nat({ max: 6 }),
      insert: fc.oneof(
        fc.uint8Array({ maxLength: 4 }),
        fc.constantFrom('"', "{", "}", "[", "]", ",", ":", "0", "-", "9", "\\").map((mark) => Buffer.from(mark)),
      ),
    });
    fc.assert(
      fc.property(fc.array(damage, { minLength: 1, maxLength: 3 }), (damages) => {
        const damaged = damages.reduce<Uint8Array>(
          (current, { at, remove, insert }) =>
            Buffer.concat([current.subarray(0, at), insert, current.subarray(at + remove)]),
          json,
        );
        checkAcceptance(damaged, bytes.length - 8 - length);
      }),
      { numRuns: 2000 },
    );
  });
});

/** Parses; an accepted header must tile the data exactly. */
function checkAcceptance(json: Uint8Array, dataBytes: number): void {
  const fileSize = 8 + json.length + dataBytes;
  try {
    let position = 8 + json.length;
    for (const { start, end, size } of parseHeader(json, fileSize, "any").tensors.values()) {
      expect(start).toBe(position);
      expect(Number.isSafeInteger(size) && end - start >= size).toBe(true);
      position = end;
    }
    expect(position).toBe(fileSize);
  } catch (error) {
    expect(error).toBeInstanceOf(CheckpointError);
  }
}

describe("writing safetensors", () => {
  it("writes what it reads", async () => {
    const directory = await temporaryDirectory();
    const path = join(directory, "out.safetensors");
    await writeSafetensors(path, SMALL, { concept: "jazz", note: "“é”\n" });
    const file = await opened(path);
    expect(file.metadata).toEqual({ concept: "jazz", note: "“é”\n" });
    for (const { name, shape, dtype, values } of SMALL) {
      expect(file.entry(name)).toMatchObject({ shape, dtype });
      const read = dtype === "I32" ? await file.integers(name) : await file.floats(name);
      expect(read).toEqual(values);
    }
    expect(await readdir(directory)).toEqual(["out.safetensors"]);
    expect(new Uint8Array(await readFile(path))).toEqual(
      await encodeSafetensors(SMALL, { concept: "jazz", note: "“é”\n" }),
    );
  });

  it("asks for late values one tensor at a time, in the order of the file", async () => {
    const asked: string[] = [];
    const late = (name: string, dtype: "F16" | "F32"): NamedTensor => ({
      name,
      dtype,
      shape: [1],
      values: async () => {
        asked.push(name);
        return Float32Array.of(1);
      },
    });
    const path = join(await temporaryDirectory(), "out.safetensors");
    await writeSafetensors(path, [late("narrow", "F16"), late("wide", "F32")]);
    expect(asked).toEqual(["wide", "narrow"]);
    expect([...(await opened(path)).tensors.keys()]).toEqual(asked);
  });

  it("writes a view of a larger buffer, not the buffer", async () => {
    const values = Float32Array.of(1, 2, 3, 4).subarray(1, 3);
    const file = await openBytes(await encodeSafetensors([{ name: "view", shape: [2], dtype: "F32", values }]));
    expect(await file.floats("view")).toEqual(Float32Array.of(2, 3));
  });

  it("leaves the old file and nothing else where it fails halfway", async () => {
    const directory = await temporaryDirectory();
    const path = join(directory, "out.safetensors");
    await writeFile(path, "old");
    const failing: NamedTensor = {
      name: "late",
      shape: [1],
      dtype: "F32",
      values: () => Promise.reject(new RangeError("no values")),
    };
    await expect(writeSafetensors(path, [...SMALL, failing])).rejects.toThrow("no values");
    expect(await readdir(directory)).toEqual(["out.safetensors"]);
    expect(await readFile(path, "utf8")).toBe("old");
  });

  it("refuses to write what it could not read back", async () => {
    const path = join(await temporaryDirectory(), "out.safetensors");
    const one = { name: "t", shape: [1], dtype: "F32", values: Float32Array.of(1) } as const;
    const refusals: [readonly NamedTensor[], RegExp][] = [
      [[one, one], /two entries named "t"/],
      [[{ ...one, name: "__metadata__" }], /__metadata__/],
      [[{ ...one, shape: [2] }], /1 values for tensor "t" of shape \[2\]/],
      [[{ ...one, shape: [-1] }], /shape \[-1\]/],
      [[{ ...one, values: Int32Array.of(1) }], /Int32Array values for tensor "t" of dtype F32/],
      [[{ ...one, dtype: "I32" }], /Float32Array values for tensor "t" of dtype I32/],
      [[{ ...one, dtype: "F16", values: Float32Array.of(65520) }], /the value 65520 in tensor "t"/],
    ];
    for (const [tensors, message] of refusals) {
      const refusal: unknown = await writeSafetensors(path, tensors).catch((error: unknown) => error);
      expect(refusal).toBeInstanceOf(CheckpointError);
      expect(String(refusal)).toMatch(message);
    }
    expect(await readdir(join(path, ".."))).toEqual([]);
  });

  it("says where it can't write", async () => {
    const directory = await temporaryDirectory();
    await expect(writeSafetensors(join(directory, "none", "out.safetensors"), SMALL)).rejects.toThrow(/write .*ENOENT/);
    await mkdir(join(directory, "taken", "inside"), { recursive: true });
    await expect(writeSafetensors(join(directory, "taken"), SMALL)).rejects.toBeInstanceOf(CheckpointError);
    expect(await readdir(directory)).toEqual(["taken"]);
  });
});
