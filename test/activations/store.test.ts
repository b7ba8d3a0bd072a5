import { copyFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { meanOf } from "../../src/activations/moments.js";
import { openCapture } from "../../src/activations/store.js";
import type { CaptureSettings, Reduction } from "../../src/activations/store-format.js";
import type { ClipRows } from "../../src/activations/store-pending.js";
import { CaptureWriter, DISK, type StoreFiles } from "../../src/activations/store-writer.js";
import { CheckpointError, SiteError, UsageError } from "../../src/errors.js";
import { temporaryDirectory } from "../support/temporary.js";

const SITES = [
  { site: "blocks.0.hook_resid_post", shape: [3] },
  { site: "blocks.0.attn.hook_z", shape: [2, 2] },
];
const IDS = ["a", "b", "c", "d", "e"];

function settings(changes: Partial<CaptureSettings> = {}): CaptureSettings {
  return {
    model: "model-1",
    numerics: { weights: "exact", cache: "f32", compute: "f32" },
    mode: "forced",
    rows: "cond",
    sites: SITES.map(({ site }) => site),
    reduction: "none",
    dtype: "f32",
    frameRate: 50,
    seed: null,
    generation: null,
    steering: null,
    hooks: [],
    provenance: null,
    items: "hash",
    itemCount: IDS.length,
    shard: [0, 1],
    ...changes,
  };
}

/** What clip `id` leaves: as many rows as its place says, plus one; every value tells site, clip, row and column. */
function clip(id: string, reduction: Reduction = "none"): ClipRows {
  const place = IDS.indexOf(id);
  const count = place + 1;
  const values = new Map(
    SITES.map(({ site, shape }, s) => {
      const width = shape.reduce((product, size) => product * size, 1);
      const rows = Float32Array.from({ length: count * width }, (_, index) => 1000 * s + 100 * place + index);
      return [site, new Map([["cond", rows] as const])];
    }),
  );
  const stored = { id, text: `text ${id}`, tokens: null, source: null, frames: 5, promptFrames: 5, seed: null };
  const labels = { genre: place % 2 === 0 ? "jazz" : "rock", tempo: 60 + place };
  const run = {
    item: id,
    role: "cond",
    window: null,
    positions: [0, place],
    seconds: [-0.02, place / 50],
    count,
  } as const;
  return { stored: { ...stored, labels }, runs: typeof reduction === "object" ? [] : [run], values };
}

interface WriteOptions {
  readonly settings?: CaptureSettings;
  readonly files?: StoreFiles;
  readonly ids?: readonly string[];
}

/** Writes all clips, a shard after every second one. Goes on with what is there. */
async function write(directory: string, { settings: chosen = settings(), files = DISK, ids = IDS }: WriteOptions = {}) {
  const columns = { genre: "string", tempo: "number" } as const;
  const writer = await CaptureWriter.open(directory, chosen, columns, SITES, ids, files);
  for (const id of ids.slice(writer.written)) {
    writer.add(clip(id, chosen.reduction));
    if (writer.pendingBytes > 100 || IDS.indexOf(id) % 2 === 1) await writer.flush("cpu");
  }
  await writer.finish("cpu");
}

/** Everything that a reader sees. */
async function content(directories: string | readonly string[]) {
  const capture = await openCapture(directories);
  const matrices = await Promise.all(capture.sites.map(({ site }) => capture.read(site)));
  return { rows: capture.rows, items: capture.items, matrices };
}

describe("a capture on disk", () => {
  it("gives back rows, labels and values as they were written, over several files", async () => {
    const directory = await temporaryDirectory();
    await write(directory);
    expect((await readdir(directory)).toSorted()).toEqual([
      "activations-00000.safetensors",
      "activations-00001.safetensors",
      "activations-00002.safetensors",
      "index.json",
    ]);
    const capture = await openCapture(directory);
    expect(capture.complete).toBe(true);
    expect(capture.rowCount).toBe(1 + 2 + 3 + 4 + 5);
    expect(capture.columns).toEqual({ genre: "string", tempo: "number" });
    expect(capture.shapeOf("blocks.0.attn.hook_z")).toEqual([2, 2]);
    expect(capture.rows[4]).toEqual({
      ...{ row: 4, item: "c", role: "cond", window: null, positions: [1, 1], seconds: [0, 0.02] },
      labels: { genre: "jazz", tempo: 62 },
    });
    const { values, rows, width } = await capture.read("blocks.0.hook_resid_post");
    expect([rows, width]).toEqual([15, 3]);
    expect([...values.subarray(12, 18)]).toEqual([203, 204, 205, 206, 207, 208]); // rows 4 and 5: c's last two
  });

  it("reads chosen rows in the order asked for, and the same batch by batch", async () => {
    const directory = await temporaryDirectory();
    await write(directory);
    const capture = await openCapture(directory);
    const site = "blocks.0.attn.hook_z";
    const whole = await capture.read(site);
    const wanted = [14, 3, 4, 5, 0, 3];
    const chosen = await capture.read(site, { rows: wanted });
    wanted.forEach((row, at) =>
      expect(chosen.values.subarray(4 * at, 4 * at + 4)).toEqual(whole.values.subarray(4 * row, 4 * row + 4)),
    );
    const batched: number[] = [];
    const sizes: number[] = [];
    for await (const { values, indices } of capture.batches(site, { size: 4 })) {
      batched.push(...values);
      sizes.push(indices.length);
    }
    expect(sizes).toEqual([4, 4, 4, 3]);
    expect(Float32Array.from(batched)).toEqual(whole.values);
  });

  it("refuses sites and rows that it has not, and moments of rows", async () => {
    const directory = await temporaryDirectory();
    await write(directory);
    const capture = await openCapture(directory);
    await expect(capture.read("blocks.1.hook_resid_post")).rejects.toThrow(SiteError);
    await expect(capture.read("blocks.0.attn.hook_z", { rows: [15] })).rejects.toThrow(/Rows go from 0 to 14/);
    await expect(capture.moments("blocks.0.attn.hook_z")).rejects.toThrow(/a capture of rows/);
    await expect(capture.batches("blocks.0.attn.hook_z", { size: 0 }).next()).rejects.toThrow(/batches of 0 rows/);
  });

  it("of float16 is widened exactly", async () => {
    const directory = await temporaryDirectory();
    await write(directory, { settings: settings({ dtype: "f16" }) });
    const wide = await temporaryDirectory();
    await write(wide);
    expect((await content(directory)).matrices).toEqual((await content(wide)).matrices); // whole numbers up to 2048
  });

  it("refuses a folder that is none, a damaged index and a newer format", async () => {
    await expect(openCapture("nowhere")).rejects.toThrow(CheckpointError);
    await expect(openCapture([])).rejects.toThrow(/no folder/);
    const directory = await temporaryDirectory();
    for (const [text, message] of [
      ["{", /not JSON/],
      ["[]", /not an object/],
      ['{"format":"other"}', /not the index of a capture/],
      ['{"format":"tonearm-capture","version":2}', /version 2 of the format/],
      ['{"format":"tonearm-capture","version":1,"complete":true}', /parts missing/],
    ] as const) {
      await writeFile(join(directory, "index.json"), text);
      await expect(openCapture(directory)).rejects.toThrow(message);
    }
  });
});

describe("shards of one capture", () => {
  async function shards(): Promise<readonly [string, string]> {
    const [even, odd] = [await temporaryDirectory(), await temporaryDirectory()];
    await write(even, { settings: settings({ shard: [0, 2] }), ids: ["a", "c", "e"] });
    await write(odd, { settings: settings({ shard: [1, 2] }), ids: ["b", "d"] });
    return [even, odd];
  }

  it("open as one, in the shards' order whatever the folders' is", async () => {
    const [even, odd] = await shards();
    const merged = await content([odd, even]);
    expect(merged).toEqual(await content([even, odd]));
    expect(merged.items.map(({ id }) => id)).toEqual(["a", "c", "e", "b", "d"]);
    expect(merged.rows.map(({ row }) => row)).toEqual(Array.from({ length: 15 }, (_, row) => row));
    const single = await temporaryDirectory();
    await write(single);
    const whole = await openCapture(single);
    const capture = await openCapture([even, odd]);
    for (const { site } of SITES) {
      for (const id of IDS) {
        const of = async (from: typeof capture) =>
          from.read(site, { rows: from.rows.filter(({ item }) => item === id).map(({ row }) => row) });
        expect(await of(capture)).toEqual(await of(whole));
      }
    }
  });

  it("are refused where one is missing, comes twice or is of another capture", async () => {
    const [even, odd] = await shards();
    await expect(openCapture(even)).rejects.toThrow(/shard 1\/2 missing/);
    await expect(openCapture([even, even, odd])).rejects.toThrow(/shard 0\/2 twice/);
    expect((await openCapture(even, { partial: true })).complete).toBe(false);
    const other = await temporaryDirectory();
    await write(other, { settings: settings({ shard: [1, 2], model: "model-2" }), ids: ["b", "d"] });
    await expect(openCapture([even, other])).rejects.toThrow(/differ in model \("model-1", here "model-2"\)/);
    const third = await temporaryDirectory();
    await write(third, { settings: settings({ shard: [1, 3] }), ids: ["b", "e"] });
    await expect(openCapture([even, third])).rejects.toThrow(/two divisions/);
  });
});

describe("sums on disk", () => {
  const reduction = { moments: "variance", by: "genre" } as const;

  it("are one file of float64, by group, and add up over shards", async () => {
    const [whole, even, odd] = [await temporaryDirectory(), await temporaryDirectory(), await temporaryDirectory()];
    await write(whole, { settings: settings({ reduction }) });
    await write(even, { settings: settings({ reduction, shard: [0, 2] }), ids: ["a", "c", "e"] });
    await write(odd, { settings: settings({ reduction, shard: [1, 2] }), ids: ["b", "d"] });
    expect((await readdir(whole)).toSorted()).toEqual(["activations-00000.safetensors", "index.json"]);
    const capture = await openCapture(whole);
    expect(capture.rowCount).toBe(0);
    const [jazz, rock] = await capture.moments("blocks.0.hook_resid_post");
    expect(jazz).toMatchObject({ role: "cond", label: "jazz", count: 1 + 3 + 5, width: 3 });
    expect(rock).toMatchObject({ role: "cond", label: "rock", count: 2 + 4 });
    // b: 100 … 105 in two rows, d: 300 … 311 in four
    expect(rock && [...meanOf(rock)]).toEqual([0, 1, 2].map((i) => (100 + 103 + 300 + 303 + 306 + 309) / 6 + i));
    const merged = await openCapture([even, odd]);
    expect(await merged.moments("blocks.0.attn.hook_z")).toEqual(await capture.moments("blocks.0.attn.hook_z"));
    await expect(capture.read("blocks.0.hook_resid_post")).rejects.toThrow(/keeps no rows/);
  });
});

describe("a writer that is killed", () => {
  class Killed extends Error {}

  /** The real disk, that stops at the n-th write: before it, halfway through it or after it. */
  function killing(at: number, when: "before" | "halfway" | "after"): { files: StoreFiles; writes: () => number } {
    let writes = 0;
    const guard = async (path: string, write: () => Promise<void>): Promise<void> => {
      const last = writes++ === at;
      if (last && when === "halfway") await writeFile(`${path}.0123456789ab.partial`, "half a file");
      if (last && when !== "after") throw new Killed();
      await write();
      if (last) throw new Killed();
    };
    const files: StoreFiles = {
      ...DISK,
      writeShard: (path, ...rest) => guard(path, () => DISK.writeShard(path, ...rest)),
      writeIndex: (path, text) => guard(path, () => DISK.writeIndex(path, text)),
    };
    return { files, writes: () => writes };
  }

  for (const reduction of ["none", { moments: "covariance", by: "genre" }] as const) {
    for (const when of ["before", "halfway", "after"] as const) {
      it(`${when} any write goes on with nothing lost or doubled (${JSON.stringify(reduction)})`, async () => {
        const chosen = settings({ reduction });
        const expected = await temporaryDirectory();
        const counted = killing(-1, when);
        await write(expected, { settings: chosen, files: counted.files });
        expect(counted.writes()).toBe(5); // index, three shards, index
        for (let at = 0; at < counted.writes(); at++) {
          const directory = await temporaryDirectory();
          await expect(write(directory, { settings: chosen, files: killing(at, when).files })).rejects.toThrow(Killed);
          await write(directory, { settings: chosen });
          expect((await readdir(directory)).toSorted()).toEqual((await readdir(expected)).toSorted());
          if (reduction === "none") {
            expect(await content(directory)).toEqual(await content(expected));
          } else {
            for (const { site } of SITES) {
              const sums = (await openCapture(directory)).moments(site);
              expect(await sums).toEqual(await (await openCapture(expected)).moments(site));
            }
          }
        }
      });
    }
  }

  it("leaves what can be read as a part, and is refused as a whole", async () => {
    const directory = await temporaryDirectory();
    await expect(write(directory, { files: killing(2, "before").files })).rejects.toThrow(Killed);
    await expect(openCapture(directory)).rejects.toThrow(/not complete: 2 items so far, of 5/);
    const part = await openCapture(directory, { partial: true });
    expect(part.complete).toBe(false);
    expect(part.items.map(({ id }) => id)).toEqual(["a", "b"]);
    expect((await part.read("blocks.0.hook_resid_post")).rows).toBe(3);
  });

  it("by a full disk says so, and how far it came; the next run goes on", async () => {
    const directory = await temporaryDirectory();
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    let shards = 0;
    const files: StoreFiles = {
      ...DISK,
      writeShard: async (path, ...rest) => {
        if (shards++ === 1) throw new CheckpointError({ asked: "write", found: "ENOSPC", todo: "…", cause: full });
        return DISK.writeShard(path, ...rest);
      },
    };
    const error: unknown = await write(directory, { files }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(/its disk is full, with 2 of 5 items written.*run the same command again/);
    await write(directory);
    const expected = await temporaryDirectory();
    await write(expected);
    expect(await content(directory)).toEqual(await content(expected));
  });
});

describe("a folder that holds something else", () => {
  it("is refused, naming what differs", async () => {
    const directory = await temporaryDirectory();
    await write(directory);
    for (const [changes, message] of [
      [{ model: "model-2" }, /another capture is there, which differs in model \("model-1", here "model-2"\)/],
      [{ rows: "null", dtype: "f16" }, /differs in rows \("cond", here "null"\), dtype \("f32", here "f16"\)/],
      [{ reduction: "mean" }, /differs in reduction \("none", here "mean"\)/],
      [{ sites: [SITES[0]?.site ?? ""] }, /differs in sites \(blocks\.0\.attn\.hook_z not here\)/],
      [{ shard: [0, 2] }, /differs in shard \(\[0,1\], here \[0,2\]\)/],
    ] as const) {
      await expect(write(directory, { settings: settings(changes) })).rejects.toThrow(message);
      await expect(write(directory, { settings: settings(changes) })).rejects.toThrow(UsageError);
    }
    const untouched = await temporaryDirectory();
    await write(untouched);
    expect(await content(directory)).toEqual(await content(untouched));
  });

  it("is taken over where that never came to a shard", async () => {
    const directory = await temporaryDirectory();
    await CaptureWriter.open(directory, settings({ model: "model-2" }), {}, SITES, IDS);
    await write(directory);
    expect((await openCapture(directory)).settings.model).toBe("model-1");
  });

  it("is refused where shards have no index, one is missing, or one is another capture's", async () => {
    const directory = await temporaryDirectory();
    await write(directory);
    const index = join(directory, "index.json");
    await rm(index);
    await expect(write(directory)).rejects.toThrow(/activations-00000\.safetensors, but no index\.json/);

    const holed = await temporaryDirectory();
    await write(holed);
    await rm(join(holed, "activations-00001.safetensors"));
    await expect(write(holed)).rejects.toThrow(/no activations-00001\.safetensors/);

    const mixed = await temporaryDirectory();
    await write(mixed);
    const other = await temporaryDirectory();
    await write(other, { settings: settings({ model: "model-2" }) });
    await rm(join(mixed, "index.json"));
    await copyFile(join(other, "index.json"), join(mixed, "index.json"));
    await expect(write(mixed, { settings: settings({ model: "model-2" }) })).rejects.toThrow(/of another capture/);
  });
});
