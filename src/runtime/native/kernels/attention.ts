import type { TensorInfo } from "@tensorflow/tfjs-core";

import type { StoreHandle } from "../addon.js";
import type { NativeBackend } from "../backend.js";
import { GrowingStore } from "../data.js";
import type { KernelCall, NativeKernel } from "../kernel.js";

/** Attention over caches of keys and values that grow in place. */

/** Positions a cache has room for at first. Room costs address space only; twice as much is taken when it is full. */
const CAPACITY = 2048;

/**
 * Appends positions. Inputs: optionally past [R, H, T', Dh], and added [R, H, T, Dh]. Attribute: storage, f32 if absent.
 * Returns [R, H, T' + T, Dh].
 *
 * If `past` ends where its memory was last written, the new positions are written behind it and the result shares its
 * memory; if somebody else has gone on from there, or it is stored otherwise, the result begins with a copy.
 */
function extend(call: KernelCall): TensorInfo {
  const { backend } = call;
  const past = call.optional("past");
  const added = call.input("added");
  const [rows = 0, heads = 0, count = 0, width = 0] = added.shape;
  const before = past?.shape[2] ?? 0;
  const shape = [rows, heads, before + count, width];
  const storage = call.text("storage") === "f16" ? "f16" : "f32";
  const own = past && backend.growing(past)?.store;
  const goesOn = own?.filled === before && own.storage === storage;
  const store = goesOn
    ? own
    : new GrowingStore(backend.addon, rows * heads, width, Math.max(CAPACITY, before + count), storage);
  store.retain(); // while it is written to: a new one is freed if that fails
  try {
    if (past && !goesOn) store.append(backend.floats(past), before);
    store.append(backend.floats(added), count);
    return backend.growingOutput(store, shape, before + count);
  } finally {
    store.release();
  }
}

/**
 * softmax(scale · q · kᵀ + mask) · v. Inputs: q [R, H, T, Dh]; keys0, values0, keys1, … [R, H, T'ᵢ, Dh]; optionally mask,
 * which broadcasts over [R, H, T, T'] along H, and along R or T. Attributes: segments, scale, causal.
 */
function attention(call: KernelCall): TensorInfo | undefined {
  const { backend } = call;
  const q = call.input("q");
  const [rows = 0, heads = 0, queries = 0, width = 0] = q.shape;
  const segments = call.number("segments");
  const keys: (Float32Array | StoreHandle)[] = [];
  const values: (Float32Array | StoreHandle)[] = [];
  const counts = new Int32Array(segments);
  for (let segment = 0; segment < segments; segment++) {
    const [k, v] = [call.input(`keys${segment}`), call.input(`values${segment}`)];
    // Both must be stores, or neither: the kernel steps through them alike.
    const stored = backend.growing(k) && backend.growing(v);
    keys.push(stored ? memory(backend, k) : backend.floats(k));
    values.push(stored ? memory(backend, v) : backend.floats(v));
    counts[segment] = k.shape[2] ?? 0;
  }
  const keyCount = counts.reduce((sum, count) => sum + count, 0);
  const mask = maskOf(call.optional("mask"), rows, queries, keyCount);
  if (mask === undefined) return undefined;
  const output = backend.floatOutput(q.shape);
  const position = width;
  const head = queries * width;
  const row = heads * head;
  backend.addon.attend(
    backend.floats(q),
    output.values,
    Int32Array.of(rows, heads, queries, width, row, head, position, row, head, position),
    keys,
    values,
    counts,
    call.number("scale"),
    call.flag("causal"),
    call.optionalFloats("mask"),
    mask.row,
    mask.query,
  );
  return output.info;
}

function memory(backend: NativeBackend, tensor: TensorInfo): Float32Array | StoreHandle {
  return backend.growing(tensor)?.store.handle ?? backend.floats(tensor);
}

/** Strides of a mask over rows and queries; undefined where it varies in a way that the kernel doesn't know. */
function maskOf(
  mask: TensorInfo | undefined,
  rows: number,
  queries: number,
  keys: number,
): { row: number; query: number } | undefined {
  if (mask === undefined) return { row: 0, query: 0 };
  const [r = 1, h = 1, t = 1, k = 1] = [...new Array<number>(4 - mask.shape.length).fill(1), ...mask.shape];
  if (h !== 1 || k !== keys || (r !== 1 && r !== rows) || (t !== 1 && t !== queries)) return undefined;
  const query = t === 1 ? 0 : keys;
  return { row: r === 1 ? 0 : t * keys, query };
}

/**
 * Heads of [R, T, n·D] as n tensors [R, H, T, Dh]. Input: x. Attributes: parts, heads.
 */
function splitHeads(call: KernelCall): TensorInfo[] {
  const { backend } = call;
  const x = call.input("x");
  const [parts, heads] = [call.number("parts"), call.number("heads")];
  const [rows = 0, positions = 0, joined = 0] = x.shape;
  const width = joined / parts;
  const source = backend.floats(x);
  const axes = headAxes(rows, heads, positions, width / heads, { joined, part: width });
  return Array.from({ length: parts }, (_, part) => {
    const y = backend.floatOutput([rows, heads, positions, width / heads]);
    backend.addon.copy(source, part * width, y.values, 0, axes);
    return y.info;
  });
}

/** Heads side by side: [R, H, T, Dh] → [R, T, H·Dh]. Input: x. */
function mergeHeads(call: KernelCall): TensorInfo {
  const { backend } = call;
  const x = call.input("x");
  const [rows = 0, heads = 0, positions = 0, headWidth = 0] = x.shape;
  const width = heads * headWidth;
  if (positions === 1) return backend.reshaped(x, [rows, 1, width]);
  const y = backend.floatOutput([rows, positions, width]);
  const axes = Int32Array.of(
    ...[rows, positions * width, positions * width],
    ...[heads, positions * headWidth, headWidth],
    ...[positions, headWidth, width],
    ...[headWidth, 1, 1],
  );
  backend.addon.copy(backend.floats(x), 0, y.values, 0, axes);
  return y.info;
}

/** Axes of a copy from [R, T, joined] to [R, H, T, Dh]. */
function headAxes(
  rows: number,
  heads: number,
  positions: number,
  headWidth: number,
  { joined, part }: { readonly joined: number; readonly part: number },
): Int32Array {
  return Int32Array.of(
    ...[rows, positions * joined, positions * part],
    ...[heads, headWidth, positions * headWidth],
    ...[positions, joined, headWidth],
    ...[headWidth, 1, 1],
  );
}

export const ATTENTION_KERNELS: readonly NativeKernel[] = [
  { name: "TonearmSplitHeads", run: splitHeads },
  { name: "TonearmMergeHeads", run: mergeHeads },
  { name: "TonearmExtend", run: extend },
  { name: "TonearmAttention", run: attention },
];
