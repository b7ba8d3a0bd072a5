import { createHash, type Hash } from "node:crypto";
import { mkdir, open, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { dirname, join } from "node:path";

import { HubError } from "../../errors.js";
import { describe } from "../safetensors-header.js";
import { brokenOff, hubFailure, Passing, persistently, send, type Connection } from "./connection.js";
import { piecesOf, type HubFile } from "./listing.js";
import { withLock } from "./lock.js";

/** One file to fetch. */
export interface Download {
  readonly asked: string; // for errors
  readonly url: string;
  readonly file: HubFile;
  readonly blobs: string; // the directory it goes to, under the name of its checksum
  readonly locks: string; // the directory of lock files
  readonly recheck: boolean; // whether to read what is there again and compare its checksum
}

/**
 * Brings one file into the cache: `blobs/<checksum>`, complete and checked, or not at all. It grows under another name
 * beside it, which a later call goes on with; only one process at a time does so.
 *
 * @param onBytes called with the bytes that are there by now
 * @returns whether anything had to be fetched
 * @throws {HubError}
 */
export async function download(
  connection: Connection,
  job: Download,
  onBytes: (bytes: number) => void,
): Promise<boolean> {
  const { file, blobs, locks } = job;
  const target = join(blobs, file.checksum);
  if (await isPresent(job, target, onBytes)) return false;
  await onDisk(job.asked, () => mkdir(blobs, { recursive: true }));
  const work = async (): Promise<boolean> => {
    if (await isPresent(job, target, onBytes)) return false; // another process was faster
    await fetchInto(connection, job, `${target}.tonearm.incomplete`, target, onBytes);
    return true;
  };
  // Python's huggingface_hub locks files of its own; hence another name than its.
  return withLock(join(locks, `${file.checksum}.tonearm.lock`), work, connection.signal);
}

async function isPresent(
  { file, recheck, asked }: Download,
  target: string,
  onBytes: (bytes: number) => void,
): Promise<boolean> {
  const size = await sizeOf(target);
  if (size !== file.bytes) return false;
  if (recheck) {
    const hash = newHash(file);
    await onDisk(asked, () => hashFile(target, hash, file.bytes));
    if (hash.digest("hex") !== file.checksum) return false;
  }
  onBytes(file.bytes);
  return true;
}

/** How far a download is: its first `position` bytes are on disk and in the hash. */
interface State {
  hash: Hash;
  position: number;
}

async function fetchInto(
  connection: Connection,
  job: Download,
  incomplete: string,
  target: string,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { file, asked } = job;
  const handle = await onDisk(asked, () => openForWriting(incomplete));
  try {
    const state = await onDisk(asked, () => resume(handle, incomplete, file));
    let wrong = 0;
    await persistently(
      connection,
      async () => {
        onBytes(state.position);
        if (state.position < file.bytes || file.bytes === 0) await receive(connection, job, handle, state, onBytes);
        if (state.hash.digest("hex") === file.checksum) return;
        await restart(job, handle, state);
        const found = `other bytes than the published ones: their checksum is not ${file.checksum}`;
        const failure = hubFailure(
          "checksum",
          asked,
          found,
          "Run it again; if it happens again, the copy at HF_ENDPOINT is damaged",
        );
        if (++wrong > 1) throw failure;
        throw new Passing(failure);
      },
      () => state.position,
    );
    await onDisk(asked, () => handle.sync().catch(ignoreUnsupported));
  } finally {
    await handle.close();
  }
  await onDisk(asked, () => rename(incomplete, target));
}

/** Opens for reading and writing; keeps what is there. */
async function openForWriting(path: string): Promise<FileHandle> {
  try {
    return await open(path, "r+");
  } catch {
    return open(path, "w+");
  }
}

/** Goes on with what an earlier call left. */
async function resume(handle: FileHandle, path: string, file: HubFile): Promise<State> {
  const { size } = await handle.stat();
  const hash = newHash(file);
  if (size > file.bytes) {
    await handle.truncate(0);
    return { hash, position: 0 };
  }
  await hashFile(path, hash, size);
  return { hash, position: size };
}

async function restart({ file, asked }: Download, handle: FileHandle, state: State): Promise<void> {
  await onDisk(asked, () => handle.truncate(0));
  state.hash = newHash(file);
  state.position = 0;
}

/** One request for what is still missing. */
async function receive(
  connection: Connection,
  job: Download,
  handle: FileHandle,
  state: State,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { asked, file, url } = job;
  const headers: Record<string, string> = state.position > 0 ? { range: `bytes=${state.position}-` } : {};
  const { response, alive, close } = await send(connection, asked, url, { headers, alsoTake: 416 });
  try {
    if (response.status === 416) {
      await restart(job, handle, state); // it has nothing from there on: then the file here can't be its beginning
      throw brokenOff(asked, "the hub has fewer bytes than are already here");
    }
    if (state.position > 0 && !continues(response, state.position)) await restart(job, handle, state);
    for await (const piece of piecesOf(response)) {
      alive();
      const room = file.bytes - state.position;
      if (piece.byteLength > room) {
        await restart(job, handle, state);
        throw new Passing(
          hubFailure(
            "garbage",
            asked,
            `more than the published ${file.bytes} bytes`,
            "Check HF_ENDPOINT and run it again",
          ),
        );
      }
      await onDisk(asked, () => writeFully(handle, piece, state.position));
      state.hash.update(piece);
      state.position += piece.byteLength;
      onBytes(state.position);
    }
  } catch (error) {
    connection.signal.throwIfAborted();
    if (error instanceof Passing || error instanceof HubError) throw error;
    const { cause } = error instanceof Error ? error : {};
    const reason = describe(cause ?? error);
    throw brokenOff(asked, `the connection broke off at byte ${state.position} of ${file.bytes} (${reason})`);
  } finally {
    close();
  }
  if (state.position < file.bytes) {
    throw brokenOff(asked, `the answer ended at byte ${state.position} of ${file.bytes}`);
  }
}

/** Whether an answer starts where the file ends; a server may ignore the question and send everything. */
function continues(response: Response, position: number): boolean {
  const range = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  return response.status === 206 && Number(range?.[1]) === position;
}

async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.byteLength - done, position + done);
    done += bytesWritten;
  }
}

/** SHA-256 of the content, or git's SHA-1 of a blob: of a header with its size, then the content. */
function newHash({ checksum, bytes }: HubFile): Hash {
  return checksum.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`);
}

async function hashFile(path: string, hash: Hash, bytes: number): Promise<void> {
  if (bytes === 0) return;
  const handle = await open(path, "r");
  try {
    for await (const piece of handle.createReadStream({ start: 0, end: bytes - 1, autoClose: false })) {
      hash.update(piece as Uint8Array);
    }
  } finally {
    await handle.close();
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    (found) => found.size,
    () => undefined,
  );
}

function ignoreUnsupported(error: unknown): void {
  const isUnsupported =
    error instanceof Error && "code" in error && (error.code === "EINVAL" || error.code === "ENOTSUP");
  if (!isUnsupported) throw error;
}

const DISK_TODO: Readonly<Record<string, string>> = {
  ENOSPC: "Make room, or set HF_HOME to a directory on another disk, and run it again: it goes on where it stopped",
  EDQUOT: "Make room within your quota, or set HF_HOME to another directory, and run it again",
  EACCES: "Set HF_HOME to a directory that you may write to",
  EPERM: "Set HF_HOME to a directory that you may write to",
  EROFS: "Set HF_HOME to a directory that you may write to",
};

/** Turns what the file system says into an error that says what to do. */
export async function onDisk<Result>(asked: string, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    const todo = DISK_TODO[code] ?? "Check the cache's directory and its disk";
    throw hubFailure("disk", asked, describe(cause), todo, cause);
  }
}

/** The directory of a path, made if need be. */
export async function ensureDirectoryOf(asked: string, path: string): Promise<void> {
  await onDisk(asked, () => mkdir(dirname(path), { recursive: true }));
}

/** Removes a file if it is there. */
export async function removeFile(asked: string, path: string): Promise<void> {
  await onDisk(asked, () => rm(path, { force: true }));
}
