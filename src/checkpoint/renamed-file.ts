import { CheckpointError } from "../errors.js";
import { BYTES_PER_VALUE, sizeOf, type TensorEntry } from "./safetensors-header.js";
import type { ValueRange, WeightFile } from "./weight-file.js";

/** A tensor of another file, or some of its rows. */
export interface TensorView {
  readonly source: string; // its name there
  readonly rows?: ValueRange; // of its first axis; all by default
}

interface RenamedEntry extends TensorEntry {
  readonly source: string;
  readonly firstValue: number;
}

/** A file whose tensors have other names, and some of which are parts of one: nothing is copied before it is read. */
export class RenamedFile implements WeightFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly #file: WeightFile;
  readonly #entries: ReadonlyMap<string, RenamedEntry>;

  /**
   * Takes ownership of `file`.
   *
   * @param views by their new names
   * @throws {CheckpointError} if a tensor is not there, or not its rows.
   */
  constructor(file: WeightFile, views: ReadonlyMap<string, TensorView>) {
    this.path = file.path;
    this.#file = file;
    this.#entries = new Map([...views].map(([name, view]) => [name, viewEntry(name, view, file)]));
    this.tensors = this.#entries;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async floats(name: string, range?: ValueRange): Promise<Float32Array<ArrayBuffer>> {
    const { source, firstValue, size } = this.#entry(name);
    const { first, count } = range ?? { first: 0, count: size };
    return this.#file.floats(source, { first: firstValue + first, count });
  }

  async bytes(name: string, { first, count }: ValueRange): Promise<Uint8Array<ArrayBuffer>> {
    const { source, firstValue, dtype } = this.#entry(name);
    return this.#file.bytes(source, { first: firstValue * BYTES_PER_VALUE[dtype] + first, count });
  }

  #entry(name: string): RenamedEntry {
    const entry = this.#entries.get(name);
    if (entry) return entry;
    throw failure(this.path, name, "no tensor of that name");
  }
}

function viewEntry(name: string, { source, rows }: TensorView, { tensors, path }: WeightFile): RenamedEntry {
  const whole = tensors.get(source);
  if (!whole) throw failure(path, source, "no tensor of that name");
  const { dtype, shape, start } = whole;
  if (!rows) return { ...whole, name, source, firstValue: 0 };
  const [available = 0, ...rest] = shape;
  if (shape.length === 0 || rows.first + rows.count > available) {
    throw failure(
      path,
      source,
      `shape [${shape.join(",")}], of which rows ${rows.first} to ${rows.first + rows.count} are wanted`,
    );
  }
  const firstValue = rows.first * sizeOf(rest);
  const size = rows.count * sizeOf(rest);
  const first = start + firstValue * BYTES_PER_VALUE[dtype];
  const end = first + size * BYTES_PER_VALUE[dtype];
  return { name, dtype, shape: [rows.count, ...rest], size, start: first, end, source, firstValue };
}

function failure(path: string, name: string, found: string): CheckpointError {
  return new CheckpointError({
    asked: `read tensor "${name}" of ${path}`,
    found,
    todo: "Its configuration belongs to another model: fetch both from one place",
  });
}
