import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";

import { CheckpointError } from "../errors.js";
import { LANGUAGE_MODEL_FILE, openAudiocraft } from "./audiocraft/open.js";
import { isJsonObject, readJsonFile } from "./json.js";
import { openWeights } from "./packed-file.js";
import type { TensorEntry } from "./safetensors.js";
import { WeightScope } from "./scope.js";
import { TorchFile } from "./torch-file.js";
import type { WeightFile } from "./weight-file.js";

const SINGLE_FILE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";

/** The formats that Hugging Face's weights come in, best first: the name of one file, or of the index of several. */
const FORMATS = [
  {
    single: SINGLE_FILE,
    index: INDEX_FILE,
    suffix: ".safetensors",
    open: (path: string): Promise<WeightFile> => openWeights(path),
  },
  {
    single: "pytorch_model.bin",
    index: "pytorch_model.bin.index.json",
    suffix: ".bin",
    open: (path: string) => TorchFile.open(path),
  },
] as const;

/** A tensor of a checkpoint and the file it lies in. */
export interface CheckpointEntry extends TensorEntry {
  readonly file: WeightFile;
}

/**
 * The weights of one directory. Keeps its files open until `close()`, and counts which tensors were consumed.
 *
 * ```ts
 * const checkpoint = await openCheckpoint("weights/demo");
 * try {
 *   const text = await loadT5(checkpoint.scope("text_encoder"), config);
 *   …
 *   checkpoint.finish();
 * } finally {
 *   await checkpoint.close();
 * }
 * ```
 */
export class Checkpoint {
  readonly directory: string;
  readonly files: readonly WeightFile[];
  /** Every tensor by its full dotted name. */
  readonly tensors: ReadonlyMap<string, CheckpointEntry>;
  readonly #consumed = new Map<string, number>();

  constructor(directory: string, files: readonly WeightFile[]) {
    this.directory = directory;
    this.files = files;
    this.tensors = new Map(
      files.flatMap((file) => [...file.tensors.values()].map((entry) => [entry.name, { ...entry, file }])),
    );
  }

  /** The checkpoint seen from a path, from its root without one. */
  scope(...path: readonly (string | number)[]): WeightScope {
    return new WeightScope(this).scope(...path);
  }

  /**
   * Counts a tensor as consumed and returns its entry; for {@link WeightScope}.
   *
   * @throws {CheckpointError} if there is no tensor of that name.
   */
  consume(name: string): CheckpointEntry {
    const entry = this.tensors.get(name);
    if (entry === undefined) {
      throw new CheckpointError({
        asked: `read "${name}" of ${this.directory}`,
        found: `no tensor of that name among ${this.tensors.size}`,
        todo: "Its config.json belongs to another model, or this is not a MusicGen checkpoint",
      });
    }
    this.#consumed.set(name, (this.#consumed.get(name) ?? 0) + 1);
    return entry;
  }

  /**
   * Ends loading: proves that every tensor was consumed exactly once.
   *
   * @param prefixes limits the proof to tensors under these paths, where only a part of the model was wanted.
   * @throws {CheckpointError} naming every tensor that was not consumed, and every one consumed more than once.
   */
  finish(...prefixes: readonly string[]): void {
    const inside = [...this.tensors.keys()].filter(
      (name) => prefixes.length === 0 || prefixes.some((prefix) => name.startsWith(`${prefix}.`)),
    );
    const unused = inside.filter((name) => !this.#consumed.has(name));
    const reused = inside.filter((name) => (this.#consumed.get(name) ?? 0) > 1);
    if (unused.length === 0 && reused.length === 0) return;
    const found = [
      ...(unused.length > 0 ? [`${unused.length} tensors that no network uses: ${unused.join(", ")}`] : []),
      ...(reused.length > 0 ? [`${reused.length} tensors that were used twice: ${reused.join(", ")}`] : []),
    ];
    throw new CheckpointError({
      asked: `use every weight of ${this.directory} once`,
      found: found.join("; "),
      todo: "The checkpoint is of another architecture than its config.json says",
    });
  }

  /**
   * An identity of the weights for provenance: 64 hex digits, the same wherever the checkpoint lies and however it is
   * cut into files.
   *
   * It is the SHA-256 over all tensors in order of their names, of: name, dtype, shape, and data. Of a tensor up to
   * 4 KiB all data counts; of a longer one four blocks of 1 KiB, evenly spaced from its first to its last byte. So it
   * costs milliseconds on gigabytes and tells any two trained models apart, but it does not notice a change confined to
   * bytes in between: it is no checksum against damage. Metadata and config.json do not count.
   *
   * A packed checkpoint has the identity of the one that was packed: it is the same model, stored in another way.
   */
  async fingerprint(): Promise<string> {
    const [recorded, ...others] = new Set(this.files.map((file) => file.fingerprint));
    if (recorded !== undefined && others.length === 0) return recorded;
    const hash = createHash("sha256");
    const names = [...this.tensors.keys()].toSorted();
    for (const name of names) {
      const entry = this.tensors.get(name);
      if (entry === undefined) continue;
      hash.update(`${JSON.stringify([name, entry.dtype, entry.shape])}\n`);
      for (const range of sampledRanges(entry.end - entry.start)) hash.update(await entry.file.bytes(name, range));
    }
    return hash.digest("hex");
  }

  /** Closes all files. Safe to call twice; tensors that were read stay valid. */
  async close(): Promise<void> {
    await closeAll(this.files);
  }
}

const SAMPLES = 4;
const SAMPLE_BYTES = 1024;

function sampledRanges(bytes: number): { first: number; count: number }[] {
  if (bytes <= SAMPLES * SAMPLE_BYTES) return [{ first: 0, count: bytes }];
  return Array.from({ length: SAMPLES }, (_, index) => ({
    first: Math.floor((index * (bytes - SAMPLE_BYTES)) / (SAMPLES - 1)),
    count: SAMPLE_BYTES,
  }));
}

async function closeAll(files: readonly WeightFile[]): Promise<void> {
  await Promise.all(files.map((file) => file.close()));
}

/**
 * Opens the weights of a directory: `model.safetensors`, or the shards that `model.safetensors.index.json` names, or the
 * same with `pytorch_model.bin`; or audiocraft's two files, under Hugging Face's names. Reads and checks the headers, no
 * tensor.
 *
 * @returns a checkpoint that the caller closes.
 * @throws {CheckpointError} if the directory or a shard is missing, a file is damaged, index and shards disagree, or
 *   there are only weights in a format that is not read; {@link PickleError} if a `.bin` file holds more than tensors.
 */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  const names = await listDirectory(directory);
  for (const format of FORMATS) {
    if (names.includes(format.single)) {
      return new Checkpoint(directory, [await format.open(join(directory, format.single))]);
    }
    if (names.includes(format.index)) return openShards(directory, names, format);
  }
  if (names.includes(LANGUAGE_MODEL_FILE)) {
    const openOther = async (other: string): Promise<readonly WeightFile[]> => (await openCheckpoint(other)).files;
    return new Checkpoint(directory, await openAudiocraft(directory, openOther));
  }
  throw noWeights(directory, names);
}

async function listDirectory(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (cause) {
    const isFile = await stat(directory).then(
      (found) => found.isFile(),
      () => false,
    );
    throw new CheckpointError({
      asked: `open the checkpoint ${directory}`,
      found: isFile ? "a file" : cause instanceof Error ? cause.message : String(cause),
      todo: `Give the directory that holds ${SINGLE_FILE} and config.json`,
      cause,
    });
  }
}

function noWeights(directory: string, names: readonly string[]): CheckpointError {
  const pickled = names.filter((name) => /\.(bin|pt|pth|ckpt)$/.test(name));
  if (pickled.length > 0) {
    return new CheckpointError({
      asked: `open the checkpoint ${directory}`,
      found: `${pickled.join(", ")}, under none of the names that weights are looked for`,
      todo: `Name one file of weights ${FORMATS.map(({ single }) => single).join(" or ")}, or give its shards' index`,
    });
  }
  return new CheckpointError({
    asked: `open the checkpoint ${directory}`,
    found: `neither ${SINGLE_FILE} nor ${INDEX_FILE}${names.length > 0 ? ` among ${names.join(", ")}` : ""}`,
    todo: "Give the directory of a MusicGen checkpoint",
  });
}

async function openShards(
  directory: string,
  present: readonly string[],
  format: (typeof FORMATS)[number],
): Promise<Checkpoint> {
  const index = join(directory, format.index);
  const shardOf = await readWeightMap(index, format.suffix);
  const shards = [...new Set(shardOf.values())].toSorted();
  const missing = shards.filter((shard) => !present.includes(shard));
  if (missing.length > 0) {
    const found = `no ${missing.join(", ")} beside it (${missing.length} of ${shards.length} shards missing)`;
    throw indexFailure(index, found, "Fetch the missing files into the same directory");
  }
  const files: WeightFile[] = [];
  try {
    for (const shard of shards) files.push(await format.open(join(directory, shard)));
    checkAgreement(index, shardOf, files);
    return new Checkpoint(directory, files);
  } catch (error) {
    await closeAll(files);
    throw error;
  }
}

async function readWeightMap(index: string, suffix: string): Promise<ReadonlyMap<string, string>> {
  const todo = "Fetch the index again: it is damaged";
  const { weight_map: weightMap } = await readJsonFile(index);
  if (!isJsonObject(weightMap)) {
    throw indexFailure(index, "no weight_map", todo);
  }
  const shardOf = new Map<string, string>();
  for (const [name, shard] of Object.entries(weightMap)) {
    const isPlainName = typeof shard === "string" && shard.endsWith(suffix) && basename(shard) === shard;
    if (!isPlainName) throw indexFailure(index, `${JSON.stringify(shard)} as the file of "${name}"`, todo);
    shardOf.set(name, shard);
  }
  if (shardOf.size === 0) throw indexFailure(index, "an empty weight_map", todo);
  return shardOf;
}

function checkAgreement(index: string, shardOf: ReadonlyMap<string, string>, files: readonly WeightFile[]): void {
  const todo = "Index and shards are of different versions: fetch all of them from one place";
  const shards = new Map(files.map((file) => [basename(file.path), file]));
  const absent = [...shardOf].filter(([name, shard]) => shards.get(shard)?.tensors.has(name) !== true);
  if (absent.length > 0) {
    const list = absent.map(([name, shard]) => `${name} (${shard})`).join(", ");
    throw indexFailure(index, `${absent.length} tensors that their shards lack: ${list}`, todo);
  }
  for (const [shard, { tensors }] of shards) {
    const unlisted = [...tensors.keys()].filter((name) => shardOf.get(name) !== shard);
    if (unlisted.length > 0) {
      throw indexFailure(
        index,
        `${unlisted.length} tensors of ${shard} that it does not list: ${unlisted.join(", ")}`,
        todo,
      );
    }
  }
}

function indexFailure(index: string, found: string, todo: string): CheckpointError {
  return new CheckpointError({ asked: `read ${index}`, found, todo });
}
