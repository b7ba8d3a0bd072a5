import { UsageError } from "../errors.js";
import { checksum } from "../runtime/checksum.js";
import type { MatrixPlace, WeightStorage } from "../runtime/linear.js";
import { halfToFloat } from "./float16.js";
import {
  packedEntries,
  parsePack,
  requireChecksum,
  unpackMatrix,
  type Pack,
  type PackedEntry,
  type StoredMatrix,
} from "./pack-format.js";
import { floatsIn, SafetensorsFile } from "./safetensors.js";
import type { ValueRange, WeightFile } from "./weight-file.js";

/**
 * A safetensors file for loading: as it is, or if it is packed as its matrices and other tensors by their own names and
 * shapes.
 *
 * @throws {CheckpointError} as {@link SafetensorsFile.open}; and if it is packed in another version or layout.
 */
export async function openWeights(path: string): Promise<WeightFile> {
  const file = await SafetensorsFile.open(path);
  try {
    const pack = parsePack(file.metadata, path);
    return pack ? new PackedFile(file, pack) : file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * A packed file. The native backend maps its matrices; elsewhere {@link floats} unpacks them. Every tensor's checksum is
 * compared when it is read, or mapped.
 */
export class PackedFile implements WeightFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, PackedEntry>;
  /** How the decoder's matrices are stored. */
  readonly weights: WeightStorage;
  /** Of the checkpoint that was packed: it is the same model. */
  readonly fingerprint: string;
  readonly #file: SafetensorsFile;

  /** Takes ownership of `file`. @throws {CheckpointError} if its tensors are not those that `pack` lists. */
  constructor(file: SafetensorsFile, pack: Pack) {
    this.path = file.path;
    this.#file = file;
    this.weights = pack.weights;
    this.fingerprint = pack.fingerprint;
    this.tensors = new Map(packedEntries(file.tensors, pack, file.path).map((entry) => [entry.name, entry]));
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async floats(name: string, range?: ValueRange): Promise<Float32Array<ArrayBuffer>> {
    const entry = this.#entry(name);
    const { matrix, checksum: expected } = entry;
    const values = await this.bytes(name);
    requireChecksum(name, expected, checksum(values), this.path);
    const floats =
      matrix === undefined
        ? floatsIn(values, entry, this.path)
        : unpackMatrix(matrix, values, await this.#scales(matrix));
    return range ? floats.slice(range.first, range.first + range.count) : floats;
  }

  /** Stored bytes: of a matrix in the packed layout. */
  async bytes(name: string, range?: ValueRange): Promise<Uint8Array<ArrayBuffer>> {
    const { start, end } = this.#entry(name);
    return this.#file.bytes(name, range ?? { first: 0, count: end - start });
  }

  place(name: string): MatrixPlace | undefined {
    const { start, checksum: expected, matrix } = this.#entry(name);
    const { fileDescriptor } = this.#file;
    if (matrix === undefined) return undefined; // read and compared on the host
    return { fileDescriptor, start, checksum: expected, storage: matrix.storage, scales: matrix.scales };
  }

  async #scales({ storage, scales }: StoredMatrix): Promise<Float32Array> {
    if (scales === undefined) return new Float32Array();
    const bytes = await this.#file.bytes(scales.name, { first: 0, count: scales.end - scales.start });
    requireChecksum(scales.name, scales.checksum, checksum(bytes), this.path);
    return storage === "int8" ? new Float32Array(bytes.buffer) : halfToFloat(new Uint16Array(bytes.buffer));
  }

  #entry(name: string): PackedEntry {
    const entry = this.tensors.get(name);
    return entry ?? { ...this.#file.entry(name), checksum: 0 };
  }
}

/**
 * How a checkpoint's decoder will be stored: as asked, or as it is packed.
 *
 * @param asked absent or "exact": whatever loses nothing more
 * @throws {UsageError} if it is packed in another storage than the one asked for.
 */
export function chooseStorage(files: readonly WeightFile[], asked: WeightStorage = "exact"): WeightStorage {
  const packed = files.find((file) => file instanceof PackedFile);
  if (packed === undefined) return asked;
  if (asked === "exact" || asked === packed.weights) return packed.weights;
  throw new UsageError({
    asked: `weights stored as ${asked}`,
    found: `${packed.path}, which is packed as ${packed.weights}`,
    todo: "Leave the storage at its default, or load the checkpoint that was packed",
  });
}
