import * as tf from "@tensorflow/tfjs-core";

import { CheckpointError } from "../errors.js";
import { readsFiles, type MatrixPart, type MatrixPlace } from "../runtime/linear.js";
import type { Checkpoint, CheckpointEntry } from "./checkpoint.js";

/**
 * A checkpoint seen from one path: `scope("layers", 3)` reads tensors by their names under `layers.3.`.
 *
 * Every read states the shape it expects and consumes its tensor, so that {@link Checkpoint.finish} can tell what no
 * network asked for.
 */
export class WeightScope {
  readonly #checkpoint: Checkpoint;
  readonly #prefix: string;

  constructor(checkpoint: Checkpoint, prefix = "") {
    this.#checkpoint = checkpoint;
    this.#prefix = prefix;
  }

  /** The same checkpoint seen from a longer path: `scope("layers", 3)` prefixes `layers.3.`. */
  scope(...path: readonly (string | number)[]): WeightScope {
    return new WeightScope(this.#checkpoint, this.#prefix + path.map((step) => `${step}.`).join(""));
  }

  /** Whether the checkpoint has `name` under this path. */
  has(name: string): boolean {
    return this.#checkpoint.tensors.has(this.#prefix + name);
  }

  /** Marks tensors as consumed without reading them (training-only buffers). Names that are absent are no error. */
  ignore(...names: readonly string[]): void {
    for (const name of names) if (this.has(name)) this.#checkpoint.consume(this.#prefix + name);
  }

  /**
   * The float32 values of `name`; consumes it.
   *
   * @throws {CheckpointError} if it is absent, its shape is not exactly `shape`, its values aren't floats, or one of
   *   them is NaN or infinite.
   */
  async values(name: string, shape: readonly number[]): Promise<Float32Array> {
    const entry = this.#consume(name, shape);
    const values = await entry.file.floats(entry.name);
    const bad = firstNotFinite(values);
    if (bad >= 0) {
      throw new CheckpointError({
        asked: `read "${entry.name}" of ${entry.file.path}`,
        found: `${values[bad]} at position ${bad} of ${values.length}`,
        todo: "The weights are damaged: fetch them again",
      });
    }
    return values;
  }

  /** The entry of a tensor whose shape must be `shape`; consumes it. */
  #consume(name: string, shape: readonly number[]): CheckpointEntry {
    const fullName = this.#prefix + name;
    const entry = this.#checkpoint.consume(fullName);
    const sameShape =
      entry.shape.length === shape.length && entry.shape.every((dimension, axis) => dimension === shape[axis]);
    if (!sameShape) {
      throw new CheckpointError({
        asked: `read "${fullName}" as [${shape.join(",")}]`,
        found: `[${entry.shape.join(",")}] in ${entry.file.path}`,
        todo: "Its config.json belongs to another model: fetch both from one place",
      });
    }
    return entry;
  }

  /**
   * A linear layer's weight [rows = out, columns = in] for `linearWeight`; consumes it. Where the backend in use reads
   * files itself, it is read by `linearWeight`, which has to be called before the checkpoint is closed.
   *
   * @throws as {@link values}.
   */
  async matrix(name: string, rows: number, columns: number): Promise<MatrixPart> {
    const place = readsFiles() ? this.#place(name) : undefined;
    if (place === undefined) return { values: await this.values(name, [rows, columns]), rows, columns };
    const { name: fullName, file } = this.#consume(name, [rows, columns]);
    return { name: fullName, path: file.path, place, rows, columns };
  }

  #place(name: string): MatrixPlace | undefined {
    const fullName = this.#prefix + name;
    return this.#checkpoint.tensors.get(fullName)?.file.place?.(fullName);
  }

  /** A float32 tensor of `shape`, owned by the caller; consumes it. @throws as {@link values}. */
  tensor(name: string, shape: readonly [number]): Promise<tf.Tensor1D>;
  tensor(name: string, shape: readonly [number, number]): Promise<tf.Tensor2D>;
  async tensor(name: string, shape: readonly [number] | readonly [number, number]): Promise<tf.Tensor> {
    return tf.tensor(await this.values(name, shape), [...shape], "float32");
  }
}

/** A plain loop: with a callback it takes longer than reading the file. */
function firstNotFinite(values: Float32Array): number {
  for (let index = 0; index < values.length; index++) if (!Number.isFinite(values[index])) return index;
  return -1;
}
