import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, statfs } from "node:fs/promises";
import { join } from "node:path";

import { writeSafetensors, type NamedTensor } from "../checkpoint/safetensors.js";
import { CheckpointError, UsageError } from "../errors.js";
import { VERSION } from "../version.js";
import {
  FORMAT,
  FORMAT_VERSION,
  hashSettings,
  INDEX_FILE,
  isMoments,
  parseIndex,
  SHARD_KEY,
  shardKind,
  shardName,
  type CaptureIndex,
  type CaptureSettings,
  type ShardTable,
  type StoredItem,
  type StoredRun,
  type StoredSite,
} from "./store-format.js";
import { PendingMoments, PendingRows, type ClipRows, type Pending } from "./store-pending.js";
import { readShards, settingsThatDiffer } from "./store.js";

/**
 * Writing captures so that a kill at any moment loses no finished shard and doubles no row.
 *
 * There is one moment that counts: the renaming of a complete shard, which carries the table of its rows. What is on disk
 * is therefore always a whole number of clips, and the next run goes on with the clip after them. Rows go to one shard
 * after another; moments to one file that is replaced each time.
 */

/** The file system as the writer needs it; tests put a failing one in its place. */
export interface StoreFiles {
  /** Writes a file that appears under its name only when it is complete. */
  writeShard(path: string, tensors: readonly NamedTensor[], metadata: Readonly<Record<string, string>>): Promise<void>;
  /** The same for a text. */
  writeIndex(path: string, text: string): Promise<void>;
  /** Free bytes on the disk of a folder. */
  freeBytes(directory: string): Promise<number>;
}

/** The real one. */
export const DISK: StoreFiles = {
  writeShard: writeSafetensors,
  writeIndex: writeTextAtomically,
  freeBytes: async (directory) => {
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize;
  },
};

/** A capture that is being written. */
export class CaptureWriter {
  readonly directory: string;
  readonly #index: CaptureIndex;
  readonly #files: StoreFiles;
  readonly #hash: string;
  readonly #makePending: () => Pending;
  readonly #shards: CaptureIndex["shards"][number][];
  readonly #rows: StoredRun[];
  readonly #items: StoredItem[];
  #written: number; // items that are in shards
  #writtenRuns: number;
  #rowCount: number;
  #pending: Pending;

  private constructor(directory: string, soFar: CaptureIndex, files: StoreFiles, pending: () => Pending) {
    this.directory = directory;
    this.#index = soFar;
    this.#files = files;
    this.#hash = hashSettings(soFar.settings);
    this.#makePending = pending;
    this.#pending = pending();
    this.#shards = [...soFar.shards];
    this.#rows = [...soFar.rows];
    this.#items = [...soFar.items];
    this.#written = soFar.items.length;
    this.#writtenRuns = soFar.rows.length;
    this.#rowCount = soFar.rows.reduce((sum, { count }) => sum + count, 0);
  }

  /**
   * Begins a capture in a folder, which is made if need be, or goes on with the one that is there.
   *
   * @param ids of the clips, in order: what is there must be the first of them
   * @throws {UsageError} naming what differs if the folder holds a capture with other settings; {@link CheckpointError} if
   *   it holds a damaged one or can't be written to.
   */
  static async open(
    directory: string,
    settings: CaptureSettings,
    columns: CaptureIndex["columns"],
    sites: readonly StoredSite[],
    ids: readonly string[],
    files: StoreFiles = DISK,
  ): Promise<CaptureWriter> {
    const shapes = sites.map(({ site, shape }) => ({ site, shape }));
    const empty = { items: [], rows: [], groups: [], shards: [] };
    const fresh = { format: FORMAT, version: FORMAT_VERSION, tonearm: VERSION, complete: false, settings } as const;
    const index: CaptureIndex = { ...fresh, columns, sites: shapes, ...empty };
    await makeFolder(directory);
    const existing = await existingIndex(directory, settings);
    if (existing) requireSameSettings(existing, settings, directory);
    else {
      await requireNoShards(directory);
      await explainFullDisk(directory, 0, ids.length, files.writeIndex(join(directory, INDEX_FILE), toJson(index)));
    }
    const soFar = await readShards(directory, existing ?? index);
    requireContinuation(soFar, ids, directory);
    await removePartials(directory);
    const { reduction, dtype } = settings;
    if (!isMoments(reduction)) return new CaptureWriter(directory, soFar, files, () => new PendingRows(shapes, dtype));
    const sums = await PendingMoments.resume(directory, shapes, reduction, soFar);
    return new CaptureWriter(directory, soFar, files, () => sums);
  }

  /** How many clips are in finished shards. */
  get written(): number {
    return this.#written;
  }

  /** How many rows each site has, those that wait included. */
  get rows(): number {
    return this.#rowCount;
  }

  /** Whether the index has been finished, by this run or one before. */
  get complete(): boolean {
    return this.#index.complete;
  }

  /** Bytes that wait to be written. */
  get pendingBytes(): number {
    return this.#pending.bytes;
  }

  /** Takes the rows of the next clip. */
  add(clip: ClipRows): void {
    for (const run of clip.runs) {
      this.#rows.push({ ...run, first: this.#rowCount });
      this.#rowCount += run.count;
    }
    this.#items.push(clip.stored);
    this.#pending.add(clip);
  }

  /**
   * Writes what waits as a shard.
   *
   * @throws {CheckpointError} if it can't be written; a full disk is named, and how far the capture is.
   */
  async flush(backend: string): Promise<void> {
    if (this.#items.length === this.#written) return;
    const cumulative = isMoments(this.#index.settings.reduction);
    const file = shardName(cumulative ? 0 : this.#shards.length);
    const rows = cumulative ? [] : this.#rows.slice(this.#writtenRuns);
    const table: ShardTable = {
      version: FORMAT_VERSION,
      settings: this.#hash,
      backend,
      tonearm: VERSION,
      items: this.#items.slice(cumulative ? 0 : this.#written),
      rows,
      groups: this.#pending.groups,
    };
    const metadata = { format: FORMAT, [SHARD_KEY]: JSON.stringify(table) };
    const write = this.#files.writeShard(join(this.directory, file), this.#pending.tensors(), metadata);
    await explainFullDisk(this.directory, this.#written, this.#index.settings.itemCount, write);
    if (cumulative) this.#shards.length = 0;
    this.#shards.push({ file, rows: rows.reduce((sum, { count }) => sum + count, 0), backend, tonearm: VERSION });
    this.#written = this.#items.length;
    this.#writtenRuns = this.#rows.length;
    this.#pending = this.#makePending();
  }

  /** Writes what waits and the finished index. @throws {CheckpointError} as {@link flush}. */
  async finish(backend: string): Promise<void> {
    await this.flush(backend);
    const index: CaptureIndex = {
      ...this.#index,
      complete: true,
      items: this.#items,
      rows: this.#rows,
      groups: this.#pending.groups,
      shards: this.#shards,
    };
    const write = this.#files.writeIndex(join(this.directory, INDEX_FILE), toJson(index));
    await explainFullDisk(this.directory, this.#written, this.#index.settings.itemCount, write);
  }
}

/** One line for each setting, and one for each entry of a table. */
function toJson(index: CaptureIndex): string {
  const fields = Object.entries(index).map(([name, value]: [string, unknown]) => {
    const entries = Array.isArray(value) ? value.map((entry: unknown) => `  ${JSON.stringify(entry)}`) : [];
    const text = entries.length > 0 ? `[\n${entries.join(",\n")}\n ]` : JSON.stringify(value);
    return ` ${JSON.stringify(name)}: ${text}`;
  });
  return `{\n${fields.join(",\n")}\n}\n`;
}

async function makeFolder(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true }).catch((cause: unknown) => {
    throw new UsageError({
      asked: `capture into ${directory}`,
      found: messageOf(cause),
      todo: "Give a folder that can be made and written to",
      cause,
    });
  });
}

/** The index that is there. One of other settings that never came to a shard claims nothing and is passed over. */
async function existingIndex(directory: string, settings: CaptureSettings): Promise<CaptureIndex | undefined> {
  const path = join(directory, INDEX_FILE);
  const text = await readFile(path, "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  const index = parseIndex(text, path);
  const same = settingsThatDiffer(index.settings, settings).length === 0;
  const shards = (await readdir(directory)).filter((file) => shardKind(file) === "shard");
  return !same && !index.complete && shards.length === 0 ? undefined : index;
}

function requireSameSettings(existing: CaptureIndex, settings: CaptureSettings, directory: string): void {
  const differing = settingsThatDiffer(existing.settings, settings);
  if (differing.length === 0) return;
  throw new UsageError({
    asked: `capture into ${directory}`,
    found: `another capture is there, which differs in ${differing.join(", ")}`,
    todo: "Choose another folder, or remove that one",
  });
}

async function requireNoShards(directory: string): Promise<void> {
  const shard = (await readdir(directory)).find((file) => shardKind(file) === "shard");
  if (shard === undefined) return;
  throw new UsageError({
    asked: `capture into ${directory}`,
    found: `${shard}, but no ${INDEX_FILE} that says whose it is`,
    todo: "Choose another folder, or remove that file",
  });
}

/** What is on disk must be the beginning of what is asked for. */
function requireContinuation({ items }: CaptureIndex, ids: readonly string[], directory: string): void {
  const other = items.findIndex(({ id }, at) => id !== ids[at]);
  if (other < 0) return;
  throw new CheckpointError({
    asked: `go on with the capture in ${directory}`,
    found: `item ${other} is "${items[other]?.id ?? ""}" where "${ids[other] ?? "none"}" was expected`,
    todo: "Remove the folder and capture anew",
  });
}

async function removePartials(directory: string): Promise<void> {
  const files = (await readdir(directory)).filter((file) => shardKind(file) === "partial");
  await Promise.all(files.map((file) => rm(join(directory, file), { force: true })));
}

async function writeTextAtomically(path: string, text: string): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.partial`;
  try {
    const handle = await open(temporary, "wx");
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    const todo = "Check the folder, its permissions and the space left on its disk";
    throw new CheckpointError({ asked: `write ${path}`, found: messageOf(cause), todo, cause });
  }
}

/** Says of a full disk that it is one, and that nothing is lost. */
async function explainFullDisk(directory: string, done: number, total: number, write: Promise<void>): Promise<void> {
  try {
    await write;
  } catch (cause) {
    if (!isFullDisk(cause)) throw cause;
    throw new CheckpointError({
      asked: `capture into ${directory}`,
      found: `its disk is full, with ${done} of ${total} items written`,
      todo: "Free some space and run the same command again: it goes on after these",
      cause,
    });
  }
}

function isFullDisk(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = "code" in error ? error.code : undefined;
  return code === "ENOSPC" || code === "EDQUOT" || isFullDisk(error.cause);
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
