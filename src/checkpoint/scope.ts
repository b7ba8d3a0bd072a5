import type * as tf from "@tensorflow/tfjs-core";

import type { HostMatrix } from "../runtime/linear.js";

/** CONTRACT ONLY, to be implemented: name+shape access to a checkpoint's tensors, see the docstrings. */
export interface WeightScope {
  /** The same checkpoint seen from a longer path: `scope("layers", 3)` prefixes `layers.3.`. */
  scope(...path: readonly (string | number)[]): WeightScope;
  /** Whether the checkpoint has `name` under this path. */
  has(name: string): boolean;
  /** Marks tensors as consumed without reading them (training-only buffers). Names that are absent are no error. */
  ignore(...names: readonly string[]): void;
  /** The float32 values of `name`, checked to have exactly `shape`; consumes it. */
  values(name: string, shape: readonly number[]): Promise<Float32Array>;
  /** A linear layer's weight [rows = out, columns = in] for `linearWeight`; consumes it. */
  matrix(name: string, rows: number, columns: number): Promise<HostMatrix>;
  /** A float32 tensor of `shape`, owned by the caller; consumes it. */
  tensor(name: string, shape: readonly [number]): Promise<tf.Tensor1D>;
  tensor(name: string, shape: readonly [number, number]): Promise<tf.Tensor2D>;
}
