import { readBytes, type OpenFile } from "./file-bytes.js";
import { kindOf, PickledDict, PickledList, PickledTensor, type PickledStorage, type PickleValue } from "./pickle.js";
import { BYTES_PER_VALUE, failure } from "./safetensors-header.js";
import type { TorchContents } from "./torch-file.js";
import { MAX_PICKLE_BYTES, unpickle, UnfinishedPickle } from "./unpickler.js";

/**
 * What `torch.save` wrote before PyTorch 1.6 (2020): five pickles in a row (a magic number, the protocol, the machine it
 * was written on, the state dict, the keys of its storages), then for each key the number of values in 8 bytes and the
 * values.
 */

const MAGIC_NUMBER = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;
const FIRST_CHUNK = 2 ** 18; // bytes; most checkpoints' pickles are shorter

/** Whether a file that starts with these bytes is one: the pickled magic number stands first. */
export function isLegacyFile(head: Uint8Array): boolean {
  const start = [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e];
  return start.every((byte, index) => head[index] === byte);
}

/**
 * Reads the pickles, and where each storage's values are.
 *
 * @throws {CheckpointError} if it is damaged or cut short; {@link PickleError} as {@link unpickle}.
 */
export async function readLegacyFile(file: OpenFile): Promise<TorchContents> {
  const { values, end } = await readPickles(file);
  const [magic, protocol, machine, value = null, keys = null] = values;
  if (magic !== MAGIC_NUMBER || protocol !== PROTOCOL) throw damaged(file, "another protocol");
  const isLittle = machine instanceof PickledDict && machine.entries.get("little_endian") === true;
  if (!isLittle) throw failure(file.path, "big-endian values", "Save it anew on a little-endian machine");
  if (!(keys instanceof PickledList)) throw damaged(file, "no list of its storages");
  const named = storagesOf(value, file);
  const storages = new Map<string, number>();
  let at = end;
  for (const key of keys.items) {
    const storage = typeof key === "string" ? named.get(key) : undefined;
    if (!storage) throw damaged(file, `a storage that no tensor uses: ${typeof key === "string" ? key : kindOf(key)}`);
    if (at + 8 > file.size) throw damaged(file, `its end before storage ${storage.key}`);
    const size = new DataView((await readBytes(file, at, 8)).buffer).getBigInt64(0, true);
    const bytes = storage.size * BYTES_PER_VALUE[storage.dtype];
    if (size !== BigInt(storage.size) || at + 8 + bytes > file.size) {
      throw damaged(file, `${size} values of storage ${storage.key} at byte ${at}, where ${storage.size} should be`);
    }
    storages.set(storage.key, at + 8);
    at += 8 + bytes;
  }
  if (at !== file.size) throw damaged(file, `${file.size - at} bytes after its last values`);
  return { value, storages };
}

/** The five pickles; how long they are only they can tell, so more is read until they end. */
async function readPickles(file: OpenFile): Promise<{ readonly values: readonly PickleValue[]; readonly end: number }> {
  for (let limit = FIRST_CHUNK; ; limit *= 4) {
    const bytes = await readBytes(file, 0, Math.min(limit, file.size, MAX_PICKLE_BYTES));
    try {
      const values: PickleValue[] = [];
      let end = 0;
      while (values.length < 5) {
        const part = unpickle(bytes, file.path, end);
        values.push(part.value);
        end = part.end;
      }
      return { values, end };
    } catch (error) {
      const hasMore = bytes.byteLength === limit && limit < MAX_PICKLE_BYTES;
      if (!(error instanceof UnfinishedPickle) || !hasMore) throw error;
    }
  }
}

/** The storages of the tensors in a state dict, or in one inside a dict, by key. */
function storagesOf(value: PickleValue, file: OpenFile): ReadonlyMap<string, PickledStorage> {
  const storages = new Map<string, PickledStorage>();
  const outer = value instanceof PickledDict ? [value, ...value.entries.values()] : [];
  const dicts = outer.filter((item) => item instanceof PickledDict);
  for (const tensor of dicts.flatMap(({ entries }) => [...entries.values()])) {
    if (!(tensor instanceof PickledTensor)) continue;
    const { key, size, dtype } = tensor.storage;
    const known = storages.get(key);
    if (known && (known.size !== size || known.dtype !== dtype)) throw damaged(file, `two sizes of storage ${key}`);
    storages.set(key, tensor.storage);
  }
  return storages;
}

function damaged(file: OpenFile, found: string): Error {
  return failure(file.path, found, "Fetch the file again: it is damaged or was cut short");
}
