import type { MatrixPlace } from "../runtime/linear.js";
import type { TensorEntry } from "./safetensors-header.js";

/** A consecutive part of a tensor's values in row-major order. */
export interface ValueRange {
  readonly first: number;
  readonly count: number;
}

/**
 * A file of named tensors, whatever its format: what loading needs to know of it. Tensors are read one by one, when they
 * are asked for, so a file may be larger than memory.
 */
export interface WeightFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;

  /**
   * Reads a tensor of floats: F32, F16 and BF16 exactly, F64 rounded to float32.
   *
   * @param range the values wanted, in row-major order; all of them by default.
   * @returns a new array on a buffer of its own.
   * @throws {CheckpointError} if there is no such tensor, its values aren't floats, or the file can't be read.
   */
  floats(name: string, range?: ValueRange): Promise<Float32Array<ArrayBuffer>>;

  /**
   * Reads `count` raw little-endian bytes of a tensor's values in row-major order, from byte `first` of them on.
   *
   * @throws {CheckpointError} if there is no such tensor or the file can't be read.
   */
  bytes(name: string, range: ValueRange): Promise<Uint8Array<ArrayBuffer>>;

  /** Where a matrix lies, for a backend that reads files itself; undefined or absent: it is to be read here. */
  place?(name: string): MatrixPlace | undefined;

  /** The identity of the weights, where the file records it. */
  readonly fingerprint?: string;

  /** Releases the file. Safe to call twice; reading afterwards fails. */
  close(): Promise<void>;
}
