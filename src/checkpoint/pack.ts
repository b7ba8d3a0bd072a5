import { copyFile, mkdir, open, readdir, rename, rm, type FileHandle } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { join } from "node:path";

import { BackendError, CancelledError, UsageError } from "../errors.js";
import { checksum, checksumText } from "../runtime/checksum.js";
import type { Addon, WeightHandle } from "../runtime/native/addon.js";
import { weightFailure } from "../runtime/native/failures.js";
import { openCheckpoint, type Checkpoint, type CheckpointEntry } from "./checkpoint.js";
import {
  PACKED_DTYPES,
  packedShapes,
  packMetadata,
  SCALES,
  type PackedMatrix,
  type PackedStorage,
} from "./pack-format.js";
import { planPack, type PackPlan, type PlannedMatrix } from "./pack-plan.js";
import { PackedFile } from "./packed-file.js";
import { BYTES_PER_VALUE, encodeHeader, writeFailure, type Dtype } from "./safetensors-header.js";

/** How a checkpoint is packed. */
export interface PackOptions {
  /** How the decoder's matrices are stored; as for loading. */
  readonly weights: PackedStorage;
  /** Called after each tensor with the bytes of the original that are done. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What packing made. */
export interface PackSummary {
  readonly file: string;
  readonly bytes: number;
  readonly originalBytes: number; // of the tensors that were packed
  readonly matrices: number;
  /** Whether every value is the original's: so it is for `f32`, and for `f16` where 16 bits are enough. */
  readonly exact: boolean;
  readonly fingerprint: string; // the original's, and that of the packed checkpoint
}

/** The files beside the weights that a checkpoint is loaded with, or that say what it is. */
const COMPANIONS =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|preprocessor_config)\.json$|^spiece\.model$|^(README|LICEN[CS]E|NOTICE)(\.\w+)?$/;

const WEIGHT_FILE = "model.safetensors";

/**
 * Packs a checkpoint: writes its matrices as the native backend's kernels read them, so that loading maps the file and
 * converts nothing. The other tensors, embeddings, norms and the codec, stay as they are; the text encoder's matrices
 * stay exact, in 16 bits where those are enough. See {@link file://./pack-format.ts} for the format.
 *
 * `f16` and `f32` keep their values wherever those fit; `int8` has one scale per output and `int4` one per 32 inputs, and
 * both cost accuracy, as they do when they are chosen at loading.
 *
 * @param source a checkpoint directory in the Hugging Face layout, not packed yet
 * @param target a directory, made if need be, that has no weights yet. The weights appear there when they are complete.
 * @throws {UsageError} if the source is packed or the target has weights; {@link BackendError} if the native backend
 *   can't be used here, since the layout is its own; {@link CheckpointError} if the source is damaged or the target can't
 *   be written; {@link CancelledError} by `signal`. Nothing incomplete stays behind.
 */
export async function packCheckpoint(source: string, target: string, options: PackOptions): Promise<PackSummary> {
  const addon = await nativeAddon();
  const checkpoint = await openCheckpoint(source);
  try {
    await requireFresh(checkpoint, target);
    return await new Packer(addon, checkpoint, options).pack(target);
  } finally {
    await checkpoint.close();
  }
}

async function nativeAddon(): Promise<Addon> {
  try {
    const { registerNativeBackend } = await import("../runtime/native/register.js");
    return registerNativeBackend().addon;
  } catch (cause) {
    throw new BackendError({
      asked: "pack a checkpoint for the native backend",
      found: cause instanceof Error ? cause.message : String(cause),
      todo: "Run `tonearm doctor` to see how to get that backend",
      cause,
    });
  }
}

async function requireFresh({ directory, files }: Checkpoint, target: string): Promise<void> {
  const packed = files.find((file) => file instanceof PackedFile);
  if (packed) {
    throw new UsageError({
      asked: `pack ${directory}`,
      found: `it is packed already, as ${packed.weights}`,
      todo: "Pack the original",
    });
  }
  await mkdir(target, { recursive: true }).catch((cause: unknown) => {
    throw writeFailure(target, cause instanceof Error ? cause.message : String(cause), "Give a directory", cause);
  });
  const weights = (await readdir(target)).filter((name) => /\.(safetensors|bin)(\.index\.json)?$/.test(name));
  if (weights.length === 0) return;
  throw new UsageError({
    asked: `write a packed checkpoint to ${target}`,
    found: `${weights.join(", ")} there`,
    todo: "Give a new directory",
  });
}

/** A tensor that was written. */
interface Written {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
}

/** A packed matrix and its bytes. */
interface PackedMatrixBytes {
  readonly matrix: PackedMatrix;
  readonly values: Uint8Array;
  readonly scales: Uint8Array;
}

/** Matrices begin on cache lines. */
const ALIGNMENT = 64;

class Packer {
  readonly #addon: Addon;
  readonly #checkpoint: Checkpoint;
  readonly #options: PackOptions;
  readonly #plan: PackPlan;
  readonly #written: Written[] = [];
  readonly #matrices = new Map<string, PackedMatrix>();
  readonly #checksums = new Map<string, string>();
  readonly #exactStorages = new Map<string, PackedStorage>(); // by the first of each group
  #exact = true;
  #bytes = 0;

  constructor(addon: Addon, checkpoint: Checkpoint, options: PackOptions) {
    this.#addon = addon;
    this.#checkpoint = checkpoint;
    this.#options = options;
    this.#plan = planPack(checkpoint.tensors.values());
  }

  async pack(target: string): Promise<PackSummary> {
    const file = join(target, WEIGHT_FILE);
    const temporary = `${file}.${randomBytes(6).toString("hex")}.partial`;
    const handle = await open(temporary, "wx").catch((cause: unknown) => {
      throw writeFailure(file, cause instanceof Error ? cause.message : String(cause), "Check its directory", cause);
    });
    const fingerprint = await this.#checkpoint.fingerprint();
    try {
      const dataStart = this.#headerRoom();
      this.#bytes = dataStart;
      await this.#writeTensors(handle);
      const header = this.#header(fingerprint, dataStart);
      await handle.write(header, 0, header.byteLength, 0);
      await handle.sync();
      await handle.close();
      await this.#copyCompanions(target);
      await rename(temporary, file);
    } catch (error) {
      await handle.close();
      await rm(temporary, { force: true });
      throw error;
    }
    return {
      file,
      bytes: this.#bytes,
      originalBytes: this.#originalBytes(),
      matrices: this.#matrices.size,
      exact: this.#exact,
      fingerprint,
    };
  }

  #originalBytes(): number {
    return [...this.#checkpoint.tensors.values()].reduce((sum, { start, end }) => sum + end - start, 0);
  }

  async #writeTensors(handle: FileHandle): Promise<void> {
    const total = this.#originalBytes();
    let done = 0;
    const advance = ({ start, end }: CheckpointEntry): void => {
      done += end - start;
      this.#options.onProgress?.(done, total);
      if (this.#options.signal?.aborted !== true) return;
      throw new CancelledError({ asked: "pack a checkpoint", found: "it was interrupted", todo: "Start again" });
    };
    const scales: (() => Promise<void>)[] = [];
    for (const matrix of this.#plan.matrices) {
      const { entry } = matrix;
      const packed = await this.#packMatrix(matrix);
      this.#matrices.set(entry.name, packed.matrix);
      const shapes = packedShapes(packed.matrix);
      const dtype = PACKED_DTYPES[packed.matrix.storage];
      await this.#append(handle, { name: entry.name, dtype, shape: shapes.values }, packed.values);
      const scaleShape = shapes.scales;
      if (scaleShape) {
        const scaleType = packed.matrix.storage === "int8" ? "F32" : "F16";
        const scale = { name: entry.name + SCALES, dtype: scaleType, shape: scaleShape } as const;
        scales.push(() => this.#append(handle, scale, packed.scales));
      }
      advance(entry);
    }
    const copy = async (entry: CheckpointEntry): Promise<void> => {
      const { name, dtype, shape, start, end, file } = entry;
      await this.#append(handle, { name, dtype, shape }, await file.bytes(name, { first: 0, count: end - start }));
      advance(entry);
    };
    // Scales behind the matrices, so that those lie one behind the other; and everything aligned to its own width.
    const isWide = ({ dtype }: CheckpointEntry): boolean => BYTES_PER_VALUE[dtype] >= 4;
    for (const entry of this.#plan.others.filter(isWide)) await copy(entry);
    for (const append of scales) await append();
    for (const entry of this.#plan.others.filter((other) => !isWide(other))) await copy(entry);
  }

  async #packMatrix(matrix: PlannedMatrix): Promise<PackedMatrixBytes> {
    const { entry } = matrix;
    const [rows = 0, columns = 0] = entry.shape;
    const { weights } = this.#options;
    const exact = await this.#exactStorage(matrix);
    const storage = matrix.isDecoder || weights === "f32" ? weights : exact;
    this.#exact &&= storage === "f32" || storage === exact;
    const handle = await this.#makeWeight(entry, STORAGES.indexOf(storage));
    try {
      const [values, scales] = this.#addon.packedWeight(handle);
      return { matrix: { shape: [rows, columns], storage }, values, scales };
    } finally {
      this.#addon.releaseWeight(handle);
    }
  }

  /** The smallest storage that keeps every value of a matrix and of those it is multiplied as one with. */
  async #exactStorage({ group }: PlannedMatrix): Promise<PackedStorage> {
    const key = group[0]?.name ?? "";
    const known = this.#exactStorages.get(key);
    if (known) return known;
    let found: PackedStorage = "f16";
    for (const entry of group) {
      const handle = await this.#makeWeight(entry, EXACT);
      if (STORAGES[this.#addon.weightStorage(handle)] !== "f16") found = "f32";
      this.#addon.releaseWeight(handle);
    }
    this.#exactStorages.set(key, found);
    return found;
  }

  async #makeWeight(entry: CheckpointEntry, code: number): Promise<WeightHandle> {
    const [rows = 0, columns = 0] = entry.shape;
    const place = entry.file.place?.(entry.name);
    if (place === undefined || !("dtype" in place)) {
      return this.#addon.makeWeight([await entry.file.floats(entry.name)], columns, code);
    }
    const part = Float64Array.of(place.fileDescriptor, place.start, rows, DTYPES.indexOf(place.dtype));
    try {
      return this.#addon.makeFileWeight(part, columns, code);
    } catch (cause) {
      throw weightFailure(cause, `read "${entry.name}" of ${entry.file.path}`);
    }
  }

  async #append(handle: FileHandle, tensor: Written, bytes: Uint8Array): Promise<void> {
    let done = 0;
    while (done < bytes.byteLength) {
      const { bytesWritten } = await handle
        .write(bytes, done, bytes.byteLength - done, this.#bytes + done)
        .catch((cause: unknown) => {
          const found = cause instanceof Error ? cause.message : String(cause);
          throw writeFailure(tensor.name, found, "Check the space left on its disk", cause);
        });
      done += bytesWritten;
    }
    this.#bytes += bytes.byteLength;
    this.#written.push(tensor);
    this.#checksums.set(tensor.name, checksumText(checksum(bytes)));
  }

  #header(fingerprint: string, room: number): Uint8Array {
    const metadata = packMetadata({
      weights: this.#options.weights,
      fingerprint,
      matrices: Object.fromEntries(this.#matrices),
      checksums: Object.fromEntries(this.#checksums),
    });
    return encodeHeader(this.#written, metadata, WEIGHT_FILE, room);
  }

  /**
   * Bytes to leave for the header in front of the data: storages and checksums are known only once the data are written.
   * It is the size of a header whose every number is as long as it can get.
   */
  #headerRoom(): number {
    const longest = 10 ** 15;
    const perTensor = (name: string): number =>
      JSON.stringify({ [name + SCALES]: { dtype: "BF16", shape: [longest], data_offsets: [longest, longest] } })
        .length + JSON.stringify(JSON.stringify({ [name + SCALES]: "00000000" })).length;
    const perMatrix = (name: string): number =>
      JSON.stringify(JSON.stringify({ [name]: { shape: [longest, longest], storage: "int8" } })).length;
    let bytes = 4096;
    for (const { entry } of this.#plan.matrices) bytes += 2 * perTensor(entry.name) + perMatrix(entry.name);
    for (const { name, shape } of this.#plan.others) bytes += perTensor(name) + 17 * shape.length;
    return (Math.ceil(bytes / ALIGNMENT) + 1) * ALIGNMENT;
  }

  async #copyCompanions(target: string): Promise<void> {
    const { directory } = this.#checkpoint;
    for (const name of await readdir(directory)) {
      if (COMPANIONS.test(name)) await copyFile(join(directory, name), join(target, name));
    }
  }
}

/** By their codes in the native backend. */
const EXACT = -1;
const STORAGES: readonly PackedStorage[] = ["f32", "f16", "int8", "int4"];
const DTYPES: readonly string[] = ["F32", "F16", "BF16"];
