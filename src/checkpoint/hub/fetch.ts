import { randomUUID } from "node:crypto";
import { copyFile, mkdir, readlink, rename, stat, statfs, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";

import { isAudiocraft, missingModels } from "../audiocraft/open.js";
import { CancelledError, type HubError } from "../../errors.js";
import { describe } from "../safetensors-header.js";
import { cachedSnapshot } from "./cache.js";
import { DEFAULT_PATIENCE, hubFailure, type Connection, type Patience } from "./connection.js";
import { download, ensureDirectoryOf, onDisk, removeFile } from "./download.js";
import { chooseSettings, chooseWeights, readShards } from "./files.js";
import { fileUrl, listFiles, type HubFile, type Listing } from "./listing.js";
import { folderName, isCommit, parseRepository, repositoryFolder, type Repository } from "./repository.js";
import { hubSettings, type HubSettings } from "./settings.js";

/** How far a fetch is, over all its files. */
export interface FetchProgress {
  readonly repository: string;
  readonly bytes: number; // there by now, from earlier calls too
  readonly totalBytes: number;
}

/** How to fetch. */
export interface FetchOptions {
  /** A branch, tag or commit. Default: the one after an @ in the name, else "main". */
  readonly revision?: string | undefined;
  /** Where from and where to; by default what the environment says, see {@link hubSettings}. */
  readonly settings?: HubSettings | undefined;
  readonly patience?: Patience | undefined;
  /** Read the files that are there again and compare their checksums. */
  readonly recheck?: boolean | undefined;
  readonly onProgress?: ((progress: FetchProgress) => void) | undefined;
  readonly onRetry?: ((failure: HubError, waitMs: number) => void) | undefined;
  /** Ends the fetch; a later one goes on where it stopped. */
  readonly signal?: AbortSignal | undefined;
}

/** A fetched checkpoint. */
export interface FetchedCheckpoint {
  readonly directory: string; // to load from
  readonly repository: string;
  readonly revision: string;
  readonly commit: string | undefined; // undefined where it was found without asking the hub
  readonly files: readonly string[];
  readonly bytes: number; // of all files
  readonly fetchedFiles: number; // how many of them were not there yet
  /** Models of their own that it is used with: audiocraft's files lack the text encoder. */
  readonly companions: readonly FetchedCheckpoint[];
}

const PARALLEL = 3; // files at a time

/**
 * Fetches a checkpoint from the hub into the cache that Python's huggingface_hub uses, and only the files that are
 * needed: weights (safetensors rather than `.bin`), configuration, tokenizer. What is there already stays. Where audiocraft's
 * files refer to further models (T5, a published codec), those are fetched, too.
 *
 * A file appears in the cache when it is complete and its checksum right, the snapshot when all of its files have. An
 * interrupted fetch leaves what it has under other names, and the next one goes on with it. Several processes may fetch
 * the same model at once.
 *
 * @param name `owner/name` or `owner/name@revision`
 * @throws {UsageError} for a name that could not be one; {@link HubError} with its reason; {@link CancelledError} if the
 *   signal ended it.
 */
export async function fetchCheckpoint(name: string, options: FetchOptions = {}): Promise<FetchedCheckpoint> {
  const repository = parseRepository(name, options.revision);
  const settings = options.settings ?? hubSettings();
  if (settings.offline) return fetchOffline(repository, settings);
  const stop = new AbortController(); // the first failure ends the other downloads
  const signal = AbortSignal.any([stop.signal, ...(options.signal ? [options.signal] : [])]);
  const connection: Connection = {
    settings,
    patience: options.patience ?? DEFAULT_PATIENCE,
    signal,
    onRetry: options.onRetry,
  };
  try {
    options.signal?.throwIfAborted();
    const fetched = await fetchSnapshot(connection, repository, options, () => stop.abort());
    if (!isAudiocraft(fetched.directory)) return fetched;
    const companions: FetchedCheckpoint[] = [];
    for (const companion of await missingModels(fetched.directory, settings)) {
      companions.push(await fetchSnapshot(connection, parseRepository(companion), options, () => stop.abort()));
    }
    return { ...fetched, companions };
  } catch (error) {
    if (options.signal?.aborted === true) {
      throw new CancelledError({
        asked: `fetch ${repository.name}`,
        found: "it was cancelled",
        todo: "Run it again: it goes on where it stopped",
        cause: error,
      });
    }
    throw error;
  }
}

function fetchOffline(repository: Repository, settings: HubSettings): FetchedCheckpoint {
  const directory = cachedSnapshot(repository, settings);
  const { name, revision } = repository;
  if (directory === undefined) {
    const found = `HF_HUB_OFFLINE is set, and ${settings.cache} has no complete copy`;
    throw hubFailure("offline", `fetch ${name} at ${revision}`, found, "Unset HF_HUB_OFFLINE");
  }
  return {
    directory,
    repository: name,
    revision,
    commit: undefined,
    files: [],
    bytes: 0,
    fetchedFiles: 0,
    companions: [],
  };
}

async function fetchSnapshot(
  connection: Connection,
  repository: Repository,
  { recheck = false, onProgress }: FetchOptions,
  stop: () => void,
): Promise<FetchedCheckpoint> {
  const { name, revision } = repository;
  const { settings } = connection;
  const folder = repositoryFolder(settings, repository);
  const listing = await listFiles(connection, repository);
  const there = new Map<string, number>(); // bytes by file
  let planned: readonly HubFile[] = [];
  const report = (file: string, bytes: number): void => {
    there.set(file, bytes);
    const sum = (values: Iterable<number>): number => [...values].reduce((total, value) => total + value, 0);
    onProgress?.({ repository: name, bytes: sum(there.values()), totalBytes: sum(planned.map((file) => file.bytes)) });
  };
  const fetchOne = (file: HubFile): Promise<boolean> =>
    download(
      connection,
      {
        asked: `fetch ${file.name} of ${name}`,
        url: fileUrl(connection, repository, listing.commit, file.name),
        file,
        blobs: join(folder, "blobs"),
        locks: join(settings.cache, ".locks", folderName(name)),
        recheck,
      },
      (bytes) => report(file.name, bytes),
    );

  const { first, rest } = await planFiles(listing, repository, async (index) => {
    planned = [index];
    await fetchOne(index);
    return readShards(join(folder, "blobs", index.checksum));
  });
  planned = [...first, ...rest];
  await requireSpace(settings.cache, planned, folder, `fetch ${name}`);
  const fetched = await inParallel(planned, fetchOne, stop);

  const directory = join(folder, "snapshots", listing.commit);
  for (const file of planned) await placeFile(directory, folder, file, `fetch ${file.name} of ${name}`);
  if (!isCommit(revision))
    await writeRef(join(folder, "refs", ...revision.split("/")), listing.commit, `fetch ${name}`);
  return {
    directory,
    repository: name,
    revision,
    commit: listing.commit,
    files: planned.map((file) => file.name),
    bytes: planned.reduce((sum, file) => sum + file.bytes, 0),
    fetchedFiles: fetched.filter(Boolean).length,
    companions: [],
  };
}

/** Which files to fetch. An index is fetched first: only it names the shards. */
async function planFiles(
  listing: Listing,
  { name }: Repository,
  shardsOf: (index: HubFile) => Promise<readonly string[] | undefined>,
): Promise<{ readonly first: readonly HubFile[]; readonly rest: readonly HubFile[] }> {
  const asked = `fetch ${name}`;
  const weights = chooseWeights(listing.names);
  if (!weights) {
    const found = `no weights that tonearm reads among ${listing.names.slice(0, 20).join(", ") || "no files"}`;
    throw hubFailure("not-found", asked, found, "Give the name of a MusicGen model");
  }
  const first = await Promise.all(weights.files.map((file) => listing.file(file)));
  const [index] = first;
  const shards = weights.index !== undefined && index ? await shardsOf(index) : [];
  const needed = [...(shards ?? []), ...chooseSettings(listing.names, weights)];
  const missing = needed.filter((file) => !listing.names.includes(file));
  if (!shards)
    throw hubFailure("garbage", asked, `${weights.index} that names no plain shards`, "Use another revision");
  if (missing.length > 0) {
    throw hubFailure(
      "not-found",
      asked,
      `no ${missing.join(", ")} in it`,
      "Give the name of a complete MusicGen model",
    );
  }
  return { first, rest: await Promise.all(needed.map((file) => listing.file(file))) };
}

/** Refuses before the first byte what can't fit. */
async function requireSpace(cache: string, files: readonly HubFile[], folder: string, asked: string): Promise<void> {
  await onDisk(asked, () => mkdir(cache, { recursive: true }));
  const { bavail, bsize } = await onDisk(asked, () => statfs(cache));
  const sizes = await Promise.all(files.map((file) => missingBytes(file, folder)));
  const needed = sizes.reduce((sum, bytes) => sum + bytes, 0);
  if (needed <= bavail * bsize) return;
  const found = `${bavail * bsize} bytes free in ${cache}, ${needed} still to fetch`;
  throw hubFailure("disk", asked, found, "Make room, or set HF_HOME to a directory on another disk");
}

async function missingBytes({ checksum, bytes }: HubFile, folder: string): Promise<number> {
  const blob = join(folder, "blobs", checksum);
  for (const path of [blob, `${blob}.tonearm.incomplete`]) {
    const found = await stat(path).catch(() => undefined);
    if (found) return Math.max(0, bytes - found.size);
  }
  return bytes;
}

/** Runs a few at a time; the first failure stops the others and is thrown when they have ended. */
async function inParallel<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
  stop: () => void,
): Promise<readonly Result[]> {
  const queue = [...items.entries()];
  const results: Result[] = [];
  const failures: unknown[] = [];
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next !== undefined && failures.length === 0; next = queue.shift()) {
      const [index, item] = next;
      try {
        results[index] = await work(item);
      } catch (error) {
        failures.push(error);
        stop();
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
  if (failures.length > 0) throw failures[0];
  return results;
}

/** Links a snapshot's file to its blob; where links are not allowed (on some Windows) it is copied. */
async function placeFile(directory: string, folder: string, file: HubFile, asked: string): Promise<void> {
  const path = join(directory, ...file.name.split("/"));
  const blob = join(folder, "blobs", file.checksum);
  const target = relative(dirname(path), blob).split(sep).join("/");
  if ((await readlink(path).catch(() => undefined)) === target) return;
  await ensureDirectoryOf(asked, path);
  const temporary = `${path}.${randomUUID()}.partial`;
  try {
    await symlink(target, temporary, "file").catch(async (cause: unknown) => {
      if (!/EPERM|ENOSYS|ENOTSUP/.test(describe(cause))) throw cause;
      await copyFile(blob, temporary);
    });
    await onDisk(asked, () => rename(temporary, path));
  } finally {
    await removeFile(asked, temporary);
  }
}

async function writeRef(path: string, commit: string, asked: string): Promise<void> {
  await ensureDirectoryOf(asked, path);
  const temporary = `${path}.${randomUUID()}.partial`;
  await onDisk(asked, () => writeFile(temporary, commit));
  await onDisk(asked, () => rename(temporary, path));
}
