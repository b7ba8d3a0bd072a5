import { randomBytes } from "node:crypto";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { endianness } from "node:os";

import { UsageError, type CheckpointError } from "../errors.js";
import type { PlainPlace } from "../runtime/linear.js";
import { bfloatToFloat, fitsHalf, floatToHalf, halfToFloat } from "./float16.js";
import {
  BYTES_PER_VALUE,
  describe,
  encodeHeader,
  failure,
  LENGTH_BYTES,
  MAX_HEADER_BYTES,
  parseHeader,
  show,
  sizeOf,
  tensorFailure,
  writeFailure,
  type Dtype,
  type Header,
  type TensorEntry,
} from "./safetensors-header.js";
import type { ValueRange, WeightFile } from "./weight-file.js";

export type { Dtype, TensorEntry } from "./safetensors-header.js";
export type { ValueRange } from "./weight-file.js";

/**
 * The safetensors format (https://huggingface.co/docs/safetensors): eight bytes with the header's length N, N bytes of
 * JSON `{name: {dtype, shape, data_offsets}, "__metadata__": {…}}`, then the raw little-endian values of all tensors
 * back to back. A header is read and checked in full before any tensor is; tensors are read one by one, so a file may
 * be larger than memory.
 */

const MAX_TRANSFER_BYTES = 2 ** 30; // one read or write call takes at most 2³¹ − 1 bytes

/** An open safetensors file. It keeps a file descriptor until `close()`. */
export class SafetensorsFile implements WeightFile {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly #handle: FileHandle;

  private constructor(path: string, header: Header, handle: FileHandle) {
    this.path = path;
    this.metadata = header.metadata;
    this.tensors = header.tensors;
    this.#handle = handle;
  }

  /**
   * Opens a file and reads its header, no tensor.
   *
   * @throws {CheckpointError} if the file is missing, unreadable, or breaks the format anywhere in its header.
   */
  static async open(path: string): Promise<SafetensorsFile> {
    if (endianness() !== "LE") throw failure(path, "a big-endian processor", "Safetensors needs a little-endian one");
    const handle = await open(path, "r").catch((cause: unknown) => {
      throw failure(path, describe(cause), "Check the path and its permissions", cause);
    });
    try {
      const stat = await handle.stat();
      if (!stat.isFile()) throw failure(path, "not a regular file", "Give the path of a .safetensors file");
      const length = await readHeaderLength(handle, path, stat.size);
      const json = new Uint8Array(length);
      await readFully(handle, json, LENGTH_BYTES, path);
      return new SafetensorsFile(path, parseHeader(json, stat.size, path), handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Releases the file. Safe to call twice; reading afterwards fails. */
  async close(): Promise<void> {
    await this.#handle.close();
  }

  /**
   * The entry of a tensor.
   *
   * @throws {CheckpointError} if the file has no tensor of that name.
   */
  entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (entry) return entry;
    throw failure(this.path, `no tensor named "${name}"`, "List the file's tensors with `tonearm inspect`");
  }

  /**
   * Reads a tensor of floats: F32, F16 and BF16 exactly, F64 rounded to float32.
   *
   * @param range the values wanted; all of them by default.
   * @returns a new array on a buffer of its own.
   * @throws {CheckpointError} if there is no such tensor, its values aren't floats, or the file can't be read.
   */
  async floats(name: string, range?: ValueRange): Promise<Float32Array<ArrayBuffer>> {
    const entry = this.entry(name);
    if (!isFloatType(entry.dtype)) throw notFloats(this.path, entry);
    return floatsOf(new Uint8Array(await this.#read(entry, range)), entry.dtype);
  }

  /** Where a matrix lies, for a backend that reads files itself; undefined where that knows no such values. */
  place(name: string): PlainPlace | undefined {
    const { start, dtype } = this.entry(name);
    if (dtype !== "F32" && dtype !== "F16" && dtype !== "BF16") return undefined;
    return { fileDescriptor: this.fileDescriptor, start, dtype };
  }

  /** Of the open file; valid until `close()`. */
  get fileDescriptor(): number {
    return this.#handle.fd;
  }

  /**
   * Reads a tensor of F64 without rounding.
   *
   * @returns a new array on a buffer of its own.
   * @throws {CheckpointError} if there is no such tensor, its values aren't F64, or the file can't be read.
   */
  async doubles(name: string): Promise<Float64Array<ArrayBuffer>> {
    const entry = this.entry(name);
    if (entry.dtype === "F64") return new Float64Array(await this.#read(entry));
    throw tensorFailure(this.path, name, `values of type ${entry.dtype}`, "Read them with floats() or integers()");
  }

  /**
   * Reads a tensor of integers: I32, I64 (each must fit 32 bits), U8 and BOOL.
   *
   * @param range the values wanted; all of them by default.
   * @returns a new array on a buffer of its own.
   * @throws {CheckpointError} if there is no such tensor, its values aren't integers or too large, or the file can't be
   *   read.
   */
  async integers(name: string, range?: ValueRange): Promise<Int32Array<ArrayBuffer>> {
    const entry = this.entry(name);
    switch (entry.dtype) {
      case "I32":
        return new Int32Array(await this.#read(entry, range));
      case "I64":
        return Int32Array.from(new BigInt64Array(await this.#read(entry, range)), (value) => {
          if (BigInt.asIntN(32, value) === value) return Number(value);
          throw tensorFailure(this.path, name, `the value ${value}`, "Integers must fit 32 bits");
        });
      case "U8":
      case "BOOL":
        return new Int32Array(new Uint8Array(await this.#read(entry, range)));
      default:
        throw tensorFailure(
          this.path,
          name,
          `values of type ${entry.dtype}`,
          "Only I32, I64, U8 and BOOL are integers",
        );
    }
  }

  /**
   * Reads `count` raw bytes of a tensor from byte `first` of its data on.
   *
   * @throws {CheckpointError} if there is no such tensor or the file can't be read; {@link UsageError} if the range
   *   leaves the tensor.
   */
  async bytes(name: string, { first, count }: ValueRange): Promise<Uint8Array<ArrayBuffer>> {
    const { start, end } = this.entry(name);
    checkRange({ first, count }, end - start, `bytes of tensor "${name}"`);
    const bytes = new Uint8Array(count);
    await readFully(this.#handle, bytes, start + first, this.path, name);
    return bytes;
  }

  async #read({ name, dtype, size }: TensorEntry, range: ValueRange = { first: 0, count: size }): Promise<ArrayBuffer> {
    checkRange(range, size, `values of tensor "${name}"`);
    const width = BYTES_PER_VALUE[dtype];
    const bytes = await this.bytes(name, { first: range.first * width, count: range.count * width });
    return bytes.buffer;
  }
}

type FloatType = "F32" | "F16" | "BF16" | "F64";

function isFloatType(dtype: Dtype): dtype is FloatType {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16" || dtype === "F64";
}

function notFloats(path: string, { name, dtype }: TensorEntry): CheckpointError {
  return tensorFailure(path, name, `values of type ${dtype}`, "Only F32, F16, BF16 and F64 are floats");
}

/** Stored floats as float32; on the same memory where they are. */
function floatsOf({ buffer }: Uint8Array<ArrayBuffer>, dtype: FloatType): Float32Array<ArrayBuffer> {
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F16":
      return halfToFloat(new Uint16Array(buffer));
    case "BF16":
      return bfloatToFloat(new Uint16Array(buffer));
    case "F64":
      return new Float32Array(new Float64Array(buffer));
  }
}

/**
 * The floats of a tensor whose bytes have been read.
 *
 * @param bytes on a buffer of their own
 * @throws {CheckpointError} if they aren't floats.
 */
export function floatsIn(bytes: Uint8Array<ArrayBuffer>, entry: TensorEntry, path: string): Float32Array<ArrayBuffer> {
  if (!isFloatType(entry.dtype)) throw notFloats(path, entry);
  return floatsOf(bytes, entry.dtype);
}

function checkRange({ first, count }: ValueRange, available: number, what: string): void {
  if (Number.isSafeInteger(first) && Number.isSafeInteger(count) && first >= 0 && count >= 0) {
    if (first + count <= available) return;
  }
  throw new UsageError({
    asked: `read ${count} ${what} from ${first} on`,
    found: `${available} of them`,
    todo: "Ask for a range inside the tensor",
  });
}

async function readHeaderLength(handle: FileHandle, path: string, fileSize: number): Promise<number> {
  const fetchAgain = "Fetch the file again: it is damaged or was cut short";
  if (fileSize < LENGTH_BYTES + 2) throw failure(path, `only ${fileSize} bytes`, fetchAgain);
  const bytes = new Uint8Array(LENGTH_BYTES);
  await readFully(handle, bytes, 0, path);
  if (Buffer.from(bytes).toString("latin1") === "version ") {
    throw failure(path, "a Git LFS pointer in place of the weights", "Run `git lfs pull` where the file came from");
  }
  const length = new DataView(bytes.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw failure(path, `a header of ${length} bytes, over the limit of ${MAX_HEADER_BYTES}`, fetchAgain);
  }
  if (LENGTH_BYTES + Number(length) > fileSize) {
    throw failure(path, `a header of ${length} bytes in a file of ${fileSize}`, fetchAgain);
  }
  return Number(length);
}

async function readFully(
  handle: FileHandle,
  target: Uint8Array,
  position: number,
  path: string,
  tensor?: string,
): Promise<void> {
  let done = 0;
  while (done < target.byteLength) {
    const wanted = Math.min(target.byteLength - done, MAX_TRANSFER_BYTES);
    const { bytesRead } = await handle.read(target, done, wanted, position + done).catch((cause: unknown) => {
      throw tensorFailure(path, tensor, describe(cause), "Check that the file is still open and readable", cause);
    });
    if (bytesRead === 0) {
      throw tensorFailure(path, tensor, `the end of the file at ${position + done}`, "It became shorter while open");
    }
    done += bytesRead;
  }
}

/** A tensor to write. Values may be given late, as a function, so that a large file needs one tensor in memory at a time. */
export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: "F64" | "F32" | "F16" | "I32";
  readonly values: TensorValues | (() => TensorValues | Promise<TensorValues>);
}

/** Float64Array for F64, Float32Array for F32 and F16, Int32Array for I32. */
export type TensorValues = Float64Array | Float32Array | Int32Array;

const VALUES_OF = { F64: Float64Array, F32: Float32Array, F16: Float32Array, I32: Int32Array };

/**
 * Writes a safetensors file. It appears under its name only when it is complete: until then it grows beside it under a
 * temporary name, which a failure removes. An existing file is replaced.
 *
 * Wide values are laid out before narrow ones, so that each tensor is aligned to its own width.
 *
 * @param metadata free text, kept under `__metadata__`.
 * @throws {CheckpointError} if a name occurs twice, values do not fill their shape, are of the wrong type or too large for
 *   F16, or the file can't be written.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly NamedTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = inLayoutOrder(tensors);
  const header = encodeHeader(ordered, metadata, path);
  const temporary = `${path}.${randomBytes(6).toString("hex")}.partial`;
  const handle = await open(temporary, "wx").catch((cause: unknown) => {
    throw writeFailure(path, describe(cause), "Check that its directory exists and can be written to", cause);
  });
  try {
    await writeFully(handle, header, path);
    for (const tensor of ordered) await writeFully(handle, await encodeValues(tensor, path), path);
    await handle.sync();
    await handle.close();
    await rename(temporary, path).catch((cause: unknown) => {
      throw writeFailure(path, describe(cause), "Check that no directory of that name is in the way", cause);
    });
  } catch (error) {
    await handle.close();
    await rm(temporary, { force: true });
    throw error;
  }
}

/** The same file in memory. @throws {CheckpointError} as {@link writeSafetensors}. */
export async function encodeSafetensors(
  tensors: readonly NamedTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const where = "memory";
  const ordered = inLayoutOrder(tensors);
  const parts = [encodeHeader(ordered, metadata, where)];
  for (const tensor of ordered) parts.push(await encodeValues(tensor, where));
  return new Uint8Array(Buffer.concat(parts));
}

function inLayoutOrder(tensors: readonly NamedTensor[]): readonly NamedTensor[] {
  return tensors.toSorted((a, b) => BYTES_PER_VALUE[b.dtype] - BYTES_PER_VALUE[a.dtype]);
}

async function encodeValues({ name, shape, dtype, values: given }: NamedTensor, path: string): Promise<Uint8Array> {
  const values = typeof given === "function" ? await given() : given;
  if (values.length !== sizeOf(shape)) {
    const found = `${values.length} values for tensor "${name}" of shape ${show(shape)}`;
    throw writeFailure(path, found, `Give ${sizeOf(shape)} values`);
  }
  if (!(values instanceof VALUES_OF[dtype])) {
    const found = `${values.constructor.name} values for tensor "${name}" of dtype ${dtype}`;
    throw writeFailure(path, found, `${dtype} takes a ${VALUES_OF[dtype].name}`);
  }
  const stored = dtype === "F16" && values instanceof Float32Array ? toHalves(values, name, path) : values;
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}

function toHalves(values: Float32Array, name: string, path: string): Uint16Array {
  const tooLarge = values.find((value) => !fitsHalf(value));
  if (tooLarge !== undefined) {
    throw writeFailure(path, `the value ${tooLarge} in tensor "${name}"`, "F16 ends at 65504: write it as F32");
  }
  return floatToHalf(values);
}

async function writeFully(handle: FileHandle, bytes: Uint8Array, path: string): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) {
    const wanted = Math.min(bytes.byteLength - done, MAX_TRANSFER_BYTES);
    const { bytesWritten } = await handle.write(bytes, done, wanted).catch((cause: unknown) => {
      throw writeFailure(path, describe(cause), "Check the space left on its disk", cause);
    });
    done += bytesWritten;
  }
}
