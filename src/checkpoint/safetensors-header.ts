import { CheckpointError } from "../errors.js";
import { isJsonObject, type JsonObject } from "./json.js";

/**
 * The header of a safetensors file (https://huggingface.co/docs/safetensors): JSON that says of every tensor how its
 * values are stored, its shape, and where its bytes lie.
 */

/** Bytes of one value of each type. */
export const BYTES_PER_VALUE = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;

/** How the values of a tensor are stored. */
export type Dtype = keyof typeof BYTES_PER_VALUE;

/** What a header says of one tensor. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly size: number; // number of values
  readonly start: number; // in bytes from the start of the file
  readonly end: number;
}

/** A checked header. `tensors` is in the order of the data. */
export interface Header {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/** Bytes in front of a header: its length. */
export const LENGTH_BYTES = 8;

/** The longest header, as in the reference implementation. */
export const MAX_HEADER_BYTES = 100_000_000;

/**
 * Checks a header against the format and the file's size.
 *
 * @param json the header's own bytes, without the length in front.
 * @param fileSize in bytes.
 * @param path named in errors.
 * @throws {CheckpointError} if it is not UTF-8 JSON, names anything twice, a tensor's dtype, shape and byte range do not
 *   agree, or the ranges do not tile the data without hole or overlap up to the end of the file.
 */
export function parseHeader(json: Uint8Array, fileSize: number, path: string): Header {
  const fetchAgain = "Fetch the file again or write it anew: it is damaged";
  const fields = parseJsonObject(json, path);
  const dataStart = LENGTH_BYTES + json.byteLength;
  const entries: TensorEntry[] = [];
  let metadata: Readonly<Record<string, string>> = {};
  for (const [name, value] of Object.entries(fields)) {
    if (name === "__metadata__") metadata = parseMetadata(value, path);
    else entries.push(parseEntry(name, value, dataStart, path));
  }
  entries.sort((a, b) => a.start - b.start || a.end - b.end);
  let expected = dataStart;
  for (const { name, start, end } of entries) {
    if (end > fileSize) {
      throw tensorFailure(path, name, `data up to byte ${end} in a file of ${fileSize}`, fetchAgain);
    }
    if (start !== expected) {
      const what = start < expected ? "data that overlaps another tensor's" : "a hole before its data";
      throw tensorFailure(path, name, `${what} (starts at byte ${start}, expected ${expected})`, fetchAgain);
    }
    expected = end;
  }
  if (expected !== fileSize) {
    throw failure(path, `${fileSize - expected} bytes after the last tensor`, fetchAgain);
  }
  return { metadata, tensors: new Map(entries.map((entry) => [entry.name, entry])) };
}

function parseJsonObject(bytes: Uint8Array, path: string): JsonObject {
  const todo = "Give a .safetensors file: this is another format, or it is damaged";
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (cause) {
    throw failure(path, `a header that is not JSON (${describe(cause)})`, todo, cause);
  }
  if (!isJsonObject(value)) throw failure(path, "a header that is not a JSON object", todo);
  const twice = duplicateKey(text);
  if (twice !== undefined) throw failure(path, `"${twice}" twice in its header`, todo);
  return value;
}

function parseMetadata(value: unknown, path: string): Readonly<Record<string, string>> {
  const todo = "Metadata must be a JSON object of strings: write the file anew";
  if (!isJsonObject(value)) throw failure(path, "metadata that is not a JSON object", todo);
  const texts: [string, string][] = Object.entries(value).map(([key, text]) => {
    if (typeof text !== "string") throw failure(path, `metadata "${key}" that is not a string`, todo);
    return [key, text];
  });
  return Object.fromEntries(texts);
}

function parseEntry(name: string, value: unknown, dataStart: number, path: string): TensorEntry {
  const todo = "Write the file anew: its header breaks the safetensors format";
  if (!isJsonObject(value)) throw tensorFailure(path, name, "an entry that is not a JSON object", todo);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) throw tensorFailure(path, name, `dtype ${show(dtype)}`, todo);
  if (!Array.isArray(shape) || !shape.every(isCount)) throw tensorFailure(path, name, `shape ${show(shape)}`, todo);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw tensorFailure(path, name, `data_offsets ${show(offsets)}`, todo);
  }
  const [begin = 0, end = 0] = offsets;
  const size = sizeOf(shape);
  const bytes = size * BYTES_PER_VALUE[dtype];
  if (end - begin !== bytes) {
    const found = `${end - begin} bytes of data where ${dtype} ${show(shape)} takes ${bytes}`;
    throw tensorFailure(path, name, found, todo);
  }
  return { name, dtype, shape, size, start: dataStart + begin, end: dataStart + end };
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === "string" && Object.hasOwn(BYTES_PER_VALUE, value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

/** The first key that occurs twice in one object of a valid JSON text: `JSON.parse` would keep the last one unasked. */
function duplicateKey(json: string): string | undefined {
  const enclosing: Set<string>[] = []; // the keys so far of each object or list around `at`
  for (let at = 0; at < json.length; at++) {
    const character = json[at];
    if (character === "{" || character === "[") enclosing.push(new Set());
    else if (character === "}" || character === "]") enclosing.pop();
    else if (character === '"') {
      const end = endOfString(json, at);
      const isKey = nextMark(json, end) === ":";
      if (isKey) {
        const key = JSON.parse(json.slice(at, end)) as string;
        const keys = enclosing.at(-1);
        if (keys?.has(key)) return key;
        keys?.add(key);
      }
      at = end - 1;
    }
  }
  return undefined;
}

/** Index just after the string that opens at `start`. */
function endOfString(json: string, start: number): number {
  let at = start + 1;
  while (at < json.length && json[at] !== '"') at += json[at] === "\\" ? 2 : 1;
  return at + 1;
}

function nextMark(json: string, start: number): string | undefined {
  let at = start;
  while (/\s/.test(json[at] ?? "")) at++;
  return json[at];
}

/**
 * The bytes in front of the data: length and header, padded with spaces so that the data begins aligned to 8 bytes.
 *
 * @param tensors in the order of the data.
 * @param room bytes to fill with them, a multiple of 8; by default as few as will do.
 * @throws {CheckpointError} if a name occurs twice, a dimension is not a count, or the header gets too long.
 */
export function encodeHeader(
  tensors: readonly Pick<TensorEntry, "name" | "dtype" | "shape">[],
  metadata: Readonly<Record<string, string>>,
  path: string,
  room = 0,
): Uint8Array {
  const fields = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) fields.set("__metadata__", metadata);
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    if (name === "__metadata__" || fields.has(name)) {
      throw writeFailure(path, `two entries named "${name}"`, "Give each tensor a name of its own");
    }
    if (!shape.every(isCount)) {
      throw writeFailure(path, `tensor "${name}" of shape ${show(shape)}`, "Dimensions are whole numbers from 0 on");
    }
    const bytes = sizeOf(shape) * BYTES_PER_VALUE[dtype];
    fields.set(name, { dtype, shape, data_offsets: [offset, offset + bytes] });
    offset += bytes;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(fields)));
  const length = Math.max(Math.ceil(json.byteLength / 8) * 8, room - LENGTH_BYTES);
  if (room > 0 && length > room - LENGTH_BYTES) throw new RangeError(`a header of ${length} bytes for ${room} of room`);
  if (length > MAX_HEADER_BYTES) {
    throw writeFailure(path, `a header of ${length} bytes, over ${MAX_HEADER_BYTES}`, "Split it into several files");
  }
  const header = new Uint8Array(LENGTH_BYTES + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, LENGTH_BYTES);
  return header;
}

/** Number of values of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}

/** A JSON value for an error message. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) as string | undefined; // JSON has no word for undefined
  if (text === undefined) return "missing";
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}

/** The message of anything thrown. */
export function describe(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** An error about a whole file. */
export function failure(path: string, found: string, todo: string, cause?: unknown): CheckpointError {
  return new CheckpointError({ asked: `read ${path}`, found, todo, cause });
}

/** An error about one tensor of a file. */
export function tensorFailure(
  path: string,
  name: string | undefined,
  found: string,
  todo: string,
  cause?: unknown,
): CheckpointError {
  if (name === undefined) return failure(path, found, todo, cause);
  return new CheckpointError({ asked: `read tensor "${name}" of ${path}`, found, todo, cause });
}

/** An error about a file that can't be written. */
export function writeFailure(path: string, found: string, todo: string, cause?: unknown): CheckpointError {
  return new CheckpointError({ asked: `write ${path}`, found, todo, cause });
}
