import { endianness } from "node:os";

import { PickleError, UsageError } from "../errors.js";
import { openFile, readBytes, type OpenFile } from "./file-bytes.js";
import { bfloatToFloat, halfToFloat } from "./float16.js";
import { kindOf, PickledDict, PickledTensor, type PickledStorage, type PickleValue } from "./pickle.js";
import { BYTES_PER_VALUE, failure, sizeOf, tensorFailure, type TensorEntry } from "./safetensors-header.js";
import { isLegacyFile, readLegacyFile } from "./torch-legacy.js";
import { MAX_PICKLE_BYTES, unpickle } from "./unpickler.js";
import type { ValueRange, WeightFile } from "./weight-file.js";
import { readZipDirectory, zipDataStart } from "./zip.js";

/** What a file written by `torch.save` holds, before any tensor's values are read. */
export interface TorchContents {
  readonly value: PickleValue;
  /** Where the values of each storage start, by its key; each is as long as it says it is. */
  readonly storages: ReadonlyMap<string, number>;
}

/** A tensor of the file, by its name in the state dict. */
interface TorchEntry extends TensorEntry {
  readonly tensor: PickledTensor;
  readonly storageStart: number; // in bytes from the start of the file
  readonly isContiguous: boolean; // whether its values lie one after the other, in order
}

/**
 * A checkpoint written by Python's `torch.save`: `pytorch_model.bin`, audiocraft's `state_dict.bin` and their like. It is
 * read without Python and without running anything of it: see {@link unpickle}.
 *
 * Both of PyTorch's formats are read: the ZIP archive of `data.pkl` and `data/0`, `data/1`, … (since 1.6), and the
 * pickles in a row of before. Values are read from the file when they are asked for.
 *
 * `start` and `end` of an entry say where its values lie if they are in order; a transposed tensor's lie further apart.
 */
export class TorchFile implements WeightFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** What stands beside the state dict in the same file; empty where the file is the state dict. */
  readonly beside: PickledDict;
  readonly #entries: ReadonlyMap<string, TorchEntry>;
  readonly #file: OpenFile;

  private constructor(file: OpenFile, entries: ReadonlyMap<string, TorchEntry>, beside: PickledDict) {
    this.path = file.path;
    this.tensors = entries;
    this.beside = beside;
    this.#entries = entries;
    this.#file = file;
  }

  /**
   * Opens a file and reads all but its tensors' values.
   *
   * @param key where the state dict lies in the dict that the file holds; without it, the file is the state dict.
   * @throws {CheckpointError} if the file is missing, unreadable, damaged or of another format; {@link PickleError} if it
   *   holds anything but tensors, dicts, lists and numbers.
   */
  static async open(path: string, key?: string): Promise<TorchFile> {
    if (endianness() !== "LE") throw failure(path, "a big-endian processor", "Weights are read on little-endian ones");
    const file = await openFile(path);
    try {
      const { value, storages } = await readContents(file);
      const { state, beside } = stateDict(value, key, path);
      return new TorchFile(file, findTensors(state, storages, path), beside);
    } catch (error) {
      await file.handle.close();
      throw error;
    }
  }

  /**
   * What a file holds besides tensors, without looking for a state dict: a dict, as audiocraft's files are.
   *
   * @throws as {@link open}.
   */
  static async contents(path: string): Promise<PickledDict> {
    const file = await openFile(path);
    try {
      return stateDict((await readContents(file)).value, undefined, path).state;
    } finally {
      await file.handle.close();
    }
  }

  async close(): Promise<void> {
    await this.#file.handle.close();
  }

  async floats(name: string, range?: ValueRange): Promise<Float32Array<ArrayBuffer>> {
    const entry = this.#entry(name);
    const { first, count } = range ?? { first: 0, count: entry.size };
    const width = BYTES_PER_VALUE[entry.dtype];
    const read = async (): Promise<ArrayBuffer> =>
      (await this.bytes(name, { first: first * width, count: count * width })).buffer;
    switch (entry.dtype) {
      case "F32":
        return new Float32Array(await read());
      case "F16":
        return halfToFloat(new Uint16Array(await read()));
      case "BF16":
        return bfloatToFloat(new Uint16Array(await read()));
      case "F64":
        return new Float32Array(new Float64Array(await read()));
      default:
        throw tensorFailure(this.path, name, `values of type ${entry.dtype}`, "Only F32, F16, BF16 and F64 are floats");
    }
  }

  async bytes(name: string, { first, count }: ValueRange): Promise<Uint8Array<ArrayBuffer>> {
    const entry = this.#entry(name);
    const available = entry.end - entry.start;
    if (
      !Number.isSafeInteger(first) ||
      !Number.isSafeInteger(count) ||
      first < 0 ||
      count < 0 ||
      first + count > available
    ) {
      throw new UsageError({
        asked: `read ${count} bytes of tensor "${name}" from ${first} on`,
        found: `${available} of them`,
        todo: "Ask for a range inside the tensor",
      });
    }
    if (entry.isContiguous) return readBytes(this.#file, entry.start + first, count, name);
    return (await this.#inOrder(entry)).slice(first, first + count);
  }

  /** All values of a tensor whose strides are not those of its shape. */
  async #inOrder({ name, dtype, tensor, storageStart, size }: TorchEntry): Promise<Uint8Array<ArrayBuffer>> {
    const { shape, strides, offset } = tensor;
    const width = BYTES_PER_VALUE[dtype];
    const span = shape.reduce((sum, count, axis) => sum + (count - 1) * (strides[axis] ?? 0), 1);
    const source = await readBytes(this.#file, storageStart + offset * width, span * width, name);
    const ordered = new Uint8Array(size * width);
    const index = shape.map(() => 0);
    let from = 0; // in values
    for (let to = 0; to < size; to++) {
      for (let byte = 0; byte < width; byte++) ordered[to * width + byte] = source[from * width + byte] ?? 0;
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        const stride = strides[axis] ?? 0;
        const next = (index[axis] ?? 0) + 1;
        from += stride;
        if (next < (shape[axis] ?? 0)) {
          index[axis] = next;
          break;
        }
        index[axis] = 0;
        from -= stride * next;
      }
    }
    return ordered;
  }

  #entry(name: string): TorchEntry {
    const entry = this.#entries.get(name);
    if (entry) return entry;
    throw failure(this.path, `no tensor named "${name}"`, "List the file's tensors with `tonearm inspect`");
  }
}

async function readContents(file: OpenFile): Promise<TorchContents> {
  const head = await readBytes(file, 0, Math.min(file.size, 32));
  const text = Buffer.from(head).toString("latin1");
  if (text.startsWith("PK\u0003\u0004")) return readArchive(file);
  if (text.startsWith("version ")) {
    const todo = "Run `git lfs pull` where the file came from";
    throw failure(file.path, "a Git LFS pointer in place of the weights", todo);
  }
  if (isLegacyFile(head)) return readLegacyFile(file);
  throw failure(
    file.path,
    file.size === 0 ? "an empty file" : "neither of the formats that torch.save writes",
    "Fetch the file again: it is damaged, or of another kind",
  );
}

/** The archive's files lie in one folder: `data.pkl`, `data/…` and `byteorder`. */
async function readArchive(file: OpenFile): Promise<TorchContents> {
  const entries = await readZipDirectory(file);
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (pickle === undefined || pickles.length > 1) {
    throw failure(file.path, "a ZIP archive that torch.save did not write", "Give a checkpoint of PyTorch");
  }
  const folder = pickle.slice(0, -"data.pkl".length);
  if (entries.has(`${folder}constants.pkl`)) {
    throw failure(file.path, "a TorchScript program", "Give a file of weights, as torch.save writes a state dict");
  }
  const read = async (name: string, limit: number): Promise<Uint8Array | undefined> => {
    const entry = entries.get(folder + name);
    if (!entry) return undefined;
    if (entry.size > limit)
      throw failure(file.path, `${name} of ${entry.size} bytes, over ${limit}`, "Use another file");
    return readBytes(file, await zipDataStart(file, entry), entry.size);
  };
  const order = await read("byteorder", 16);
  if (order && Buffer.from(order).toString("latin1") !== "little") {
    throw failure(file.path, "big-endian values", "Save it anew on a little-endian machine");
  }
  const { value } = unpickle((await read("data.pkl", MAX_PICKLE_BYTES)) ?? new Uint8Array(), file.path);
  const storages = new Map<string, number>();
  for (const { key, size, dtype } of storagesOf(value)) {
    const entry = entries.get(`${folder}data/${key}`);
    const bytes = size * BYTES_PER_VALUE[dtype];
    if (entry?.size !== bytes) {
      const found = `${entry ? `${entry.size} bytes` : "nothing"} under data/${key}, where ${bytes} bytes should be`;
      throw failure(file.path, found, "Fetch the file again: it is damaged or was cut short");
    }
    if (!storages.has(key)) storages.set(key, await zipDataStart(file, entry));
  }
  return { value, storages };
}

/** The storages of the tensors two levels deep: in a state dict, or in one inside a dict. */
function storagesOf(value: PickleValue): PickledStorage[] {
  const dicts = value instanceof PickledDict ? [value, ...[...value.entries.values()].filter(isDict)] : [];
  const tensors = dicts.flatMap((dict) => [...dict.entries.values()].filter((item) => item instanceof PickledTensor));
  return tensors.map(({ storage }) => storage);
}

function isDict(value: PickleValue): value is PickledDict {
  return value instanceof PickledDict;
}

function stateDict(
  value: PickleValue,
  key: string | undefined,
  path: string,
): { readonly state: PickledDict; readonly beside: PickledDict } {
  const refuse = (found: string, todo: string): PickleError => new PickleError({ asked: `read ${path}`, found, todo });
  if (!isDict(value)) throw refuse(kindOf(value), "Give a file that holds a state dict");
  if (key === undefined) return { state: value, beside: new PickledDict(false) };
  const state = value.entries.get(key);
  if (state !== undefined && isDict(state)) return { state, beside: value };
  const keys = [...value.entries.keys()].slice(0, 20).join(", ");
  throw refuse(
    `${state === undefined ? "no" : `${kindOf(state)} as`} ${key} among ${keys}`,
    "Give a file that audiocraft exported",
  );
}

function findTensors(
  state: PickledDict,
  storages: ReadonlyMap<string, number>,
  path: string,
): ReadonlyMap<string, TorchEntry> {
  const entries = new Map<string, TorchEntry>();
  for (const [name, tensor] of state.entries) {
    if (typeof name !== "string" || !(tensor instanceof PickledTensor)) {
      throw new PickleError({
        asked: `read ${path}`,
        found: `${kindOf(tensor)} under "${name}", where a tensor should be`,
        todo: "Give a file whose dict holds a model's weights and nothing else",
      });
    }
    const { storage, shape, strides, offset } = tensor;
    const storageStart = storages.get(storage.key);
    if (storageStart === undefined)
      throw failure(path, `no values for "${name}"`, "Fetch the file again: it is damaged");
    const width = BYTES_PER_VALUE[storage.dtype];
    const size = sizeOf(shape);
    const start = storageStart + offset * width;
    const isContiguous = size === 0 || hasRowMajorStrides(shape, strides);
    const entry = { name, dtype: storage.dtype, shape, size, start, end: start + size * width };
    entries.set(name, { ...entry, tensor, storageStart, isContiguous });
  }
  if (entries.size === 0) throw failure(path, "no tensors", "Fetch the file again, or give another one");
  return entries;
}

/** Strides of an axis of one value do not matter. */
function hasRowMajorStrides(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const count = shape[axis] ?? 0;
    if (count !== 1 && strides[axis] !== expected) return false;
    expected *= count;
  }
  return true;
}
