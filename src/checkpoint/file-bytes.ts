import { open, type FileHandle } from "node:fs/promises";

import { describe, failure, tensorFailure } from "./safetensors-header.js";

const MAX_TRANSFER_BYTES = 2 ** 30; // one read takes at most 2³¹ − 1 bytes

/** An open file that is read by position. */
export interface OpenFile {
  readonly path: string;
  readonly size: number; // in bytes, when it was opened
  readonly handle: FileHandle;
}

/**
 * Opens a regular file for reading; the caller closes its handle.
 *
 * @throws {CheckpointError} if it is missing, unreadable or no regular file.
 */
export async function openFile(path: string): Promise<OpenFile> {
  const handle = await open(path, "r").catch((cause: unknown) => {
    throw failure(path, describe(cause), "Check the path and its permissions", cause);
  });
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw failure(path, "not a regular file", "Give the path of a weight file");
    return { path, size: stat.size, handle };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/**
 * Reads `count` bytes from `position` on.
 *
 * @param tensor named in errors, if it is one's
 * @throws {CheckpointError} if the file can't be read or ends before.
 */
export async function readBytes(
  { path, handle }: OpenFile,
  position: number,
  count: number,
  tensor?: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(count);
  let done = 0;
  while (done < count) {
    const wanted = Math.min(count - done, MAX_TRANSFER_BYTES);
    const { bytesRead } = await handle.read(bytes, done, wanted, position + done).catch((cause: unknown) => {
      throw tensorFailure(path, tensor, describe(cause), "Check that the file is still open and readable", cause);
    });
    if (bytesRead === 0) {
      throw tensorFailure(path, tensor, `the end of the file at ${position + done}`, "It became shorter while open");
    }
    done += bytesRead;
  }
  return bytes;
}
