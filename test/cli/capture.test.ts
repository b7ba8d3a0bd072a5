import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";

import { openCapture } from "../../src/activations/store.js";
import { writeSafetensors } from "../../src/checkpoint/safetensors.js";
import { captureCommand } from "../../src/cli/capture.js";
import { writeRandomCheckpoint, type CheckpointShape } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import { temporaryDirectory } from "../support/temporary.js";

const SHAPE: CheckpointShape = {
  text: { layers: 1, width: 16, heads: 2, headWidth: 8, ffnWidth: 32, vocabulary: 40 },
  decoder: { layers: 2, width: 16, heads: 2, ffnWidth: 64, audioChannels: 1 },
  codec: { filters: 2, ratios: [8, 5, 4, 4], latentWidth: 8, codebooks: 4, codebookSize: 16 },
};
const RESID = "blocks.1.hook_resid_post";

describe("tonearm capture", () => {
  let folder: string;
  let model: string;
  let codes: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tonearm-capture-"));
    model = join(folder, "model");
    codes = join(folder, "clip.safetensors");
    await writeRandomCheckpoint(model, SHAPE, 1);
    const values = Int32Array.from({ length: 2 * 4 * 6 }, (_, index) => (index * 5) % 16);
    await writeSafetensors(codes, [{ name: "codes", shape: [2, 4, 6], dtype: "I32", values }]);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** Runs the command with --json into a new folder. */
  async function capture(...args: readonly string[]): Promise<{ output: string; result: Record<string, unknown> }> {
    const output = await temporaryDirectory();
    const print = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    try {
      const common = ["--json", "--backend", "cpu", "-m", model, "-o", output];
      await captureCommand()
        .exitOverride()
        .parseAsync([...args, ...common], { from: "user" });
      const printed = print.mock.calls.map(([text]) => String(text)).join("");
      return { output, result: JSON.parse(printed) as Record<string, unknown> };
    } finally {
      print.mockRestore();
    }
  }

  it("runs --codes teacher-forced with --text, and names tensors by site", async () => {
    const { output, result } = await capture(
      "--text",
      "slow jazz",
      "--codes",
      codes,
      "--sites",
      "blocks.*.hook_resid_post",
    );
    expect(result).toMatchObject({ complete: true, items: 2, rows: 20, estimate: { sites: 2, clips: 2 } });
    const stored = await openCapture(output);
    expect(stored.sites.map(({ site }) => site)).toEqual(["blocks.0.hook_resid_post", RESID]);
    expect(stored.items.map(({ id, text, source }) => [id, text, source])).toEqual([
      ["clip-0", "slow jazz", `${codes}[0]`],
      ["clip-1", "slow jazz", `${codes}[1]`],
    ]);
    const loaded = await MusicGen.load(model, { backend: "cpu" });
    const values = Int32Array.from({ length: 4 * 6 }, (_, index) => (index * 5) % 16);
    const given = { text: "slow jazz", codes: { values, codebooks: 4, frames: 6 } };
    const { logits, cache } = await loaded.runWithCache(given, { sites: RESID });
    const { values: kept } = await stored.read(RESID, { rows: Array.from({ length: 10 }, (_, row) => row) });
    expect(kept).toEqual(await cache[RESID]?.data());
    logits.dispose();
    cache[RESID]?.dispose();
    await loaded.dispose();
  });

  it("generates from the texts of a manifest, in windows, float16, by shards", async () => {
    const data = join(folder, "texts.jsonl");
    const lines = ["jazz", "rock", "folk"].map((genre, index) => ({ id: `clip-${index}`, text: genre, genre }));
    await writeFile(data, lines.map((line) => JSON.stringify(line)).join("\n"));
    const options = ["--data", data, "--sites", RESID, "--mode", "generated", "--seconds", "0.3", "--rows", "both"];
    const reduced = ["--window", "0.1", "--hop", "0.1", "--dtype", "f16", "--seed", "3"];
    const outputs: string[] = [];
    for (const shard of ["0/2", "1/2"]) outputs.push((await capture(...options, ...reduced, "--shard", shard)).output);
    const stored = await openCapture(outputs);
    expect(stored.rowCount).toBe(3 * 2 * 3); // clips × roles × windows
    expect(stored.settings).toMatchObject({ mode: "generated", dtype: "f16", seed: 3, generation: { frames: 15 } });
    expect(stored.rows[0]).toMatchObject({ item: "clip-0", role: "cond", window: 0, labels: { genre: "jazz" } });
    const index = await readFile(join(outputs[1] ?? "", "index.json"), "utf8");
    expect(index).toContain('"shard":[1,2]');
  });

  it("sums up with --reduce covariance --by", async () => {
    const data = join(folder, "sums.jsonl");
    const lines = [0, 1].map((clip) => ({ id: `clip-${clip}`, codes: ["clip.safetensors", clip], part: clip === 0 }));
    await writeFile(data, lines.map((line) => JSON.stringify(line)).join("\n"));
    const { output } = await capture("--data", data, "--sites", RESID, "--reduce", "covariance", "--by", "part");
    const groups = await (await openCapture(output)).moments(RESID);
    expect(groups.map(({ role, label, count, squares }) => [role, label, count, squares.length])).toEqual([
      ["null", true, 3, 16 * 16],
      ["null", false, 3, 16 * 16],
    ]);
  });

  it.each<[string, readonly string[], RegExp]>([
    ["two sources", ["--data", "a.jsonl", "--text", "jazz"], /--data together with --text: two sources/],
    ["no source", [], /no clips/],
    ["a text without codes", ["--text", "jazz"], /capture "jazz" teacher-forced: no codes to run/],
    ["a missing manifest", ["--data", "nowhere.jsonl"], /nowhere\.jsonl: ENOENT/],
    ["a shard without its number", ["--shard", "3"], /--shard 3: no i\/n/],
    ["a budget that is no size", ["--budget", "lots"], /--budget lots: no size/],
    ["a hop without a window", ["--text", "a", "--hop", "1"], /--hop: no window/],
    ["two reductions", ["--text", "a", "--window", "1", "--reduce", "mean"], /two ways to reduce/],
    ["groups of rows", ["--text", "a", "--by", "genre"], /nothing that is summed up/],
  ])("refuses %s", async (_what, args, message) => {
    await expect(capture("--sites", RESID, ...args)).rejects.toThrow(message);
  });

  it("refuses what exceeds --budget, in the units it was given", async () => {
    const options = ["--codes", codes, "--sites", RESID];
    await expect(capture(...options, "--budget", "1kB")).rejects.toThrow(
      /they take .* KiB on disk, and the budget is 1000 bytes/,
    );
    await expect(capture(...options, "--budget", "1 MiB")).resolves.toMatchObject({ result: { complete: true } });
  });
});
