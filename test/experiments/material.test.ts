import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { writeWav } from "../../src/audio/wav.js";
import { readLabelledAudio } from "../../src/experiments/material.js";
import { temporaryDirectory } from "../support/temporary.js";

/** A folder with one short sound and a manifest of these lines. */
async function folderOf(...lines: readonly object[]): Promise<string> {
  const folder = await temporaryDirectory();
  await mkdir(folder, { recursive: true });
  await writeWav(join(folder, "1.wav"), { sampleRate: 8000, channels: [new Float32Array(80).fill(0.25)] });
  await writeFile(join(folder, "manifest.jsonl"), lines.map((line) => JSON.stringify(line)).join("\n"));
  return folder;
}

describe("labelled sound", () => {
  it("is an example of its instrument alone, of its genre with a band, of both where nothing is said", async () => {
    const both = { audio: "1.wav", instrument: "violin", genre: "jazz" };
    const clips = await readLabelledAudio(
      await folderOf({ id: "a", kind: "solo", ...both }, { id: "b", kind: "band", ...both }, { id: "c", ...both }),
    );
    expect(clips.map(({ classes }) => classes)).toEqual([
      { instrument: "violin" },
      { genre: "jazz" },
      { instrument: "violin", genre: "jazz" },
    ]);
    expect((await clips[0]?.read())?.channels[0]?.[7]).toBeCloseTo(0.25, 4);
  });

  it("is a piece of its own unless it says which, and on the side of the split that it names", async () => {
    const clip = { audio: "1.wav", instrument: "flute" };
    const clips = await readLabelledAudio(
      await folderOf(
        { id: "a", ...clip, piece: "tune", split: "test" },
        { id: "b", ...clip, piece: null, split: null },
      ),
    );
    expect(clips.map(({ piece, split }) => [piece, split])).toEqual([
      ["tune", "test"],
      ["b", undefined],
    ]);
  });

  it("is refused, by line, without sound, without a class, and with a class or split that there isn't", async () => {
    const refused = async (line: object) => readLabelledAudio(await folderOf(line));
    await expect(refused({ id: "a", instrument: "flute" })).rejects.toThrow("no audio");
    await expect(refused({ id: "a", audio: "1.wav" })).rejects.toThrow("neither an instrument nor a genre");
    await expect(refused({ id: "a", audio: "1.wav", instrument: "flut" })).rejects.toThrow('the instrument "flut"');
    await expect(refused({ id: "a", audio: "1.wav", genre: "jazz", split: "train" })).rejects.toThrow(
      'the split "train"',
    );
    await expect(refused({ id: "a", audio: "2.wav", genre: "jazz" })).rejects.toThrow("2.wav");
  });
});
