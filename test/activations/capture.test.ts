import { execFileSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { captureActivations, type CaptureOptions } from "../../src/activations/capture.js";
import type { CaptureItem } from "../../src/activations/capture-item.js";
import type { Hook } from "../../src/activations/hooks.js";
import type { Intervention, RunPlan } from "../../src/activations/intervention.js";
import { meanOf, varianceOf } from "../../src/activations/moments.js";
import { openCapture, type CaptureMatrix } from "../../src/activations/store.js";
import { DISK, type StoreFiles } from "../../src/activations/store-writer.js";
import { MemoryError, SiteError, UsageError } from "../../src/errors.js";
import type { Codes } from "../../src/model/delay.js";
import { MusicGen } from "../../src/musicgen.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { temporaryDirectory } from "../support/temporary.js";

const RESID = "blocks.1.hook_resid_post";

/** Token ids in place of a text: the fixture has no tokenizer. */
function text(...ids: readonly number[]): TokenBatch {
  return { ids: Int32Array.from(ids), mask: new Int32Array(ids.length).fill(1), batch: 1, length: ids.length };
}

/** Codes of F frames, different for each seed. */
function codes(frames: number, seed: number, codebooks = 4): Codes {
  const values = Int32Array.from({ length: codebooks * frames }, (_, index) => (index * 7 + seed * 13) % 16);
  return { values, codebooks, frames };
}

const ITEMS: readonly CaptureItem[] = [
  { id: "a", text: text(5, 9, 1), codes: codes(9, 1), labels: { genre: "jazz" } },
  { id: "b", text: text(3, 1), codes: codes(6, 2), labels: { genre: "rock" } },
  { id: "c", text: text(8, 2, 4, 1), codes: codes(12, 3), labels: { genre: "jazz" } },
];

/** Rows of a matrix whose place is in the list. */
function rowsOf({ values, width }: CaptureMatrix, rows: readonly number[]): readonly number[] {
  return rows.flatMap((row) => [...values.subarray(row * width, (row + 1) * width)]);
}

/** The mean of some rows of a flat [T, width], in float64. */
function meanRows(values: ArrayLike<number>, width: number, first: number, last: number): number[] {
  return Array.from({ length: width }, (_, i) => {
    let sum = 0;
    for (let row = first; row <= last; row++) sum += values[row * width + i] ?? NaN;
    return sum / (last - first + 1);
  });
}

describeOnEachBackend("captureActivations", (backend) => {
  let model: MusicGen;
  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono"), { backend });
  });
  afterAll(() => model.dispose());

  /** Captures into a new folder and opens it. */
  async function capture(options: Partial<CaptureOptions>) {
    const output = options.output ?? (await temporaryDirectory());
    const summary = await captureActivations(model, { items: ITEMS, sites: RESID, ...options, output });
    return { output, summary, capture: await openCapture(output, { partial: true }) };
  }

  it("keeps the activations that runWithCache gives, position 0 the BOS column, items one after another", async () => {
    const sites = ["blocks.*.hook_resid_post", "blocks.0.attn.hook_z", "hook_logits"];
    const { capture: stored, summary } = await capture({ sites, rows: "both" });
    expect(stored.complete).toBe(true);
    expect(summary.rows).toBe(2 * (9 + 4 + 6 + 4 + 12 + 4));
    for (const item of ITEMS) {
      const given = { text: text(...(item.text as TokenBatch).ids), codes: item.codes as Codes };
      const { logits, cache } = await model.runWithCache({ ...given, rows: ["cond", "null"] }, { sites });
      for (const { site, shape } of stored.sites) {
        for (const [row, role] of (["cond", "null"] as const).entries()) {
          const rows = stored.rows.filter((entry) => entry.item === item.id && entry.role === role);
          expect(rows.map(({ positions }) => positions[0])).toEqual(rows.map((_, position) => position));
          const one = tf.squeeze(tf.slice(cache[site] ?? logits, row, 1), [0]);
          const first = site === "hook_logits" ? tf.transpose(one, [1, 0, 2]) : one; // [T, …]
          const { values } = await stored.read(site, { rows: rows.map((entry) => entry.row) });
          expect(first.shape.slice(1)).toEqual(shape);
          expect(values).toEqual(await first.data());
          tf.dispose([one, first]);
        }
      }
      tf.dispose([logits, Object.values(cache)]);
    }
  });

  it("keeps every site of the decoder that has positions, patterns included", async () => {
    const item: CaptureItem = { id: "a", text: text(5, 9, 1), codes: codes(7, 1) };
    const refused = /hook_pos_embed|hook_guided_logits|cross_attn\.hook_[kv]$/;
    const sites = model
      .sites()
      .filter(({ network, site }) => network === "decoder" && !refused.test(site))
      .map(({ site }) => site);
    const { capture: stored } = await capture({ items: [item], sites });
    expect(stored.sites.map(({ site }) => site)).toEqual(sites);
    const given = { text: text(5, 9, 1), codes: codes(7, 1) };
    const { logits, cache } = await model.runWithCache(given, { sites });
    for (const { site, shape } of stored.sites) {
      const [tensor, positions] = [tf.squeeze(cache[site] ?? logits, [0]), 7 + 4];
      const axis =
        tensor.shape.length === 3 && site !== "hook_logits" && !/pattern|scores/.test(site)
          ? 0
          : tensor.shape.length - 2;
      const order = [axis, ...tensor.shape.keys()].filter((entry, at) => at === 0 || entry !== axis);
      const expected = tf.transpose(tensor, order);
      expect([positions, ...shape]).toEqual(expected.shape);
      expect((await stored.read(site)).values).toEqual(await expected.data());
      tf.dispose([tensor, expected]);
    }
    tf.dispose([logits, Object.values(cache)]);
    for (const site of ["hook_embed", "blocks.0.hook_resid_pre", "blocks.0.mlp.hook_post"]) {
      const { capture: alone } = await capture({ items: [item], sites: site }); // the layers above are not computed
      expect(await alone.read(site)).toEqual(await stored.read(site));
    }
  });

  it("reduces over the complete positions: mean, last and windows", async () => {
    const { capture: whole } = await capture({});
    const all = await whole.read(RESID);
    const { capture: mean } = await capture({ reduction: "mean" });
    const { capture: last } = await capture({ reduction: "last" });
    const frameRate = model.config.codec.frameRate;
    const { capture: windows } = await capture({ reduction: { window: 5 / frameRate, hop: 1 / frameRate } });
    const { width } = all;
    let start = 0; // of the clip among all positions
    for (const [index, frames] of [9, 6, 12].entries()) {
      const expected = meanRows(all.values, width, start + 4, start + frames);
      expect(rowsOf(await mean.read(RESID), [index])).toBeAllClose(expected, { within: 1e-6 });
      expect(rowsOf(await last.read(RESID), [index])).toEqual(rowsOf(all, [start + frames]));
      const own = windows.rows.filter(({ item }) => item === ITEMS[index]?.id);
      expect(own.map(({ window }) => window)).toEqual(Array.from({ length: frames - 4 }, (_, window) => window));
      const read = await windows.read(RESID);
      for (const { row, positions, seconds, window } of own) {
        expect(positions).toEqual([Math.max(4, 1 + (window ?? 0)), 5 + (window ?? 0)]);
        expect(seconds[0]).toBeCloseTo((window ?? 0) / frameRate, 9);
        const from = meanRows(all.values, width, start + positions[0], start + positions[1]);
        expect(rowsOf(read, [row])).toBeAllClose(from, { within: 1e-6 });
      }
      start += frames + 4;
    }
    expect(mean.rows.map(({ item, labels, positions }) => [item, labels["genre"], positions])).toEqual([
      ["a", "jazz", [4, 9]],
      ["b", "rock", [4, 6]],
      ["c", "jazz", [4, 12]],
    ]);
  });

  it("sums moments in float64 over the complete positions of each group", async () => {
    const { capture: whole } = await capture({});
    const { capture: sums } = await capture({ reduction: { moments: "covariance", by: "genre" } });
    const groups = await sums.moments(RESID);
    expect(groups.map(({ label, count }) => [label, count])).toEqual([
      ["jazz", 9 - 3 + 12 - 3],
      ["rock", 6 - 3],
    ]);
    const counted = whole.rows.filter(({ item, positions: [position], labels }) => {
      const frames = { a: 9, b: 6, c: 12 }[item] ?? 0;
      return labels["genre"] === "jazz" && position >= 4 && position <= frames;
    });
    const { values, rows, width } = await whole.read(RESID, { rows: counted.map(({ row }) => row) });
    const [jazz] = groups;
    expect(rows).toBe(jazz?.count);
    const mean = meanRows(values, width, 0, rows - 1);
    expect(jazz && meanOf(jazz)).toBeAllClose(mean, { within: 1e-12 });
    const variance = mean.map((centre, i) => {
      let sum = 0;
      for (let row = 0; row < rows; row++) sum += ((values[row * width + i] ?? NaN) - centre) ** 2;
      return sum / (rows - 1);
    });
    expect(jazz && varianceOf(jazz)).toBeAllClose(variance, { within: 1e-10 });
  });

  it("while generating keeps the decode steps, as a teacher-forced pass over the same codes has them", async () => {
    const items: readonly CaptureItem[] = [{ id: "a", text: text(5, 9, 1), seed: 11 }];
    const generated: Codes[] = [];
    const { capture: stored } = await capture({
      items,
      mode: "generated",
      seconds: 9 / model.config.codec.frameRate,
      rows: "both",
      onClip: (_id, { codes: drawn }) => void generated.push(drawn),
    });
    expect(stored.items[0]).toMatchObject({ id: "a", frames: 9, promptFrames: 0, seed: 11 });
    const positions = stored.rows.map(({ role, positions: [position] }) => [role, position]);
    const steps = Array.from({ length: 11 }, (_, index) => 1 + index); // position 12 of 13 is drawn, not read
    expect(positions).toEqual(["cond", "null"].flatMap((role) => steps.map((step) => [role, step])));
    const forcedItems = [{ id: "a", text: text(5, 9, 1), codes: generated[0] ?? codes(1, 0) }];
    const { capture: forced } = await capture({ items: forcedItems, rows: "both" });
    const expected = await forced.read(RESID);
    expect((await stored.read(RESID)).values).toBeAllClose(
      rowsOf(expected, [...steps, ...steps.map((step) => 13 + step)]),
      { within: 1e-5 },
    );
  });

  it("while continuing a sound leaves the prompt out", async () => {
    const { hop, sampleRate, frameRate } = model.config.codec;
    const channels = [Float32Array.from({ length: 5 * hop }, (_, index) => Math.sin(index / 5))];
    const items = [{ id: "a", text: text(5, 1), audio: { sampleRate, channels } }];
    const seconds = 12 / frameRate;
    const { capture: stored } = await capture({ items, mode: "generated", seconds, reduction: "none" });
    expect(stored.items[0]).toMatchObject({ frames: 12, promptFrames: 5 });
    expect(stored.rows.map(({ positions: [position] }) => position)).toEqual([6, 7, 8, 9, 10, 11, 12, 13, 14]);
    const { capture: mean } = await capture({ items, mode: "generated", seconds, reduction: "mean" });
    expect(mean.rows[0]?.positions).toEqual([6, 12]);
    const expected = meanRows((await stored.read(RESID)).values, model.config.decoder.width, 0, 6);
    expect((await mean.read(RESID)).values).toBeAllClose(expected, { within: 1e-6 });
  });

  it("sees what hooks before it left, teacher-forced and while generating", async () => {
    const push: Hook = { sites: RESID, name: "push", run: (value) => tf.add(value, 100) };
    const { capture: plain } = await capture({});
    const { capture: pushed } = await capture({ hooks: [push], provenance: { push: 100 } });
    const before = (await plain.read(RESID)).values;
    expect((await pushed.read(RESID)).values).toBeAllClose(
      before.map((value) => value + 100),
      { within: 1e-4 },
    );
    expect(pushed.settings).toMatchObject({ hooks: ["push"], provenance: { push: 100 } });
    const seconds = 6 / model.config.codec.frameRate;
    const items = [{ id: "a", text: text(5, 1) }];
    const { capture: steered } = await capture({ items, mode: "generated", seconds, hooks: [push], reduction: "mean" });
    for (const value of (await steered.read(RESID)).values) expect(Math.abs(value - 100)).toBeLessThan(30);
  });

  it("sees what steering left, and keeps its record", async () => {
    const runs: RunPlan[] = [];
    const push: Hook = { sites: RESID, name: "push", run: (value) => tf.add(value, 100) };
    const double: Hook = { sites: RESID, name: "double", run: (value) => tf.mul(value, 2) };
    const end = (): void => void ended.push(true);
    const ended: boolean[] = [];
    const steering: Intervention = {
      record: { push: 100 },
      begin: (run) => {
        runs.push(run);
        return { hooks: [push], end };
      },
    };
    const { capture: plain } = await capture({});
    const { capture: steered } = await capture({ steering, hooks: [double] });
    const before = (await plain.read(RESID)).values;
    const expected = before.map((value) => 2 * (value + 100)); // steering first, then the hooks
    expect((await steered.read(RESID)).values).toBeAllClose(expected, { within: 1e-4 });
    expect(steered.settings).toMatchObject({ steering: { push: 100 }, hooks: ["double"] });
    expect(runs.map(({ frames }) => frames)).toEqual([9, 6, 12]);
    const items = [{ id: "a", text: text(5, 1) }];
    const options = { items, mode: "generated", seconds: 6 / model.config.codec.frameRate, reduction: "last" } as const;
    const { capture: generated } = await capture({ ...options, steering });
    for (const value of (await generated.read(RESID)).values) expect(Math.abs(value - 100)).toBeLessThan(30);
    expect(ended).toHaveLength(4);
  });

  it("encodes sounds and runs them teacher-forced", async () => {
    const { hop, sampleRate } = model.config.codec;
    const channels = [Float32Array.from({ length: 7 * hop - 3 }, (_, index) => Math.sin(index / 9))];
    const audio = { sampleRate, channels };
    const { capture: heard } = await capture({ items: [{ id: "a", audio: () => Promise.resolve(audio) }] });
    const encoded = await model.encodeAudio(audio);
    const { capture: read } = await capture({ items: [{ id: "a", codes: encoded }] });
    expect(heard.settings.rows).toBe("null"); // no text
    expect(heard.rowCount).toBe(7 + 4);
    expect((await heard.read(RESID)).values).toEqual((await read.read(RESID)).values);
  });

  it("goes on after an interruption as if there had been none, and does nothing when it is complete", async () => {
    const { capture: whole } = await capture({});
    const output = await temporaryDirectory();
    const stop = new AbortController();
    const first = await capture({
      output,
      signal: stop.signal,
      onProgress: ({ item }) => {
        if (item === "b") stop.abort();
      },
    });
    expect(first.summary).toMatchObject({ complete: false, items: 1 });
    const second = await capture({ output });
    expect(second.summary).toMatchObject({ complete: true, items: 3, resumed: 1, rows: whole.rowCount });
    const third = await capture({ output });
    expect(third.summary).toMatchObject({ complete: true, items: 3, resumed: 3 });
    expect(third.capture.rows).toEqual(whole.rows);
    expect((await third.capture.read(RESID)).values).toEqual((await whole.read(RESID)).values);
  });

  it("splits items into shards that open as one", async () => {
    const { capture: whole } = await capture({});
    const outputs: string[] = [];
    for (const index of [0, 1]) outputs.push((await capture({ shard: { index, of: 2 } })).output);
    const merged = await openCapture(outputs);
    expect(merged.items.map(({ id }) => id)).toEqual(["a", "c", "b"]);
    for (const { id } of ITEMS) {
      const rows = (from: typeof merged) => from.rows.filter(({ item }) => item === id).map(({ row }) => row);
      expect(await merged.read(RESID, { rows: rows(merged) })).toEqual(await whole.read(RESID, { rows: rows(whole) }));
    }
  });

  it("leaves no tensors behind, also when a hook throws in the midst", async () => {
    const before = tf.memory().numTensors;
    await capture({ rows: "both" });
    const failing: Hook = {
      sites: RESID,
      run: () => {
        throw new Error("in the midst");
      },
    };
    await expect(capture({ hooks: [failing] })).rejects.toThrow("in the midst");
    const seconds = 6 / model.config.codec.frameRate;
    const items = [{ id: "a", text: text(5, 1) }];
    await expect(capture({ items, mode: "generated", seconds, hooks: [failing] })).rejects.toThrow("in the midst");
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe("a capture that cannot be", () => {
  let model: MusicGen;
  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
  });
  afterAll(() => model.dispose());

  async function refused(options: Partial<CaptureOptions>): Promise<unknown> {
    const output = await temporaryDirectory();
    return captureActivations(model, { items: ITEMS, sites: RESID, output, ...options }).catch(
      (error: unknown) => error,
    );
  }

  it.each<[string, Partial<CaptureOptions>, RegExp]>([
    [
      "a misspelt site",
      { sites: "blocks.1.hook_resid_pots" },
      /no site of that name; nearest: blocks\.1\.hook_resid_post/,
    ],
    ["a layer out of range", { sites: "blocks.9.hook_resid_post" }, /a layer out of range/],
    ["a site of the text encoder", { sites: "text.blocks.0.hook_resid_post" }, /not positions of the decoder/],
    ["a site of the codec", { sites: "codec.hook_latent" }, /not positions of the decoder/],
    ["keys of the text", { sites: "blocks.0.cross_attn.hook_k" }, /tokens of the text, not positions/],
    ["the table of positions", { sites: "hook_pos_embed" }, /the same for every clip/],
    ["guided logits without a generation", { sites: "hook_guided_logits" }, /only while generating/],
    [
      "queries of rows without a text",
      { sites: "blocks.0.cross_attn.hook_q", rows: "both" },
      /skip the cross-attention/,
    ],
    [
      "what text adds to rows without",
      { sites: "blocks.0.hook_cross_attn_out", rows: "null" },
      /cross-attention is not run/,
    ],
    ["a mean over patterns", { sites: "blocks.0.attn.hook_pattern", reduction: "mean" }, /as long as the clip/],
    ["patterns of clips of several lengths", { sites: "blocks.0.attn.hook_pattern" }, /clips have different lengths/],
    ["patterns over several texts", { sites: "blocks.0.cross_attn.hook_pattern" }, /items have different ones/],
    ["no items", { items: [] }, /no items/],
    ["an id that occurs twice", { items: [...ITEMS, { id: "a", codes: codes(5, 1) }] }, /the id of item "a" again/],
    [
      "an item without codes",
      { items: [{ id: "x", text: text(1) }] },
      /item "x": run it teacher-forced: neither codes/,
    ],
    [
      "an item without a text",
      { items: [...ITEMS, { id: "x", codes: codes(5, 1) }] },
      /rows "cond" of item "x": no text/,
    ],
    [
      "codes of another model",
      { items: [{ id: "x", codes: codes(5, 1, 8) }] },
      /item "x": .*8 codebooks, where the model/,
    ],
    [
      "a code out of range",
      { items: [{ id: "x", codes: { ...codes(5, 1), values: new Int32Array(20).fill(9999) } }] },
      /code 9999/,
    ],
    ["clips shorter than a window", { reduction: { window: 60 } }, /windows of 60 s over item "a": only/],
    [
      "clips shorter than the delay",
      { items: [{ id: "x", codes: codes(3, 1) }], reduction: "last" },
      /item "x": 3 frames/,
    ],
    ["moments by a column that isn't there", { reduction: { moments: "variance", by: "mood" } }, /the columns genre/],
    ["codes to generate from", { mode: "generated" }, /item "a".*: codes, which only a teacher-forced pass/],
    ["a shard that isn't there", { shard: { index: 2, of: 2 } }, /shard 2\/2.*0\/2 … 1\/2/],
    ["more shards than items", { shard: { index: 3, of: 9 } }, /only 3 items/],
    ["a budget that is too small", { budget: 1000 }, /they take .* on disk, and the budget is/],
    [
      "no guidance and rows without a text",
      { mode: "generated", guidance: 1, rows: "both", items: [{ id: "a", text: text(1) }] },
      /only the rows with the text are run/,
    ],
  ])("is refused for %s, before it begins", async (_what, options, message) => {
    const started = tf.memory().numTensors;
    const error = await refused({ ...options, onProgress: () => expect.unreachable("the capture began") });
    expect(error).toBeInstanceOf(Error);
    expect(error).toHaveProperty("todo");
    expect(String(error)).toMatch(message);
    expect(tf.memory().numTensors).toBe(started);
  });

  it("tells its size before it is refused: within a tenth of what it takes where there is much of it", async () => {
    const items = Array.from({ length: 3 }, (_, index) => ({ id: `${index}`, codes: codes(60, index) }));
    let bytes = 0;
    const onPlan = ({ bytes: estimated }: { readonly bytes: number }): void => void (bytes = estimated);
    const options = { items, sites: "blocks.*.hook_resid_post", onPlan };
    expect(await refused({ ...options, budget: 0 })).toBeInstanceOf(MemoryError);
    const output = await temporaryDirectory();
    await captureActivations(model, { ...options, output });
    const size = Number(execFileSync("du", ["-sb", output]).toString().split("\t")[0]);
    expect(Math.abs(size - bytes) / size).toBeLessThan(0.1);
  });

  it("is refused where the disk has no room for it", async () => {
    const files: StoreFiles = { ...DISK, freeBytes: () => Promise.resolve(1000) };
    expect(String(await refused({ files }))).toMatch(/its disk has 1000 bytes left/);
  });

  it("is refused into the folder of another model's capture, naming what differs", async () => {
    const output = await temporaryDirectory();
    const common = { output, items: [{ id: "a", codes: codes(5, 1) }], sites: RESID };
    await captureActivations(model, common);
    const other = await MusicGen.load(fixtureDirectory("mono-layers"), { backend: "cpu" });
    const error: unknown = await captureActivations(other, common).catch((caught: unknown) => caught);
    await other.dispose();
    expect(error).toBeInstanceOf(UsageError);
    expect(String(error)).toMatch(/another capture is there, which differs in model/);
    const changed = { ...common, items: [{ id: "a", codes: codes(5, 2) }] };
    await expect(captureActivations(model, changed)).rejects.toThrow(/differs in items/);
  });

  it("stops at a value that float16 can't hold, naming site and item", async () => {
    const push: Hook = { sites: RESID, run: (value) => tf.add(value, 70_000) };
    expect(String(await refused({ hooks: [push], dtype: "f16" }))).toMatch(
      /item "a": capture blocks\.1.*float16 ends at 65504/,
    );
    expect(await refused({ hooks: [push], dtype: "f16" })).toMatchObject({ code: "site" });
    expect(await refused({ sites: "blocks.0.nothing" })).toBeInstanceOf(SiteError);
  });
});

/** Whether python3 has the public safetensors package, or why not. */
function pythonMissing(): string | undefined {
  try {
    execFileSync("python3", ["-c", "import numpy, safetensors.numpy"], { stdio: "pipe" });
    return undefined;
  } catch {
    return "python3 with numpy and safetensors isn't there";
  }
}

const missing = pythonMissing();
if (missing !== undefined) console.log(`skipped: loading a capture from Python: ${missing}`);

describe.skipIf(missing !== undefined)(`Python${missing === undefined ? "" : ` [skipped: ${missing}]`}`, () => {
  it("loads a capture, and its labels, with the lines of docs/capture.md", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const output = await temporaryDirectory();
    const options = { items: ITEMS, sites: RESID, output, reduction: "mean", dtype: "f16", shardBytes: 1 } as const;
    await captureActivations(model, options);
    await model.dispose();
    const guide = await readFile(fileURLToPath(new URL("../../docs/capture.md", import.meta.url)), "utf8");
    const blocks = [...guide.matchAll(/```python\n(.*?)```/gs)].map(([, code]) => code ?? "");
    expect(blocks).toHaveLength(2);
    const lines = blocks.join("").replaceAll("captures/genres", output).replaceAll("blocks.9.hook_resid_post", RESID);
    const shown = "print(json.dumps([len(shards), str(x.dtype), x.astype(float).ravel().tolist(), y]))";
    const file = join(await temporaryDirectory(), "load.py");
    await writeFile(file, `${lines}${shown}\n`);
    const loaded = JSON.parse(execFileSync("python3", [file]).toString()) as unknown;
    const { values } = await (await openCapture(output)).read(RESID);
    expect(loaded).toEqual([3, "float16", [...values], ["jazz", "rock", "jazz"]]);
  });
});
