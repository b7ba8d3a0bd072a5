import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { load } from "../../src/activations/capture-item.js";
import { readManifest } from "../../src/activations/manifest.js";
import { writeWav } from "../../src/audio/wav.js";
import { writeSafetensors } from "../../src/checkpoint/safetensors.js";
import { temporaryDirectory } from "../support/temporary.js";

/** A manifest of these lines, beside the files that they may name. */
async function manifest(...lines: readonly (object | string)[]): Promise<string> {
  const directory = await temporaryDirectory();
  await mkdir(join(directory, "clips"));
  await writeWav(join(directory, "clips/a.wav"), { sampleRate: 8000, channels: [new Float32Array(80)] });
  const codes = Int32Array.from({ length: 2 * 4 * 3 }, (_, index) => index);
  await writeSafetensors(join(directory, "two.safetensors"), [
    { name: "codes", shape: [2, 4, 3], dtype: "I32", values: codes },
  ]);
  const path = join(directory, "clips.jsonl");
  await writeFile(path, lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n"));
  return path;
}

describe("a manifest", () => {
  it("gives its lines as items, with files relative to itself and every other key as a label", async () => {
    const path = await manifest(
      { id: "one", text: "slow jazz", audio: "clips/a.wav", genre: "jazz", tempo: 80, live: true },
      "",
      { id: "two", codes: ["two.safetensors", 1], genre: null, seed: 7 },
    );
    const [one, two, ...more] = await readManifest(path);
    expect(more).toEqual([]);
    expect(one).toMatchObject({ id: "one", text: "slow jazz", labels: { genre: "jazz", tempo: 80, live: true } });
    expect(two).toMatchObject({ id: "two", text: null, seed: 7, labels: { genre: null } });
    expect(one?.audio && (await load(one.audio)).channels[0]).toHaveLength(80);
    expect(two?.codes && (await load(two.codes))).toMatchObject({ codebooks: 4, frames: 3 });
    expect(two?.codes && (await load(two.codes)).values[0]).toBe(12);
  });

  it("reads the lines of Windows, and a byte order mark", async () => {
    const path = await manifest('\ufeff{"id":"a"}\r', '{"id":"b"}\r', "\r");
    expect((await readManifest(path)).map(({ id }) => id)).toEqual(["a", "b"]);
  });

  it.each([
    ["a line that is not JSON", [{ id: "a" }, '{"id": "b",}'], /clips\.jsonl line 2: text that is not JSON/],
    ["a line cut short", [{ id: "a" }, '{"id": "b'], /line 2: text that is not JSON/],
    ["a line that is no object", ["[1]"], /line 1: JSON that is not an object: \[1\]/],
    ["a missing id", [{ text: "jazz" }], /line 1: id missing/],
    ["an id that is a number", [{ id: 3 }], /line 1: id 3/],
    [
      "an id that occurs twice",
      [{ id: "a" }, { id: "b" }, { id: "a" }],
      /line 3 \("a"\): the id of clips\.jsonl line 1/,
    ],
    ["a text that is none", [{ id: "a", text: 3 }], /line 1: text 3/],
    ["a label that is a list", [{ id: "a", tags: ["x"] }], /line 1: the label "tags" is \["x"\]/],
    [
      "a label column that changes its type",
      [{ id: "a", tempo: 80 }, { id: "b" }, { id: "c", tempo: "fast" }],
      /line 3 \("c"\): a string in the label column "tempo", where clips\.jsonl line 1 \("a"\) has a number/,
    ],
    ["both codes and sound", [{ id: "a", audio: "clips/a.wav", codes: "two.safetensors" }], /both codes and audio/],
    ["codes that are no path", [{ id: "a", codes: 3 }], /line 1: codes 3/],
    ["a negative index", [{ id: "a", codes: ["two.safetensors", -1] }], /line 1: codes/],
    ["a seed that is no number", [{ id: "a", seed: "x" }], /line 1: seed "x"/],
    [
      "missing files",
      [
        { id: "a", audio: "clips/a.wav" },
        { id: "b", audio: "b.wav" },
        { id: "c", codes: "c.safetensors" },
      ],
      /2 missing: b\.wav \(clips\.jsonl line 2\), c\.safetensors \(clips\.jsonl line 3\)/,
    ],
    ["no items", ["", "  "], /no items/],
  ])("is refused for %s, naming the line", async (_what, lines, message) => {
    await expect(readManifest(await manifest(...lines))).rejects.toThrow(message);
  });

  it("is refused where it is missing or no text", async () => {
    await expect(readManifest("nowhere.jsonl")).rejects.toThrow(/nowhere\.jsonl: ENOENT/);
    const path = join(await temporaryDirectory(), "bytes.jsonl");
    await writeFile(path, Uint8Array.of(0x7b, 0xff, 0xfe));
    await expect(readManifest(path)).rejects.toThrow(/not UTF-8/);
  });

  it("refuses a clip of a codes file that holds several, or fewer, when it is read", async () => {
    const [first, second] = await readManifest(
      await manifest({ id: "a", codes: "two.safetensors" }, { id: "b", codes: ["two.safetensors", 2] }),
    );
    const read = async (item: typeof first): Promise<unknown> => item?.codes && load(item.codes);
    await expect(read(first)).rejects.toThrow(/2 clips\. Give an index from 0 to 1/);
    await expect(read(second)).rejects.toThrow(/clip 2 of .*two\.safetensors: 2 clips/);
  });
});
