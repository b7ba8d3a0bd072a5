import { cp, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, it, onTestFinished } from "vitest";

import { openCheckpoint, type Checkpoint } from "../../src/checkpoint/checkpoint.js";
import { writeSafetensors, type NamedTensor } from "../../src/checkpoint/safetensors.js";
import { CheckpointError } from "../../src/errors.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { temporaryDirectory } from "../support/temporary.js";

const TENSORS: readonly NamedTensor[] = [
  { name: "a.weight", shape: [2, 3], dtype: "F32", values: Float32Array.of(1, 2, 3, 4, 5, 6) },
  { name: "a.bias", shape: [2], dtype: "F32", values: Float32Array.of(-1, 1) },
  { name: "b.long", shape: [5000], dtype: "F32", values: Float32Array.from({ length: 5000 }, (_, index) => index) },
  { name: "b.half", shape: [1], dtype: "F16", values: Float32Array.of(0.5) },
];

/** Opens a checkpoint for the running test. */
async function opened(directory: string): Promise<Checkpoint> {
  const checkpoint = await openCheckpoint(directory);
  onTestFinished(() => checkpoint.close());
  return checkpoint;
}

/** A directory with the tensors in one file. */
async function single(tensors: readonly NamedTensor[] = TENSORS): Promise<string> {
  const directory = await temporaryDirectory();
  await writeSafetensors(join(directory, "model.safetensors"), tensors);
  return directory;
}

/** A directory with the tensors in two files and any index. */
async function sharded(index: unknown): Promise<string> {
  const directory = await temporaryDirectory();
  await writeSafetensors(join(directory, "model-00001-of-00002.safetensors"), TENSORS.slice(0, 2));
  await writeSafetensors(join(directory, "model-00002-of-00002.safetensors"), TENSORS.slice(2));
  await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify(index));
  return directory;
}

const WEIGHT_MAP = {
  "a.weight": "model-00001-of-00002.safetensors",
  "a.bias": "model-00001-of-00002.safetensors",
  "b.long": "model-00002-of-00002.safetensors",
  "b.half": "model-00002-of-00002.safetensors",
};

/** A directory with a file as its pytorch_model.bin. */
async function alone(path: string): Promise<string> {
  const directory = await temporaryDirectory();
  await cp(path, join(directory, "pytorch_model.bin"));
  return directory;
}

async function refusal(directory: string): Promise<string> {
  const error: unknown = await opened(directory).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(CheckpointError);
  return String(error);
}

describe("openCheckpoint", () => {
  it("finds the tensors of a single file", async () => {
    const checkpoint = await opened(await single());
    expect([...checkpoint.tensors.keys()].toSorted()).toEqual(["a.bias", "a.weight", "b.half", "b.long"]);
    expect(checkpoint.tensors.get("b.half")).toMatchObject({ dtype: "F16", shape: [1] });
  });

  it("finds the tensors of shards through their index", async () => {
    const checkpoint = await opened(await sharded({ metadata: { total_size: 1 }, weight_map: WEIGHT_MAP }));
    expect([...checkpoint.tensors.keys()].toSorted()).toEqual(["a.bias", "a.weight", "b.half", "b.long"]);
    expect(await checkpoint.scope("b").values("long", [5000])).toEqual(TENSORS[2]?.values);
    expect(checkpoint.files).toHaveLength(2);
  });

  it("prefers the single file where there are both, as transformers does", async () => {
    const directory = await sharded({ weight_map: WEIGHT_MAP });
    await writeSafetensors(join(directory, "model.safetensors"), TENSORS.slice(0, 1));
    expect((await opened(directory)).tensors.size).toBe(1);
  });

  it("says so when the directory is missing, is a file, or holds no weights", async () => {
    const directory = await single();
    expect(await refusal(join(directory, "none"))).toMatch(/none: ENOENT.*Give the directory/);
    expect(await refusal(join(directory, "model.safetensors"))).toMatch(/a file\. Give the directory/);
    expect(await refusal(await temporaryDirectory())).toMatch(/neither model\.safetensors nor/);
  });

  it("reads pytorch_model.bin and its shards like safetensors, in which it would rather read them", async () => {
    const torch = fixtureDirectory("torch"); // see tools/reference/make_torch_files.py
    const directory = await temporaryDirectory();
    const [first, second] = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"] as const;
    await cp(join(torch, "example.bin"), join(directory, first));
    await cp(join(torch, "module.bin"), join(directory, second));
    const names = [...(await opened(await alone(join(torch, "example.bin")))).tensors.keys()];
    const others = [...(await opened(await alone(join(torch, "module.bin")))).tensors.keys()];
    const weightMap = Object.fromEntries([
      ...names.map((name) => [name, first] as const),
      ...others.map((name) => [name, second] as const),
    ]);
    const index = join(directory, "pytorch_model.bin.index.json");
    await writeFile(index, JSON.stringify({ weight_map: weightMap }));
    const checkpoint = await opened(directory);
    expect([...checkpoint.tensors.keys()]).toEqual([...names, ...others]);
    expect(await checkpoint.scope("0").values("bias", [2])).toEqual(Float32Array.of(1, 2));
    await rm(join(directory, second));
    expect(await refusal(directory)).toMatch(/1 of 2 shards missing/);
    await writeSafetensors(join(directory, "model.safetensors"), TENSORS.slice(0, 1));
    expect((await opened(directory)).tensors.size).toBe(1);
  });

  it("gives a .bin the fingerprint of the same tensors as safetensors", async () => {
    const torch = fixtureDirectory("torch");
    const same = await temporaryDirectory();
    await cp(join(torch, "example.safetensors"), join(same, "model.safetensors"));
    const pickled = await opened(await alone(join(torch, "example.bin")));
    expect(await pickled.fingerprint()).toBe(await (await opened(same)).fingerprint());
  });

  it("says under which names weights are looked for", async () => {
    const directory = await temporaryDirectory();
    await writeFile(join(directory, "weights.pt"), "");
    expect(await refusal(directory)).toMatch(/weights\.pt, under none of the names/);
  });

  it("names the shards that are missing", async () => {
    const directory = await sharded({ weight_map: WEIGHT_MAP });
    await rm(join(directory, "model-00002-of-00002.safetensors"));
    expect(await refusal(directory)).toMatch(/no model-00002-of-00002\.safetensors beside it \(1 of 2/);
  });

  it("names the tensors in which index and shards disagree", async () => {
    const first = "model-00001-of-00002.safetensors";
    const absent = await sharded({ weight_map: { ...WEIGHT_MAP, "c.lost": first } });
    expect(await refusal(absent)).toMatch(/1 tensors that their shards lack: c\.lost \(model-00001/);
    const moved = await sharded({ weight_map: { ...WEIGHT_MAP, "b.half": first } });
    expect(await refusal(moved)).toMatch(/their shards lack: b\.half/);
    const withoutBias = Object.fromEntries(Object.entries(WEIGHT_MAP).filter(([name]) => name !== "a.bias"));
    expect(await refusal(await sharded({ weight_map: withoutBias }))).toMatch(/does not list: a\.bias/);
  });

  it.each([
    ["no weight_map", {}],
    ["a list as weight_map", { weight_map: [] }],
    ["an empty weight_map", { weight_map: {} }],
    ["a shard outside the directory", { weight_map: { x: "../model.safetensors" } }],
    ["a shard that is no name", { weight_map: { x: 3 } }],
    ["a shard of another format", { weight_map: { x: "model.bin" } }],
    ["no object", []],
  ])("refuses an index with %s", async (_, index) => {
    expect(await refusal(await sharded(index))).toMatch(/model\.safetensors\.index\.json/);
  });

  it("refuses a damaged shard by name", async () => {
    const directory = await sharded({ weight_map: WEIGHT_MAP });
    await writeFile(join(directory, "model-00002-of-00002.safetensors"), "x");
    expect(await refusal(directory)).toMatch(/model-00002-of-00002\.safetensors: only 1 bytes/);
  });
});

describe("Checkpoint.finish", () => {
  it("accepts a checkpoint of which every tensor was consumed once", async () => {
    const checkpoint = await opened(await single());
    await checkpoint.scope().values("a.weight", [2, 3]);
    await checkpoint.scope("a").values("bias", [2]);
    checkpoint.scope("b").ignore("long", "half", "absent");
    checkpoint.finish();
  });

  it("names every tensor left over and every one consumed twice", async () => {
    const checkpoint = await opened(await single());
    await checkpoint.scope("a").values("bias", [2]);
    await checkpoint.scope("a").values("bias", [2]);
    expect(() => checkpoint.finish()).toThrow(/3 tensors that no network uses: a\.weight, b\.long, b\.half/);
    expect(() => checkpoint.finish()).toThrow(/1 tensors that were used twice: a\.bias/);
  });

  it("looks only under the paths it is given", async () => {
    const checkpoint = await opened(await single([...TENSORS, { ...bias(), name: "ab.other" }]));
    checkpoint.scope("a").ignore("weight", "bias");
    checkpoint.finish("a");
    expect(() => checkpoint.finish("a", "b")).toThrow(/2 tensors.*b\.long, b\.half/);
  });
});

function bias(): NamedTensor {
  return { name: "a.bias", shape: [2], dtype: "F32", values: Float32Array.of(-1, 1) };
}

describe("Checkpoint.fingerprint", () => {
  async function fingerprint(directory: string): Promise<string> {
    return (await opened(directory)).fingerprint();
  }

  it("is the same for the same weights, wherever and in however many files they lie", async () => {
    const here = await fingerprint(await single());
    expect(here).toMatch(/^[0-9a-f]{64}$/);
    expect(await fingerprint(await single(TENSORS.toReversed()))).toBe(here);
    expect(await fingerprint(await sharded({ weight_map: WEIGHT_MAP }))).toBe(here);
  });

  it("differs for another value, shape, dtype or name", async () => {
    const long = Float32Array.from({ length: 5000 }, (_, index) => index);
    long[4999] = 0.5;
    const others: NamedTensor[] = [
      { ...bias(), values: Float32Array.of(-1, 2) },
      { ...bias(), shape: [1, 2] },
      { ...bias(), dtype: "I32", values: new Int32Array(Float32Array.of(-1, 1).buffer) },
      { ...bias(), name: "a.offset" },
    ];
    const directories = [
      await single(),
      ...(await Promise.all(
        others.map((other) => single([...TENSORS.filter(({ name }) => name !== "a.bias"), other])),
      )),
      await single(TENSORS.map((tensor) => (tensor.name === "b.long" ? { ...tensor, values: long } : tensor))),
    ];
    const fingerprints = await Promise.all(directories.map(fingerprint));
    expect(new Set(fingerprints).size).toBe(directories.length);
  });

  it("tells the fixtures apart, and does not depend on config.json", async () => {
    const mono = await fingerprint(fixtureDirectory("mono"));
    expect(await fingerprint(fixtureDirectory("stereo"))).not.toBe(mono);
    const directory = join(await temporaryDirectory(), "copy");
    await mkdir(directory);
    await cp(join(fixtureDirectory("mono"), "model.safetensors"), join(directory, "model.safetensors"));
    expect(await fingerprint(directory)).toBe(mono);
  });
});
