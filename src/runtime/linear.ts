import * as tf from "@tensorflow/tfjs-core";

import { CheckpointError, UsageError } from "../errors.js";
import { hasFused, runFused } from "./fused.js";
import { gelu } from "./gelu.js";

/** A float32 matrix on the host in the checkpoint's own layout: `rows` output features by `columns` input features. */
export interface HostMatrix {
  readonly values: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/** The same matrix in an open file: a backend that can reads it from there itself, or leaves it there. */
export interface FileMatrix {
  readonly name: string; // for errors
  readonly path: string;
  readonly place: MatrixPlace;
  readonly rows: number;
  readonly columns: number;
}

/** Where a matrix lies in a file. */
export type MatrixPlace = PlainPlace | PackedPlace;

/** Plain values in row-major order. */
export interface PlainPlace {
  readonly fileDescriptor: number;
  readonly start: number; // in bytes from the start of the file
  readonly dtype: "F32" | "F16" | "BF16";
}

/** Values in the native backend's own layout. */
export interface PackedPlace {
  readonly fileDescriptor: number;
  readonly start: number;
  readonly checksum: number;
  readonly storage: Exclude<WeightStorage, "exact">;
  readonly scales: { readonly start: number; readonly checksum: number } | undefined;
}

/** A matrix, wherever it is. */
export type MatrixPart = HostMatrix | FileMatrix;

/** Whether the backend in use reads matrices from files itself. */
export function readsFiles(): boolean {
  return hasFused("TonearmFileWeight");
}

/** Rows `first` to `first + count` of a matrix that is not packed, without a copy. */
export function rowsOf(matrix: MatrixPart, first: number, count: number): MatrixPart {
  const { columns } = matrix;
  if (!("place" in matrix)) {
    return { values: matrix.values.subarray(first * columns, (first + count) * columns), rows: count, columns };
  }
  const { place } = matrix;
  if (!("dtype" in place)) throw new RangeError("rows of a packed matrix have no checksum of their own");
  const start = place.start + first * columns * (place.dtype === "F32" ? 4 : 2);
  return { ...matrix, place: { ...place, start }, rows: count };
}

/**
 * A linear layer. To every caller `weight` is a float32 tensor [in, out]; how its values are stored is the backend's
 * matter.
 */
export interface Linear {
  readonly weight: tf.Tensor2D; // [in, out]
  readonly bias?: tf.Tensor1D; // [out]
}

/**
 * How the native backend stores a weight: `exact` takes 16 bits where every value survives that and 32 elsewhere; `int8`
 * has one scale per output, `int4` one per group of 32 inputs, and both lose accuracy.
 */
export const WEIGHT_STORAGES = ["exact", "f32", "f16", "int8", "int4"] as const;

export type WeightStorage = (typeof WEIGHT_STORAGES)[number];

/**
 * What both factors of a product are rounded to before they are multiplied; sums are float32 either way. `bf16` rounds to
 * the nearest bfloat16 (ties to even), in products over {@link MANY_ROWS} rows or more: passes over many positions. It is
 * for processors that multiply bfloat16 faster, and loses accuracy everywhere. The native backend alone has it.
 */
export const PRECISIONS = ["f32", "bf16"] as const;

export type Precision = (typeof PRECISIONS)[number];

/** Rows (batch items × guidance roles × positions) from which on {@link PRECISIONS} matter, as in native/src/linear.cc. */
export const MANY_ROWS = 24;

/** How the native backend keeps a linear layer, and multiplies with it. */
export interface LinearForm {
  readonly storage: WeightStorage;
  readonly precision: Precision;
}

/** Nothing is rounded. */
export const EXACT_FORM: LinearForm = { storage: "exact", precision: "f32" };

/**
 * Checks that the backend in use can multiply like that.
 *
 * @throws {UsageError}
 */
export function requirePrecision(precision: Precision): void {
  const isKnown = PRECISIONS.includes(precision);
  if (isKnown && (precision === "f32" || hasFused("TonearmLinear"))) return;
  throw new UsageError({
    asked: `compute in ${precision}`,
    found: isKnown ? `the backend ${tf.getBackend()}, which computes in float32 only` : "no precision of that name",
    todo: isKnown
      ? "Use the native backend, or leave the precision at its default, f32"
      : `Choose one of ${PRECISIONS.join(", ")}`,
  });
}

/**
 * Makes the weight of a linear layer from one or more checkpoint matrices [outᵢ, in], joined along their outputs: that
 * is how q, k and v, or the heads of all codebooks, become one matrix product.
 *
 * The native backend keeps the checkpoint's own order of values. Elsewhere the transpose to [in, out] happens here,
 * once: TF.js's wasm backend is five times slower on a transposed right-hand side.
 *
 * @returns float32 [in, Σ outᵢ], owned by the caller.
 */
export function linearWeight(...parts: readonly MatrixPart[]): tf.Tensor2D {
  return linearWeightAs(EXACT_FORM, ...parts);
}

/**
 * As {@link linearWeight}, stored and multiplied as `form` says.
 *
 * @param parts all on the host, or all in files
 * @throws {UsageError} if the backend in use has float32 only and `form` asks for another, or the parts are packed in
 *   another; {@link CheckpointError} if a file can't be read, is damaged, or holds NaN or an infinite value.
 */
export function linearWeightAs(form: LinearForm, ...parts: readonly MatrixPart[]): tf.Tensor2D {
  requirePrecision(form.precision);
  const inFiles = parts.filter((part) => "place" in part);
  if (inFiles.length > 0) {
    if (inFiles.length === parts.length) return fileWeight(form, inFiles);
    throw new CheckpointError({
      asked: `join ${inFiles.map(({ name }) => `"${name}"`).join(", ")} with others`,
      found: "values of different types",
      todo: "Store all matrices of the checkpoint as one type",
    });
  }
  return hostWeight(
    form,
    parts.filter((part) => "values" in part),
  );
}

function hostWeight(form: LinearForm, parts: readonly HostMatrix[]): tf.Tensor2D {
  const { storage } = form;
  if (hasFused("TonearmLinearWeight")) return nativeWeight(form, parts);
  if (storage !== "exact" && storage !== "f32") {
    throw new UsageError({
      asked: `weights stored as ${storage}`,
      found: `the backend ${tf.getBackend()}, which stores float32 only`,
      todo: "Use the native backend, or leave the storage at its default",
    });
  }
  return transposedWeight(parts);
}

/** A weight from files, for the backend that {@link readsFiles}. */
function fileWeight({ storage, precision }: LinearForm, parts: readonly FileMatrix[]): tf.Tensor2D {
  const inputs = parts[0]?.columns ?? 0;
  const what = `${parts.map(({ name }) => `"${name}"`).join(", ")} of ${parts[0]?.path}`;
  const plain = parts.flatMap(({ place, rows }) =>
    "dtype" in place ? [place.fileDescriptor, place.start, rows, PLAIN_DTYPES.indexOf(place.dtype)] : [],
  );
  if (plain.length === 4 * parts.length) {
    return runFused("TonearmFileWeight", {}, { what, inputs, storage, precision, plain }) as tf.Tensor2D; // [in, Σ outᵢ]
  }
  const packed = parts.flatMap(({ place, rows }) => {
    if ("dtype" in place) return [];
    const { fileDescriptor, start, checksum, scales } = place;
    return [fileDescriptor, start, scales?.start ?? 0, rows, checksum, scales?.checksum ?? 0];
  });
  const storages = new Set(parts.map(({ place }) => ("dtype" in place ? place.dtype : place.storage)));
  const [stored = "nothing"] = storages;
  if (packed.length !== 6 * parts.length || storages.size > 1) {
    throw new CheckpointError({
      asked: `join ${what}`,
      found: `parts stored as ${[...storages].join(" and ")}`,
      todo: "Pack the original again with `tonearm pack`",
    });
  }
  if (storage !== "exact" && storage !== stored) {
    throw new UsageError({
      asked: `weights stored as ${storage}`,
      found: `${what}, which is packed as ${stored}`,
      todo: "Leave the storage at its default, or load the checkpoint that was packed",
    });
  }
  return runFused("TonearmFileWeight", {}, { what, inputs, storage: stored, precision, packed }) as tf.Tensor2D; // [in, Σ outᵢ]
}

/** By their codes in the native backend. */
const PLAIN_DTYPES = ["F32", "F16", "BF16"] as const;

function nativeWeight(form: LinearForm, parts: readonly HostMatrix[]): tf.Tensor2D {
  return tf.tidy(() => {
    const matrices = parts.map(({ values, rows, columns }, index): [string, tf.Tensor] => [
      `part${index}`,
      tf.tensor2d(values, [rows, columns]),
    ]);
    return runFused("TonearmLinearWeight", Object.fromEntries<tf.Tensor>(matrices), { ...form }) as tf.Tensor2D; // [in, Σ outᵢ]
  });
}

function transposedWeight(parts: readonly HostMatrix[]): tf.Tensor2D {
  const inputs = parts[0]?.columns ?? 0;
  const outputs = parts.reduce((sum, part) => sum + part.rows, 0);
  const transposed = new Float32Array(inputs * outputs);
  let firstOutput = 0;
  for (const { values, rows, columns } of parts) {
    transposeInto(values, rows, columns, transposed, firstOutput, outputs);
    firstOutput += rows;
  }
  return tf.tensor2d(transposed, [inputs, outputs]);
}

const BLOCK = 32; // a 32×32 float block of source and destination stay in the first-level cache

function transposeInto(
  source: Float32Array, // [rows, columns]
  rows: number,
  columns: number,
  destination: Float32Array, // [columns, stride]
  offset: number,
  stride: number,
): void {
  for (let rowBlock = 0; rowBlock < rows; rowBlock += BLOCK) {
    const rowEnd = Math.min(rowBlock + BLOCK, rows);
    for (let columnBlock = 0; columnBlock < columns; columnBlock += BLOCK) {
      const columnEnd = Math.min(columnBlock + BLOCK, columns);
      for (let row = rowBlock; row < rowEnd; row++) {
        for (let column = columnBlock; column < columnEnd; column++) {
          destination[column * stride + offset + row] = source[row * columns + column] ?? 0;
        }
      }
    }
  }
}

/**
 * x · W (+ bias), over the last axis of `x`, through `activation` if one is given.
 *
 * The product runs on rank 2: TF.js's wasm backend leaves its fast path for anything of higher rank.
 *
 * @param x float32 [..., in]
 * @returns float32 [..., out], owned by the caller.
 */
export function linear<T extends tf.Tensor>(x: T, { weight, bias }: Linear, activation: "none" | "gelu" = "none"): T {
  if (hasFused("TonearmLinear")) return runFused("TonearmLinear", { x, weight, bias }, { activation }) as T;
  return tf.tidy(() => {
    const [inputs, outputs] = weight.shape;
    const flat = tf.reshape(x, [-1, inputs]); // [rows, in]
    const product = tf.matMul(flat, weight); // [rows, out]
    const sum = bias ? tf.add(product, bias) : product;
    const activated = activation === "gelu" ? gelu(sum) : sum;
    return tf.reshape(activated, [...x.shape.slice(0, -1), outputs]) as T; // [..., out]
  });
}
