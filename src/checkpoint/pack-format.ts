import { CheckpointError } from "../errors.js";
import type { WeightStorage } from "../runtime/linear.js";
import { checksumText } from "../runtime/checksum.js";
import { halfToFloat } from "./float16.js";
import { isJsonObject, type JsonObject } from "./json.js";
import { show, sizeOf, type Dtype, type TensorEntry } from "./safetensors-header.js";

/**
 * What a packed checkpoint is: a safetensors file whose matrices lie there as the native backend's kernels read them, so
 * that they can stay in the file while they are used.
 *
 * Tensors keep the names they have in the Hugging Face layout. A matrix [out, in] is stored as
 *
 * | storage | tensor | beside it, under its name and `.scales` |
 * |---|---|---|
 * | `f32` | F32 [out, in] | |
 * | `f16` | F16 [out, S] | |
 * | `int8` | I8 [out, S] | F32 [out]: what one step of an output is worth |
 * | `int4` | U8 [out, S/2]: in groups of 32, byte j holds value j in its low and value 16 + j in its high half, each plus 8 | F16 [out, S/32]: one for each group |
 *
 * with S the next multiple of 32 from `in` on and zeros in between. All other tensors are as they were. The metadata
 * entry `tonearm_pack` is JSON: version, layout, the storage of the decoder's matrices, the fingerprint of the checkpoint
 * that was packed, shape and storage of each matrix, and the XXH32 of every tensor's bytes.
 *
 * Matrices that are multiplied as one (q, k and v; the heads) lie one behind the other.
 */

export const PACK_VERSION = 1;
export const PACK_LAYOUT = "rows of 32, little-endian";
export const PACK_KEY = "tonearm_pack";
export const SCALES = ".scales";

/** Storages that a file can hold. */
export type PackedStorage = Exclude<WeightStorage, "exact">;

/** Storages by name, and the dtype their values have. */
export const PACKED_DTYPES: Readonly<Record<PackedStorage, Dtype>> = { f32: "F32", f16: "F16", int8: "I8", int4: "U8" };

/** A matrix of a packed file. */
export interface PackedMatrix {
  readonly shape: readonly [number, number]; // [out, in]
  readonly storage: PackedStorage;
}

/** What `tonearm_pack` says. */
export interface Pack {
  readonly weights: PackedStorage; // of the decoder's matrices
  readonly fingerprint: string; // of the checkpoint that was packed
  readonly matrices: Readonly<Record<string, PackedMatrix>>;
  readonly checksums: Readonly<Record<string, string>>; // by the names in the file, scales included
}

/** Elements from one row to the next. */
export function packedStride(storage: PackedStorage, inputs: number): number {
  return storage === "f32" ? inputs : Math.ceil(inputs / 32) * 32;
}

/** Shape of the stored values, and of the scales if there are any. */
export function packedShapes({ shape, storage }: PackedMatrix): {
  readonly values: readonly number[];
  readonly scales?: readonly number[];
} {
  const [outputs, inputs] = shape;
  const stride = packedStride(storage, inputs);
  if (storage === "int8") return { values: [outputs, stride], scales: [outputs] };
  if (storage === "int4") return { values: [outputs, stride / 2], scales: [outputs, stride / 32] };
  return { values: [outputs, stride] };
}

/** A tensor of a checkpoint file, with what a packed file says of it. */
export interface PackedEntry extends TensorEntry {
  readonly checksum: number;
  /** Absent where the tensor was not changed by packing. */
  readonly matrix?: StoredMatrix;
}

/** A matrix and where its scales are, if it has any. */
export interface StoredMatrix extends PackedMatrix {
  readonly scales?: TensorEntry & { readonly checksum: number };
}

/** Metadata for a packed file. */
export function packMetadata(pack: Pack): Readonly<Record<string, string>> {
  const { weights, fingerprint, matrices, checksums } = pack;
  const fields = { version: PACK_VERSION, layout: PACK_LAYOUT, weights, fingerprint, matrices, checksums };
  return { [PACK_KEY]: JSON.stringify(fields) };
}

/**
 * Reads what a file says of its packing.
 *
 * @returns undefined if it is not packed.
 * @throws {CheckpointError} if it is of another version or layout, or damaged.
 */
export function parsePack(metadata: Readonly<Record<string, string>>, path: string): Pack | undefined {
  const text = metadata[PACK_KEY];
  if (text === undefined) return undefined;
  const fields = parseFields(text, path);
  const { version, layout, weights, fingerprint, matrices, checksums } = fields;
  if (version !== PACK_VERSION) {
    throw failure(path, `version ${show(version)}; this tonearm reads version ${PACK_VERSION}`, PACK_AGAIN);
  }
  if (layout !== PACK_LAYOUT) {
    throw failure(path, `the layout ${show(layout)}; this tonearm reads ${show(PACK_LAYOUT)}`, PACK_AGAIN);
  }
  if (!isStorage(weights)) throw failure(path, `weights stored as ${show(weights)}`, PACK_AGAIN);
  if (typeof fingerprint !== "string" || !/^[0-9a-f]{64}$/.test(fingerprint)) {
    throw failure(path, `the fingerprint ${show(fingerprint)}`, PACK_AGAIN);
  }
  if (!isJsonObject(matrices) || !Object.values(matrices).every(isMatrix)) {
    throw failure(path, "a list of matrices that is damaged", PACK_AGAIN);
  }
  if (!isJsonObject(checksums) || !Object.values(checksums).every(isChecksum)) {
    throw failure(path, "a list of checksums that is damaged", PACK_AGAIN);
  }
  return {
    weights,
    fingerprint,
    matrices: matrices as Readonly<Record<string, PackedMatrix>>,
    checksums: checksums as Readonly<Record<string, string>>,
  };
}

const PACK_AGAIN = "Pack the original again with `tonearm pack`, or fetch the file again";

function parseFields(text: string, path: string): JsonObject {
  try {
    const value: unknown = JSON.parse(text);
    if (isJsonObject(value)) return value;
  } catch {
    // told below
  }
  throw failure(path, `${PACK_KEY} is not a JSON object`, PACK_AGAIN);
}

function isStorage(value: unknown): value is PackedStorage {
  return typeof value === "string" && Object.hasOwn(PACKED_DTYPES, value);
}

function isMatrix(value: unknown): boolean {
  if (!isJsonObject(value) || !isStorage(value["storage"])) return false;
  const shape = value["shape"];
  return Array.isArray(shape) && shape.length === 2 && shape.every((size) => Number.isSafeInteger(size) && size > 0);
}

function isChecksum(value: unknown): boolean {
  return typeof value === "string" && /^[0-9a-f]{8}$/.test(value);
}

/**
 * The tensors of a packed file under their own names: matrices by their own shapes, scales with their matrix.
 *
 * @throws {CheckpointError} if tensors and metadata disagree.
 */
export function packedEntries(
  tensors: ReadonlyMap<string, TensorEntry>,
  pack: Pack,
  path: string,
): readonly PackedEntry[] {
  const checked = (entry: TensorEntry): TensorEntry & { readonly checksum: number } => {
    const text = pack.checksums[entry.name];
    if (text === undefined) throw failure(path, `no checksum of "${entry.name}"`, PACK_AGAIN);
    return { ...entry, checksum: parseInt(text, 16) };
  };
  const required = (name: string, dtype: Dtype, shape: readonly number[]): TensorEntry => {
    const entry = tensors.get(name);
    if (entry?.dtype === dtype && show(entry.shape) === show(shape)) return entry;
    const found = entry ? `${entry.dtype} ${show(entry.shape)}` : "nothing";
    throw failure(path, `${found} as "${name}" where ${dtype} ${show(shape)} should be`, PACK_AGAIN);
  };
  const scalesOf = new Set<string>();
  const matrices = Object.entries(pack.matrices).map(([name, { shape, storage }]): PackedEntry => {
    const shapes = packedShapes({ shape, storage });
    const values = required(name, PACKED_DTYPES[storage], shapes.values);
    const entry = { ...checked(values), shape, size: sizeOf(shape) };
    if (shapes.scales === undefined) return { ...entry, matrix: { shape, storage } };
    scalesOf.add(name + SCALES);
    const scales = checked(required(name + SCALES, storage === "int8" ? "F32" : "F16", shapes.scales));
    return { ...entry, matrix: { shape, storage, scales } };
  });
  const rest = [...tensors.values()].filter(({ name }) => !Object.hasOwn(pack.matrices, name) && !scalesOf.has(name));
  return [...matrices, ...rest.map(checked)];
}

/**
 * The values of a packed matrix, for backends that know no storages.
 *
 * @param bytes as they are stored
 * @param scales none for f32 and f16
 * @returns float32 [out, in]
 */
export function unpackMatrix(
  { shape, storage }: PackedMatrix,
  bytes: Uint8Array<ArrayBuffer>,
  scales: Float32Array,
): Float32Array<ArrayBuffer> {
  const [outputs, inputs] = shape;
  const stride = packedStride(storage, inputs);
  if (storage === "f32") return new Float32Array(bytes.buffer);
  const valueAt = reader(storage, bytes, scales, stride);
  const values = new Float32Array(outputs * inputs);
  for (let row = 0; row < outputs; row++) {
    for (let column = 0; column < inputs; column++) values[row * inputs + column] = valueAt(row * stride + column);
  }
  return values;
}

function reader(
  storage: PackedStorage,
  bytes: Uint8Array<ArrayBuffer>,
  scales: Float32Array,
  stride: number,
): (at: number) => number {
  if (storage === "int8") {
    const steps = new Int8Array(bytes.buffer);
    return (at) => (steps[at] ?? 0) * (scales[Math.floor(at / stride)] ?? NaN);
  }
  if (storage === "int4") {
    return (at) => {
      const byte = bytes[Math.floor(at / 32) * 16 + (at % 16)] ?? 0;
      return ((at % 32 < 16 ? byte & 15 : byte >> 4) - 8) * (scales[Math.floor(at / 32)] ?? NaN);
    };
  }
  const floats = halfToFloat(new Uint16Array(bytes.buffer));
  return (at) => floats[at] ?? NaN;
}

/** @throws {CheckpointError} if a tensor's bytes have another checksum than the file says. */
export function requireChecksum(name: string, expected: number, found: number, path: string): void {
  if (expected === found) return;
  throw new CheckpointError({
    asked: `read "${name}" of ${path}`,
    found: `the checksum ${checksumText(found)} where ${checksumText(expected)} is recorded`,
    todo: "The file is damaged: fetch it again, or pack the original again",
  });
}

function failure(path: string, found: string, todo: string): CheckpointError {
  return new CheckpointError({ asked: `open the packed checkpoint ${path}`, found, todo });
}
