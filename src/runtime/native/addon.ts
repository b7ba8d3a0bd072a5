import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

/**
 * The C++ kernels behind the native backend, as native/src/bindings.h declares them. Every function checks its arguments
 * and throws an Error where a length doesn't fit its shape. Nothing keeps a typed array beyond its call.
 */

declare const kind: unique symbol;

/** A weight matrix in native memory. */
export interface WeightHandle {
  readonly [kind]: "weight";
}

/** Keys or values in native memory that grow in place. */
export interface StoreHandle {
  readonly [kind]: "store";
}

/** A typed array whose elements have 4 bytes. */
export type Words = Float32Array | Int32Array;

/** Codes as in native/src/kernel_table.h. */
export const UNARY = {
  negate: 0,
  abs: 1,
  square: 2,
  sqrt: 3,
  reciprocalSqrt: 4,
  reciprocal: 5,
  exp: 6,
  erf: 7,
  tanh: 8,
  sigmoid: 9,
  relu: 10,
  elu: 11,
  gelu: 12,
} as const;
export const BINARY = {
  add: 0,
  subtract: 1,
  multiply: 2,
  divide: 3,
  maximum: 4,
  minimum: 5,
  squaredDifference: 6,
} as const;
export const REDUCTION = { sum: 0, mean: 1, maximum: 2, minimum: 3 } as const;
export const ACTIVATION = { none: 0, gelu: 1, relu: 2 } as const;
/** As in native/src/steer.h. */
export const STEER = { convex: 0, add: 1, clamp: 2, replace: 3 } as const;
export const STORAGE = { f32: 0, f16: 1, int8: 2, int4: 3 } as const;
export const PRECISION = { f32: 0, bf16: 1 } as const;

/** Codes of errors about weight files. */
export const FAILURES = ["FILE_SHRANK", "FILE_UNREADABLE", "NOT_FINITE", "CHECKSUM", "NO_MEMORY"] as const;

export interface Addon {
  /** Names of the kernel sets that can run here, best first. */
  kernelSets(): string[];
  kernelSet(): string;
  /** Whether there is such a set; it is then in use. */
  useKernelSet(name: string): boolean;
  threads(): number;
  usableThreads(): number;
  useThreads(count: number): void;

  /** @param storage a code of {@link STORAGE}, or −1 for f16 where that is exact and f32 elsewhere */
  makeWeight(parts: readonly Float32Array[], inputs: number, storage: number): WeightHandle;
  /**
   * Throws an Error with a code of {@link FAILURES} where the files can't be used.
   *
   * @param parts for each: file descriptor, first byte, rows, dtype (0 F32, 1 F16, 2 BF16)
   */
  makeFileWeight(parts: Float64Array, inputs: number, storage: number): WeightHandle;
  /**
   * Throws as {@link makeFileWeight}.
   *
   * @param parts for each: file descriptor, first byte of values and of scales, rows, checksums of values and scales
   */
  makePackedWeight(parts: Float64Array, inputs: number, storage: number): WeightHandle;
  /** The bytes of values and scales, as packed files have them. */
  packedWeight(weight: WeightHandle): [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>];
  weightIsMapped(weight: WeightHandle): boolean;
  checksum(bytes: Uint8Array): number;
  weightStorage(weight: WeightHandle): number;
  weightBytes(weight: WeightHandle): number;
  readWeight(weight: WeightHandle, y: Float32Array): void;
  releaseWeight(weight: WeightHandle): void;
  linear(
    weight: WeightHandle,
    x: Float32Array,
    rows: number,
    bias: Float32Array | null,
    residual: Float32Array | null,
    activation: number,
    precision: number,
    y: Float32Array,
  ): void;
  lstm(
    recurrent: WeightHandle,
    gates: Float32Array,
    batch: number,
    steps: number,
    firstHidden: Float32Array,
    cell: Float32Array,
    hidden: Float32Array,
  ): void;

  unary(op: number, x: Float32Array, y: Float32Array): void;
  /** @param axes size, stride in a and stride in b of each axis, outermost first; the innermost strides are 0 or 1 */
  binary(op: number, a: Float32Array, b: Float32Array, y: Float32Array, axes: Int32Array): void;
  reduce(op: number, x: Float32Array, y: Float32Array, outer: number, length: number, inner: number): void;
  argMax(x: Float32Array, y: Int32Array, rows: number, length: number): void;
  softmax(x: Float32Array, y: Float32Array, rows: number, length: number): void;
  normalize(
    x: Float32Array,
    gain: Float32Array | null,
    bias: Float32Array | null,
    epsilon: number,
    centre: boolean,
    y: Float32Array,
    scale: Float32Array | null,
    rows: number,
    length: number,
  ): void;
  /**
   * @param shape m, n, k, then the row and column strides of a and of b
   * @param offsets into a and b, a pair for each product of the batch
   */
  matMul(
    a: Float32Array,
    b: Float32Array,
    y: Float32Array,
    bias: Float32Array | null,
    activation: number,
    shape: Int32Array,
    offsets: Int32Array,
  ): void;
  /** @param shape batch, length, inputs, outputs, taps, stride, dilation, positions */
  convolve(
    x: Float32Array,
    filter: Float32Array,
    y: Float32Array,
    bias: Float32Array | null,
    residual: Float32Array | null,
    activation: number,
    shape: Int32Array,
  ): void;
  integersToFloats(x: Int32Array, y: Float32Array): void;
  floatsToIntegers(x: Float32Array, y: Int32Array): void;

  /** @param axes size, stride in source and stride in target of each axis */
  copy(source: Words, sourceOffset: number, target: Words, targetOffset: number, axes: Int32Array): void;
  gather(x: Words, indices: Int32Array, y: Words, outers: number, length: number, inner: number): void;
  topK(x: Float32Array, values: Float32Array, indices: Int32Array, rows: number, length: number, k: number): void;

  /** @param storage the code in {@link STORAGE} of f32 or f16 */
  makeStore(heads: number, width: number, capacity: number, storage: number): StoreHandle;
  /** @returns 0; or the largest magnitude that float16 can't hold, and then nothing is appended */
  appendToStore(store: StoreHandle, x: Float32Array, count: number): number;
  readStore(store: StoreHandle, count: number, y: Float32Array): void;
  releaseStore(store: StoreHandle): void;
  /** @param shape rows, heads, queries, width, then the row, head and position strides of q and of out */
  attend(
    q: Float32Array,
    out: Float32Array,
    shape: Int32Array,
    keys: readonly (Float32Array | StoreHandle)[],
    values: readonly (Float32Array | StoreHandle)[],
    counts: Int32Array,
    scale: number,
    causal: boolean,
    mask: Float32Array | null,
    maskRow: number,
    maskQuery: number,
  ): void;

  /** @param shape places, directions, units, width */
  steer(
    operator: number,
    restoreNorm: boolean,
    h: Float32Array,
    strengths: Float32Array,
    steps: Float32Array,
    weights: Float32Array,
    along: Float32Array | null,
    goals: Float32Array | null,
    y: Float32Array,
    shape: Int32Array,
  ): void;

  /** Replaces the lower triangle of a matrix [n, n] by its Cholesky factor; false where it is not positive definite. */
  factorise(matrix: Float64Array, n: number): boolean;
  /** Replaces right-hand sides [count, n] by their solutions. */
  solve(factor: Float64Array, n: number, sides: Float64Array): void;
}

/**
 * Loads the compiled kernels. The environment may choose how they run: `TONEARM_CPU` names a kernel set, `TONEARM_THREADS`
 * a number of threads, `TONEARM_NATIVE_BUILD` the build for a test that native/install.mjs makes: `sanitize` or `emulate`.
 *
 * @throws {Error} that says why they can't be used here.
 */
export function loadAddon(): Addon {
  const build = process.env["TONEARM_NATIVE_BUILD"];
  const name = build ? `tonearm-${build}` : "tonearm";
  const file = fileURLToPath(new URL(`../../../native/build/${name}.node`, import.meta.url));
  if (!existsSync(file)) {
    throw new Error("it was not built when installing (no C++20 compiler?): `npm run build:native` builds it");
  }
  const addon = createRequire(import.meta.url)(file) as Addon;
  const kernelSet = process.env["TONEARM_CPU"];
  if (kernelSet && !addon.useKernelSet(kernelSet)) {
    throw new Error(`TONEARM_CPU=${kernelSet}, but this processor runs ${addon.kernelSets().join(", ")}`);
  }
  const threads = process.env["TONEARM_THREADS"];
  if (threads) addon.useThreads(Number(threads));
  return addon;
}
