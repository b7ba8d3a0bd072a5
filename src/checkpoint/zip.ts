import { readBytes, type OpenFile } from "./file-bytes.js";
import { failure } from "./safetensors-header.js";

/**
 * The list of files in a ZIP archive, as PyTorch writes them: stored without compression, sizes beyond 4 GiB in Zip64
 * records (PKWARE's APPNOTE 6.3.10, §4.3 and §4.5.3). No size or place that the archive states is used before it is
 * held against the size of the file.
 */

/** A stored file inside the archive. */
export interface ZipEntry {
  readonly name: string;
  readonly size: number; // bytes
  readonly header: number; // where its local header starts
}

const END_BYTES = 22; // of the record at an archive's end, without its comment
const MAX_COMMENT_BYTES = 65_535;
const LOCATOR_BYTES = 20; // of the Zip64 locator in front of it
const ZIP64_END_BYTES = 56;
const CENTRAL_BYTES = 46; // of a directory's entry, without name and extra fields
const LOCAL_BYTES = 30;
const MAX_ENTRIES = 100_000; // a checkpoint has one for each tensor
const MAX_DIRECTORY_BYTES = 2 ** 25;
const IN_ZIP64 = 0xffffffff; // stands for a number that is in the Zip64 field

/** The archive's directory. */
interface Directory {
  readonly count: number;
  readonly start: number;
  readonly bytes: number;
}

/**
 * Reads the archive's directory.
 *
 * @throws {CheckpointError} if it is damaged or cut short, lists a name twice, or a file is compressed or encrypted.
 */
export async function readZipDirectory(file: OpenFile): Promise<ReadonlyMap<string, ZipEntry>> {
  const { count, start, bytes } = await findDirectory(file);
  if (count > MAX_ENTRIES || bytes > MAX_DIRECTORY_BYTES || bytes < count * CENTRAL_BYTES) {
    throw damaged(file, `a directory of ${count} files in ${bytes} bytes`);
  }
  if (start + bytes > file.size) throw damaged(file, `a directory that ends at byte ${start + bytes} of ${file.size}`);
  const directory = await readBytes(file, start, bytes);
  const view = new DataView(directory.buffer);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let index = 0; index < count; index++) {
    if (at + CENTRAL_BYTES > bytes || view.getUint32(at, true) !== 0x02014b50) {
      throw damaged(file, `a directory that breaks off after ${index} of ${count} files`);
    }
    const lengths = [28, 30, 32].map((field) => view.getUint16(at + field, true)); // name, extra fields, comment
    const [nameLength = 0, extraLength = 0, commentLength = 0] = lengths;
    const next = at + CENTRAL_BYTES + nameLength + extraLength + commentLength;
    if (next > bytes) throw damaged(file, `a directory that breaks off after ${index} of ${count} files`);
    const name = decodeName(directory.subarray(at + CENTRAL_BYTES, at + CENTRAL_BYTES + nameLength), file);
    const entry = readEntry(view, at, name, { start: at + CENTRAL_BYTES + nameLength, length: extraLength }, file);
    if (entries.has(name)) throw damaged(file, `"${name}" twice`);
    if (entry.header + LOCAL_BYTES + entry.size > start) {
      throw damaged(file, `"${name}" of ${entry.size} bytes at byte ${entry.header}, beyond the data`);
    }
    entries.set(name, entry);
    at = next;
  }
  return entries;
}

/** Where the bytes of an entry start: behind its local header, whose length only the header itself tells. */
export async function zipDataStart(file: OpenFile, { name, size, header }: ZipEntry): Promise<number> {
  const view = new DataView((await readBytes(file, header, LOCAL_BYTES)).buffer);
  if (view.getUint32(0, true) !== 0x04034b50) throw damaged(file, `no file header at byte ${header} for "${name}"`);
  const start = header + LOCAL_BYTES + view.getUint16(26, true) + view.getUint16(28, true);
  if (start + size > file.size) throw damaged(file, `"${name}" of ${size} bytes at byte ${start} of ${file.size}`);
  return start;
}

async function findDirectory(file: OpenFile): Promise<Directory> {
  const tailBytes = Math.min(file.size, END_BYTES + MAX_COMMENT_BYTES + LOCATOR_BYTES);
  const tailStart = file.size - tailBytes;
  const tail = new DataView((await readBytes(file, tailStart, tailBytes)).buffer);
  for (let at = tailBytes - END_BYTES; at >= 0; at--) {
    const isEnd = tail.getUint32(at, true) === 0x06054b50;
    if (!isEnd || at + END_BYTES + tail.getUint16(at + 20, true) !== tailBytes) continue;
    const locator = at - LOCATOR_BYTES;
    if (locator >= 0 && tail.getUint32(locator, true) === 0x07064b50) {
      return readZip64Directory(file, toCount(tail.getBigUint64(locator + 8, true), file));
    }
    const [disk, directoryDisk] = [tail.getUint16(at + 4, true), tail.getUint16(at + 6, true)];
    if (disk !== 0 || directoryDisk !== 0) throw damaged(file, "an archive of several parts");
    return {
      count: tail.getUint16(at + 10, true),
      bytes: tail.getUint32(at + 12, true),
      start: tail.getUint32(at + 16, true),
    };
  }
  throw damaged(file, "no directory at its end");
}

async function readZip64Directory(file: OpenFile, at: number): Promise<Directory> {
  if (at + ZIP64_END_BYTES > file.size) throw damaged(file, `a Zip64 record at byte ${at} of ${file.size}`);
  const view = new DataView((await readBytes(file, at, ZIP64_END_BYTES)).buffer);
  if (view.getUint32(0, true) !== 0x06064b50) throw damaged(file, `no Zip64 record at byte ${at}`);
  return {
    count: toCount(view.getBigUint64(32, true), file),
    bytes: toCount(view.getBigUint64(40, true), file),
    start: toCount(view.getBigUint64(48, true), file),
  };
}

function readEntry(
  view: DataView,
  at: number,
  name: string,
  extra: { readonly start: number; readonly length: number },
  file: OpenFile,
): ZipEntry {
  const flags = view.getUint16(at + 8, true);
  const method = view.getUint16(at + 10, true);
  if ((flags & 1) !== 0) throw damaged(file, `"${name}" encrypted`);
  if (method !== 0) {
    const todo =
      "PyTorch stores its files as they are: save it anew with torch.save, or unpack and repack it uncompressed";
    throw failure(file.path, `"${name}" compressed by method ${method}`, todo);
  }
  const packed = view.getUint32(at + 20, true);
  const unpacked = view.getUint32(at + 24, true);
  const offset = view.getUint32(at + 42, true);
  const wide = zip64Numbers(view, extra, file);
  const take = (value: number): number => {
    if (value !== IN_ZIP64) return value;
    const next = wide.shift();
    if (next === undefined) throw damaged(file, `"${name}" without the size it refers to`);
    return next;
  };
  const size = take(unpacked); // in this order in the Zip64 field
  const packedSize = take(packed);
  if (size !== packedSize) throw damaged(file, `"${name}" stored as ${packedSize} bytes of ${size}`);
  return { name, size, header: take(offset) };
}

/** The numbers of the Zip64 extra field: those that did not fit 32 bits, in the order size, packed size, offset. */
function zip64Numbers(
  view: DataView,
  { start, length }: { readonly start: number; readonly length: number },
  file: OpenFile,
): number[] {
  const end = start + length;
  for (let at = start; at + 4 <= end;) {
    const bytes = view.getUint16(at + 2, true);
    if (at + 4 + bytes > end) break;
    if (view.getUint16(at, true) === 1) {
      const count = Math.min(3, Math.floor(bytes / 8));
      return Array.from({ length: count }, (_, index) => toCount(view.getBigUint64(at + 4 + 8 * index, true), file));
    }
    at += 4 + bytes;
  }
  return [];
}

function toCount(value: bigint, file: OpenFile): number {
  if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw damaged(file, `a size or place of ${value} bytes`);
}

function decodeName(bytes: Uint8Array, file: OpenFile): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw damaged(file, "a file name that is not UTF-8");
  }
}

function damaged(file: OpenFile, found: string): Error {
  return failure(file.path, found, "Fetch the file again: it is damaged or was cut short");
}
