import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import { hasFused, runFused, runFusedMany } from "./fused.js";

/**
 * Attention over a cache of keys and values. Shapes: R rows, H heads, T query positions, T' key positions, Dh head width.
 */

/** Keys and values of consecutive positions, each [R, H, T', Dh]. */
export interface KeyValues {
  readonly keys: tf.Tensor4D;
  readonly values: tf.Tensor4D;
}

/**
 * How a cache keeps keys and values: as they are, or rounded to the nearest float16 (ties to even), in half the memory.
 * Every query reads them as rounded, also in the pass that computed them. The native backend alone has `f16`.
 */
export const CACHE_STORAGES = ["f32", "f16"] as const;

export type CacheStorage = (typeof CACHE_STORAGES)[number];

/**
 * The keys and values of every position so far, in one or two segments: a long one, and a short one that takes the new
 * positions. Only the short one is copied when a position is added; it joins the long one when it is full. So a step
 * copies at most {@link SEGMENT_POSITIONS} positions, and 1/{@link SEGMENT_POSITIONS} of the rest on average, where a
 * single tensor would be copied whole.
 */
export interface KeyValueCache {
  readonly length: number; // positions held
  readonly segments: readonly KeyValues[];
  readonly storage: CacheStorage;
}

/** The short segment joins the long one at this length. 64 keeps both copies small at 1,500 positions. */
export const SEGMENT_POSITIONS = 64;

/** Large and finite, so that a fully masked row gives a uniform pattern instead of NaN. */
const MASKED = -1e9;

/** A cache that holds nothing, and will hold float32. */
export const EMPTY_CACHE: KeyValueCache = { length: 0, segments: [], storage: "f32" };

/**
 * Checks that the backend in use can keep keys and values like that.
 *
 * @throws {UsageError}
 */
export function requireCacheStorage(storage: CacheStorage): void {
  const isKnown = CACHE_STORAGES.includes(storage);
  if (isKnown && (storage === "f32" || hasFused("TonearmExtend"))) return;
  throw new UsageError({
    asked: `keep keys and values as ${storage}`,
    found: isKnown ? `the backend ${tf.getBackend()}, which keeps float32 only` : "no storage of that name",
    todo: isKnown
      ? "Use the native backend, or leave the cache at its default, f32"
      : `Choose one of ${CACHE_STORAGES.join(", ")}`,
  });
}

/**
 * Appends positions to a cache.
 *
 * Takes ownership of `added` and of `cache`: neither may be used afterwards. If it throws, `cache` stays the caller's.
 *
 * @returns the longer cache, owned by the caller.
 * @throws {UsageError} if a cache of `f16` is given a number that rounds beyond 65504, float16's largest, or runs
 *   on another backend than the native one.
 */
export function extendCache(cache: KeyValueCache, added: KeyValues): KeyValueCache {
  const { storage } = cache;
  const length = cache.length + positions(added);
  try {
    requireCacheStorage(storage);
    if (hasFused("TonearmExtend")) return { length, segments: [extendInPlace(cache, added)], storage };
  } catch (error) {
    disposeKeyValues(added);
    throw error;
  }
  const [past, recent] = cache.segments;
  if (past === undefined) return { length, segments: [added], storage };
  if (recent === undefined) return { length, segments: [past, added], storage };
  const grown = join(recent, added);
  if (positions(grown) < SEGMENT_POSITIONS) return { length, segments: [past, grown], storage };
  return { length, segments: [join(past, grown)], storage };
}

/** The native backend writes new positions behind the old ones, so its caches have one segment and nothing is copied. */
function extendInPlace({ segments: [past], storage }: KeyValueCache, added: KeyValues): KeyValues {
  const extended = tf.tidy(() => ({
    keys: extendOne(past?.keys, added.keys, storage), // [R, H, T' + T, Dh]
    values: extendOne(past?.values, added.values, storage), // [R, H, T' + T, Dh]
  }));
  if (past) disposeKeyValues(past);
  disposeKeyValues(added);
  return extended;
}

function extendOne(past: tf.Tensor4D | undefined, added: tf.Tensor4D, storage: CacheStorage): tf.Tensor4D {
  return runFused("TonearmExtend", { past, added }, { storage }) as tf.Tensor4D;
}

function positions({ keys }: KeyValues): number {
  return keys.shape[2];
}

function join(first: KeyValues, second: KeyValues): KeyValues {
  const joined = {
    keys: tf.concat([first.keys, second.keys], 2), // [R, H, T' + T, Dh]
    values: tf.concat([first.values, second.values], 2), // [R, H, T' + T, Dh]
  };
  disposeKeyValues(first);
  disposeKeyValues(second);
  return joined;
}

/** Frees one segment. */
export function disposeKeyValues({ keys, values }: KeyValues): void {
  keys.dispose();
  values.dispose();
}

/** Frees a cache. */
export function disposeCache(cache: KeyValueCache): void {
  cache.segments.forEach(disposeKeyValues);
}

/**
 * Splits [R, T, n·D] into n tensors of heads.
 *
 * @returns n × [R, H, T, Dh], owned by the caller.
 */
export function splitHeads(joined: tf.Tensor3D, parts: number, heads: number): readonly tf.Tensor4D[] {
  if (hasFused("TonearmSplitHeads")) {
    return runFusedMany("TonearmSplitHeads", { x: joined }, { parts, heads }) as readonly tf.Tensor4D[];
  }
  const [rows, positions, width] = joined.shape;
  return tf.tidy(() =>
    tf.split(joined, parts, -1).map((part) => {
      const perHead = tf.reshape(part, [rows, positions, heads, width / parts / heads]); // [R, T, H, Dh]
      return tf.transpose<tf.Tensor4D>(perHead as tf.Tensor4D, [0, 2, 1, 3]); // [R, H, T, Dh]
    }),
  );
}

/** Heads side by side again: [R, H, T, Dh] → [R, T, D], owned by the caller. */
export function mergeHeads(heads: tf.Tensor4D): tf.Tensor3D {
  if (hasFused("TonearmMergeHeads")) return runFused("TonearmMergeHeads", { x: heads }) as tf.Tensor3D;
  const [rows, count, positions, headWidth] = heads.shape;
  return tf.tidy(
    () => tf.reshape<tf.Rank.R3>(tf.transpose(heads, [0, 2, 1, 3]), [rows, positions, count * headWidth]), // [R, T, D]
  );
}

/** Which keys a query may attend to, as an additive mask that broadcasts over [R, H, T, T']; undefined: all of them. */
export type AttentionMask = tf.Tensor | undefined;

/**
 * The causal mask of `count` queries that are the last positions of `total`: query i sees keys 0 … total − count + i.
 *
 * @returns [T, T'] owned by the caller, or undefined for a single query, which sees everything.
 */
export function causalMask(count: number, total: number): AttentionMask {
  if (count === 1) return undefined;
  const mask = new Float32Array(count * total);
  for (let query = 0; query < count; query++) {
    mask.fill(MASKED, query * total + (total - count + query) + 1, (query + 1) * total);
  }
  const tensor = tf.tensor2d(mask, [count, total]);
  causalMasks.add(tensor);
  return tensor;
}

/** The masks of {@link causalMask}: a kernel that knows what they are need not compute what they hide. */
const causalMasks = new WeakSet<tf.Tensor>();

/**
 * The mask that hides padded keys.
 *
 * @param mask 1 for a real token, 0 for padding, row-major [R, T']
 * @returns [R, 1, 1, T'] owned by the caller, or undefined if nothing is padded.
 */
export function paddingMask(mask: ArrayLike<number>, rows: number): AttentionMask {
  const values = Float32Array.from(mask, (real) => (real ? 0 : MASKED));
  if (values.every((value) => value === 0)) return undefined;
  return tf.tensor4d(values, [rows, 1, 1, values.length / rows]);
}

/**
 * Attention scores q · kᵀ / √Dh over all segments, before masking.
 *
 * @param q [R, H, T, Dh]
 * @returns [R, H, T, T'] owned by the caller.
 */
export function attentionScores(q: tf.Tensor4D, segments: readonly KeyValues[]): tf.Tensor4D {
  return tf.tidy(() => {
    const scaled = tf.mul(q, 1 / Math.sqrt(q.shape[3]));
    return concatKeys(segments.map(({ keys }) => tf.matMul<tf.Tensor4D>(scaled, keys, false, true))); // [R, H, T, T']
  });
}

/** Softmax of the masked scores. @returns [R, H, T, T'] owned by the caller. */
export function attentionPattern(scores: tf.Tensor4D, mask: AttentionMask): tf.Tensor4D {
  return tf.tidy(() => tf.softmax(mask ? tf.add(scores, mask) : scores));
}

/**
 * The values that a pattern gathers.
 *
 * @param pattern [R, H, T, T']
 * @returns [R, H, T, Dh] owned by the caller.
 */
export function attentionValues(pattern: tf.Tensor4D, segments: readonly KeyValues[]): tf.Tensor4D {
  return tf.tidy(() => {
    let start = 0;
    const parts = segments.map((segment) => {
      const [rows, heads, queries] = pattern.shape;
      const count = positions(segment);
      const part = segments.length === 1 ? pattern : tf.slice(pattern, [0, 0, 0, start], [rows, heads, queries, count]);
      start += count;
      return tf.matMul<tf.Tensor4D>(part, segment.values); // [R, H, T, Dh]
    });
    const [only] = parts;
    return only !== undefined && parts.length === 1 ? tf.clone(only) : tf.addN(parts);
  });
}

function concatKeys(parts: tf.Tensor4D[]): tf.Tensor4D {
  const [only] = parts;
  return only !== undefined && parts.length === 1 ? only : tf.concat(parts, 3);
}

/**
 * The whole of attention in one go, for when nobody asked to see the scores or the pattern.
 *
 * @param q [R, H, T, Dh]
 * @returns [R, H, T, Dh] owned by the caller.
 */
export function attend(q: tf.Tensor4D, segments: readonly KeyValues[], mask: AttentionMask): tf.Tensor4D {
  if (hasFused("TonearmAttention")) return fusedAttend(q, segments, mask);
  return tf.tidy(() => attentionValues(attentionPattern(attentionScores(q, segments), mask), segments));
}

function fusedAttend(q: tf.Tensor4D, segments: readonly KeyValues[], mask: AttentionMask): tf.Tensor4D {
  const causal = mask !== undefined && causalMasks.has(mask);
  const named = segments.flatMap(({ keys, values }, index): [string, tf.Tensor][] => [
    [`keys${index}`, keys],
    [`values${index}`, values],
  ]);
  const inputs = { q, ...Object.fromEntries<tf.Tensor>(named), mask: causal ? undefined : mask };
  return runFused("TonearmAttention", inputs, {
    segments: segments.length,
    scale: 1 / Math.sqrt(q.shape[3]),
    causal,
  }) as tf.Tensor4D;
}
