import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { SafetensorsFile } from "../checkpoint/safetensors.js";
import { CheckpointError, SiteError, UsageError } from "../errors.js";
import type { Moments } from "./moments.js";
import { mergeMoments } from "./moments.js";
import {
  hashSettings,
  INDEX_FILE,
  isMoments,
  parseIndex,
  parseShardTable,
  shardKind,
  shardName,
  type CaptureIndex,
  type CaptureRole,
  type CaptureSettings,
  type Label,
  type Labels,
  type StoredGroup,
  type StoredItem,
  type StoredShard,
  type StoredSite,
} from "./store-format.js";

/** Reading captures: one folder, or the folders of all shards as one. */

/** One row of every site of a capture: what it was computed from. */
export interface CaptureRow {
  readonly row: number; // from 0
  readonly item: string; // id of the clip
  readonly role: CaptureRole;
  readonly window: number | null; // its number within the clip, from 0
  readonly positions: readonly [first: number, last: number]; // absolute, 0 being the BOS column; both included
  readonly seconds: readonly [start: number, end: number]; // of the sound
  readonly labels: Labels; // of the clip
}

/** Rows of one site, row-major: `tf.tensor2d(values, [rows, width])` makes a matrix of them. */
export interface CaptureMatrix {
  readonly values: Float32Array<ArrayBuffer>; // [rows, width]
  readonly rows: number;
  readonly width: number; // product of the site's shape
}

/** Some rows of one site, and which. */
export interface CaptureBatch extends CaptureMatrix {
  readonly indices: readonly number[]; // into `capture.rows`
}

/** Sums over a group of items. */
export interface CaptureMoments extends Moments {
  readonly role: CaptureRole;
  readonly label: Label | undefined; // undefined: all items in one group
}

/** How captures are opened. */
export interface OpenCaptureOptions {
  /** Accept captures that are still being written, and sets with shards missing. Default: false. */
  readonly partial?: boolean | undefined;
}

const DEFAULT_BATCH = 1024;

/**
 * Opens a capture: the folder that `captureActivations` wrote, or those of all its shards, whose rows then follow each
 * other in the shards' order.
 *
 * ```ts
 * const capture = await openCapture("captures/genre");
 * const { values, rows, width } = await capture.read("blocks.3.hook_resid_post");
 * const labels = capture.rows.map((row) => row.labels["genre"]);
 * ```
 *
 * @throws {CheckpointError} if a folder holds no capture, or a damaged one; {@link UsageError} naming what differs if the
 *   folders are not of one capture, a shard is missing or given twice, or a capture is not complete.
 */
export async function openCapture(
  directories: string | readonly string[],
  { partial = false }: OpenCaptureOptions = {},
): Promise<Capture> {
  const given = [directories].flat();
  const parts = await Promise.all(given.map((directory) => openPart(directory, partial)));
  parts.sort((a, b) => a.index.settings.shard[0] - b.index.settings.shard[0]);
  const [first, ...others] = parts;
  if (!first) {
    throw new UsageError({ asked: "open a capture", found: "no folder", todo: "Give the folder of a capture" });
  }
  for (const other of others) requireSameCapture(first, other);
  requireAllShards(parts, partial);
  return new Capture([first, ...others]);
}

/** One folder. */
interface Part {
  readonly directory: string;
  readonly index: CaptureIndex;
}

/** An open capture. Files are opened while they are read, so there is nothing to close. */
export class Capture {
  readonly settings: CaptureSettings;
  readonly sites: readonly StoredSite[];
  readonly columns: CaptureIndex["columns"]; // of the labels, and their types
  readonly items: readonly StoredItem[];
  readonly complete: boolean;
  readonly #parts: readonly Part[];
  readonly #rowCount: number;
  #rows: readonly CaptureRow[] | undefined;

  constructor(parts: readonly [Part, ...Part[]]) {
    const [first] = parts;
    this.#parts = parts;
    this.settings = first.index.settings;
    this.sites = first.index.sites;
    this.columns = Object.assign({}, ...parts.map(({ index }) => index.columns)) as CaptureIndex["columns"];
    this.items = parts.flatMap(({ index }) => index.items);
    this.complete = parts.every(({ index }) => index.complete) && parts.length === this.settings.shard[1];
    this.#rowCount = parts.reduce((sum, part) => sum + rowsOf(part), 0);
  }

  /** How many rows each site has. 0 where moments were captured. */
  get rowCount(): number {
    return this.#rowCount;
  }

  /** What each row is. The same for every site. */
  get rows(): readonly CaptureRow[] {
    this.#rows ??= expandRows(this.#parts);
    return this.#rows;
  }

  /** The shape of one row of a site. @throws {SiteError} if the site was not captured. */
  shapeOf(site: string): readonly number[] {
    const found = this.sites.find((entry) => entry.site === site);
    if (found) return found.shape;
    const names = this.sites.map((entry) => entry.site);
    throw new SiteError({
      asked: `read "${site}" from a capture`,
      found: `${names.length} other sites: ${names.slice(0, 5).join(", ")}${names.length > 5 ? " …" : ""}`,
      todo: "Add the site to the selection that was captured",
    });
  }

  /**
   * Reads rows of a site, all by default, in the order asked for. float16 is widened exactly.
   *
   * @param rows indices into {@link rows}; one may occur twice
   * @throws {SiteError} if the site was not captured; {@link UsageError} if a row doesn't exist or moments were captured;
   *   {@link CheckpointError} if a file is damaged.
   */
  async read(site: string, { rows }: { readonly rows?: readonly number[] } = {}): Promise<CaptureMatrix> {
    const width = this.#widthOf(site);
    if (rows) this.#requireRows(rows);
    const count = rows?.length ?? this.#rowCount;
    const values = new Float32Array(count * width);
    for (const shard of this.#shardRanges()) {
      const whole = { at: shard.first, first: shard.first, count: shard.rows };
      const runs = rows ? runsWithin(rows, shard.first, shard.rows) : [whole];
      if (runs.length === 0) continue;
      await withFile(shard.path, async (file) => {
        for (const run of runs) {
          const range = { first: (run.first - shard.first) * width, count: run.count * width };
          values.set(await file.floats(site, range), run.at * width);
        }
      });
    }
    return { values, rows: count, width };
  }

  /**
   * Reads rows of a site batch by batch, for what is larger than memory. Rows come in the order asked for: to shuffle,
   * give shuffled `rows`; consecutive ones are read at once.
   *
   * @param size rows of a batch; the last one may have fewer
   * @throws as {@link read}
   */
  async *batches(
    site: string,
    { rows, size = DEFAULT_BATCH }: { readonly rows?: readonly number[]; readonly size?: number } = {},
  ): AsyncGenerator<CaptureBatch, void, void> {
    if (!Number.isInteger(size) || size < 1) {
      throw new UsageError({ asked: `batches of ${size} rows`, found: "no whole number from 1 up", todo: "Give one" });
    }
    const wanted = rows ?? range(this.#rowCount);
    this.#requireRows(wanted);
    for (let start = 0; start < wanted.length; start += size) {
      const indices = wanted.slice(start, start + size);
      yield { indices, ...(await this.read(site, { rows: indices })) };
    }
  }

  /**
   * The sums of a site, one for each role and group, added up over all shards; `meanOf`, `varianceOf` and `covarianceOf`
   * read them.
   *
   * @throws {SiteError} if the site was not captured; {@link UsageError} if rows were captured instead of moments.
   */
  async moments(site: string): Promise<readonly CaptureMoments[]> {
    const width = this.shapeOf(site).reduce((product, size) => product * size, 1);
    if (!isMoments(this.settings.reduction)) {
      throw new UsageError({
        asked: `read the moments of "${site}"`,
        found: "a capture of rows",
        todo: "Use read(), or capture with the reduction moments",
      });
    }
    const merged = new Map<string, CaptureMoments>();
    for (const { directory, index } of this.#parts) {
      for (const { file } of index.shards) {
        for (const group of await readGroups(join(directory, file), site, width, index.groups)) {
          const key = JSON.stringify([group.role, group.label]);
          const before = merged.get(key);
          merged.set(key, before ? { ...before, ...mergeMoments(before, group) } : group);
        }
      }
    }
    return [...merged.values()];
  }

  #widthOf(site: string): number {
    const shape = this.shapeOf(site);
    if (!isMoments(this.settings.reduction)) return shape.reduce((product, size) => product * size, 1);
    throw new UsageError({
      asked: `read rows of "${site}"`,
      found: "a capture of moments, which keeps no rows",
      todo: "Use moments(), or capture with another reduction",
    });
  }

  #requireRows(rows: readonly number[]): void {
    const bad = rows.find((row) => !Number.isInteger(row) || row < 0 || row >= this.#rowCount);
    if (bad === undefined) return;
    throw new UsageError({
      asked: `read row ${bad} of a capture`,
      found: `${this.#rowCount} rows`,
      todo: this.#rowCount === 0 ? "The capture is empty" : `Rows go from 0 to ${this.#rowCount - 1}`,
    });
  }

  /** Where the rows of each file begin. */
  #shardRanges(): readonly { readonly path: string; readonly first: number; readonly rows: number }[] {
    let first = 0;
    return this.#parts.flatMap(({ directory, index }) =>
      index.shards.map(({ file, rows }) => {
        const range = { path: join(directory, file), first, rows };
        first += rows;
        return range;
      }),
    );
  }
}

/** The tensors of a moments file: for each site `.sum` [G, W] and `.squares` [G, W] or [G, W, W], in float64. */
async function readGroups(
  path: string,
  site: string,
  width: number,
  groups: readonly StoredGroup[],
): Promise<readonly CaptureMoments[]> {
  return withFile(path, async (file) => {
    const sums = await file.doubles(`${site}.sum`);
    const squares = await file.doubles(`${site}.squares`);
    const size = squares.length / groups.length;
    return groups.map(({ role, label, count }, group) => ({
      role,
      label,
      count,
      width,
      sum: sums.slice(group * width, (group + 1) * width),
      squares: squares.slice(group * size, (group + 1) * size),
    }));
  });
}

async function withFile<Result>(path: string, use: (file: SafetensorsFile) => Promise<Result>): Promise<Result> {
  const file = await SafetensorsFile.open(path);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/** A stretch of consecutive wanted rows. */
interface Run {
  readonly at: number; // place in the result
  readonly first: number; // row of the capture
  readonly count: number;
}

/** The wanted rows that lie in a shard, consecutive ones joined. */
function runsWithin(wanted: readonly number[], first: number, rows: number): readonly Run[] {
  const runs: Run[] = [];
  wanted.forEach((row, at) => {
    if (row < first || row >= first + rows) return;
    const last = runs.at(-1);
    const continues = last && last.first + last.count === row && last.at + last.count === at;
    if (continues) runs[runs.length - 1] = { ...last, count: last.count + 1 };
    else runs.push({ at, first: row, count: 1 });
  });
  return runs;
}

function expandRows(parts: readonly Part[]): readonly CaptureRow[] {
  const expanded: CaptureRow[] = [];
  for (const { index } of parts) {
    const labels = new Map(index.items.map((item) => [item.id, item.labels]));
    const { frameRate } = index.settings;
    for (const { item, role, window, positions, seconds, count } of index.rows) {
      const shared = { item, role, window, labels: labels.get(item) ?? {} };
      if (index.settings.reduction !== "none") {
        expanded.push({ row: expanded.length, ...shared, positions, seconds });
        continue;
      }
      for (let position = positions[0]; position < positions[0] + count; position++) {
        const place: [number, number] = [(position - 1) / frameRate, position / frameRate];
        expanded.push({ row: expanded.length, ...shared, positions: [position, position], seconds: place });
      }
    }
  }
  return expanded;
}

function rowsOf({ index }: Part): number {
  return isMoments(index.settings.reduction) ? 0 : index.shards.reduce((sum, { rows }) => sum + rows, 0);
}

async function openPart(directory: string, partial: boolean): Promise<Part> {
  const path = join(directory, INDEX_FILE);
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new CheckpointError({
      asked: `open the capture ${directory}`,
      found,
      todo: "Give a folder that `tonearm capture` wrote",
      cause,
    });
  });
  const index = parseIndex(text, path);
  if (index.complete) return { directory, index };
  const soFar = await readShards(directory, index);
  if (partial) return { directory, index: soFar };
  throw new UsageError({
    asked: `open the capture ${directory}`,
    found: `it is not complete: ${soFar.items.length} items so far, of ${index.settings.itemCount} in all shards`,
    todo: "Run the same capture command again, which goes on where it stopped, or open it with partial: true",
  });
}

/**
 * The index of an unfinished capture, put together from the tables that its shards carry.
 *
 * @throws {CheckpointError} if a shard is damaged, missing or another capture's.
 */
export async function readShards(directory: string, index: CaptureIndex): Promise<CaptureIndex> {
  const files = (await readdir(directory)).filter((file) => shardKind(file) === "shard").toSorted();
  const items: StoredItem[] = [];
  const rows: CaptureIndex["rows"][number][] = [];
  const groups: StoredGroup[] = [];
  const shards: StoredShard[] = [];
  const hash = hashSettings(index.settings);
  for (const [at, file] of files.entries()) {
    const path = join(directory, file);
    const table = await withFile(path, async ({ metadata }) => parseShardTable(metadata, path));
    const found =
      file !== shardName(at) ? `no ${shardName(at)}` : table.settings !== hash ? `${file} of another capture` : "";
    if (found !== "") {
      const todo = "Remove the folder and capture anew";
      throw new CheckpointError({ asked: `read the capture in ${directory}`, found, todo });
    }
    items.push(...table.items);
    rows.push(...table.rows);
    groups.push(...table.groups);
    const count = table.rows.reduce((sum, run) => sum + run.count, 0);
    shards.push({ file, rows: count, backend: table.backend, tonearm: table.tonearm });
  }
  return { ...index, items, rows, groups, shards };
}

/** The names of the settings in which two captures differ, with both values. */
export function settingsThatDiffer(a: CaptureSettings, b: CaptureSettings): readonly string[] {
  const names = Object.keys({ ...a, ...b }) as (keyof CaptureSettings)[];
  return names.flatMap((name) => {
    const [left, right] = [JSON.stringify(a[name]), JSON.stringify(b[name])];
    if (left === right) return [];
    const sites = [...onlyIn(a.sites, b.sites, "not here"), ...onlyIn(b.sites, a.sites, "only here")];
    if (name === "sites" && sites.length > 0) return [`sites (${sites.join(", ")})`];
    return [`${name} (${shorten(left)}, here ${shorten(right)})`];
  });
}

function onlyIn(a: readonly string[], b: readonly string[], where: string): readonly string[] {
  const [first, ...more] = a.filter((site) => !b.includes(site));
  if (first === undefined) return [];
  return [`${first}${more.length > 0 ? ` and ${more.length} more` : ""} ${where}`];
}

function shorten(text: string | undefined): string {
  if (text === undefined) return "none";
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function requireSameCapture(first: Part, other: Part): void {
  const shard = first.index.settings.shard;
  const differing = settingsThatDiffer(first.index.settings, { ...other.index.settings, shard });
  if (differing.length > 0) {
    throw new UsageError({
      asked: `open ${first.directory} and ${other.directory} as one capture`,
      found: `they differ in ${differing.join(", ")}`,
      todo: "Give shards of one capture",
    });
  }
}

function requireAllShards(parts: readonly Part[], partial: boolean): void {
  const of = parts[0]?.index.settings.shard[1] ?? 1;
  const numbers = parts.map(({ index }) => index.settings.shard[0]);
  const twice = parts.find(({ index }, at) => numbers.indexOf(index.settings.shard[0]) !== at);
  const refuse = (found: string, todo: string): never => {
    throw new UsageError({ asked: `open ${parts.map(({ directory }) => directory).join(", ")}`, found, todo });
  };
  if (twice) refuse(`shard ${twice.index.settings.shard.join("/")} twice`, "Give each shard once");
  if (parts.some(({ index }) => index.settings.shard[1] !== of)) refuse("shards of two divisions", "Give one set");
  const missing = range(of).filter((shard) => !numbers.includes(shard));
  if (missing.length > 0 && !partial) {
    const names = missing.map((shard) => `${shard}/${of}`).join(", ");
    refuse(`shard ${names} missing`, "Give the folders of all shards as a list, or open them with partial: true");
  }
}

function range(count: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => index);
}
