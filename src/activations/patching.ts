import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import type { ForwardOptions, MusicGen } from "../musicgen.js";
import type { Activation } from "./activation.js";
import { disposeCache, type ActivationCache } from "./cache.js";
import type { Site } from "./catalogue.js";
import type { Table } from "./heat-map.js";
import type { Hook } from "./hooks.js";
import { selectSites, type SiteSelection } from "./select.js";

/**
 * Activation patching (Vig et al. 2020; Meng et al. 2022, "causal tracing"): run the model on a corrupted input with some
 * activations taken from a run on the clean one, and see how much of the clean behaviour they bring back. Swap the two
 * inputs to see how much they destroy instead.
 */

/** Two inputs whose runs have the same shapes: as many items, rows, and frames, and for sites over the text as many tokens. */
export interface PatchInputs {
  readonly clean: ForwardOptions;
  readonly corrupted: ForwardOptions;
}

/** Which part of an activation is patched; what is left out is not restricted. */
export interface PatchRegion {
  /** Along the position axis: positions; of patterns and scores queries; of the cross-attention's keys and values tokens. */
  readonly positions?: readonly number[] | undefined;
  readonly heads?: readonly number[] | undefined;
  readonly rows?: readonly number[] | undefined;
}

/** A number that tells how a run behaved. Both tensors are [R, K, T, V] and stay the caller's. */
export type PatchMetric = (logits: tf.Tensor4D, cleanLogits: tf.Tensor4D) => number | Promise<number>;

/** The model that is patched. */
export type PatchedModel = Pick<MusicGen, "sites" | "forward" | "runWithHooks" | "runWithCache">;

/**
 * Runs the corrupted input with activations of the clean run in their places.
 *
 * @returns logits [R, K, T, V], owned by the caller.
 * @throws {SiteError} for sites that don't exist or that a run doesn't come by; {@link UsageError} if the runs' shapes differ
 *   there, or the region lies outside.
 */
export async function patchActivations(
  model: PatchedModel,
  { clean, corrupted, sites, ...region }: PatchInputs & PatchRegion & { readonly sites: SiteSelection },
): Promise<tf.Tensor> {
  const { logits, cache } = await model.runWithCache(clean, { sites });
  logits.dispose();
  try {
    const hook = patchHook(cache, model.sites(), sites, region);
    return (await model.runWithHooks(corrupted, [hook])).logits;
  } finally {
    disposeCache(cache);
  }
}

/** A sweep: how the metric comes out for each patch. */
export interface PatchSweep {
  readonly table: Table; // sites × positions or heads
  readonly clean: number; // the metric of the clean run
  readonly corrupted: number; // and of the corrupted one: what a patch without effect leaves
}

/** What a sweep goes over. */
export interface PatchSweepOptions extends PatchInputs {
  /** One row of the table for each, in the order of the network: `"blocks.*.hook_resid_pre"`. */
  readonly sites: SiteSelection;
  /** One column for each position, or for each head of a site that has heads. */
  readonly over: "positions" | "heads";
  readonly metric: PatchMetric;
  /** With `over: "positions"`: which ones, all by default. With `over: "heads"`: patch these positions of each head. */
  readonly positions?: readonly number[] | undefined;
  readonly rows?: readonly number[] | undefined;
  /** Called after each of the sweep's runs. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/**
 * Patches one place after another: one run for each site and position, or site and head. A run begins at the patched site's
 * own block, from the corrupted run's residual stream.
 *
 * @throws {SiteError}, {@link UsageError} as {@link patchActivations}; {@link MemoryError} where the clean activations
 *   exceed the budget of a cache.
 */
export async function patchSweep(model: PatchedModel, options: PatchSweepOptions): Promise<PatchSweep> {
  const { clean, corrupted, over, metric, positions, rows, onProgress } = options;
  const catalogue = model.sites();
  const chosen = selectSites(options.sites, catalogue);
  const swept = catalogue.filter(({ site }) => chosen.has(site));
  const from = await model.runWithCache(clean, { sites: options.sites });
  try {
    const layers = new Set(swept.map(({ network, layer }) => (network === "decoder" ? layer : undefined)));
    const starts = (site: string): boolean =>
      [...layers].some((layer) => layer !== undefined && site === `blocks.${layer}.hook_resid_pre`);
    const to =
      layers.size === 1 && layers.has(undefined) ? undefined : await model.runWithCache(corrupted, { sites: starts });
    const corruptedLogits = to?.logits ?? (await model.forward(corrupted));
    try {
      const columns = sweepColumns(swept, from.cache, over, positions);
      const total = swept.length * columns.length;
      const values: number[][] = [];
      for (const [index, { site, network, layer }] of swept.entries()) {
        const residual = network === "decoder" ? to?.cache[`blocks.${layer ?? -1}.hook_resid_pre`] : undefined;
        const startAt = layer === undefined || !residual ? undefined : { layer, residual: residual as tf.Tensor3D };
        const line: number[] = [];
        for (const [done, column] of columns.entries()) {
          const region = over === "positions" ? { positions: [column], rows } : { heads: [column], positions, rows };
          const hook = patchHook(from.cache, catalogue, site, region);
          const { logits } = await model.runWithHooks({ ...corrupted, startAt }, [hook]);
          line.push(await metric(logits as tf.Tensor4D, from.logits as tf.Tensor4D));
          logits.dispose();
          onProgress?.(index * columns.length + done + 1, total);
        }
        values.push(line);
      }
      return {
        table: {
          title: `effect of patching one ${over === "positions" ? "position" : "head"}`,
          rowTitle: "site",
          columnTitle: over === "positions" ? "position" : "head",
          rows: swept.map(({ site }) => site),
          columns: columns.map(String),
          values,
        },
        clean: await metric(from.logits as tf.Tensor4D, from.logits as tf.Tensor4D),
        corrupted: await metric(corruptedLogits as tf.Tensor4D, from.logits as tf.Tensor4D),
      };
    } finally {
      corruptedLogits.dispose();
      if (to) disposeCache(to.cache);
    }
  } finally {
    from.logits.dispose();
    disposeCache(from.cache);
  }
}

/** Which logit a metric reads. */
export interface LogitPlace {
  readonly codebook: number;
  readonly position: number;
  readonly row?: number | undefined; // default: 0
}

/** The logit of `token` less that of `other`. */
export function logitDifference({
  token,
  other,
  codebook,
  position,
  row = 0,
}: LogitPlace & { readonly token: number; readonly other: number }): PatchMetric {
  return async (logits) => {
    const place = tf.tidy(() => tf.slice(logits, [row, codebook, position, 0], [1, 1, 1, -1])); // [1, 1, 1, V]
    const values = await place.data();
    place.dispose();
    return (values[token] ?? NaN) - (values[other] ?? NaN);
  };
}

/**
 * The Kullback–Leibler divergence of the run's next-token distributions from the clean run's, KL(clean ‖ run) in nats:
 * the mean over codebooks and positions, or at one place.
 */
export function divergenceFromClean(place: Partial<LogitPlace> = {}): PatchMetric {
  const { codebook, position, row } = place;
  return async (logits, cleanLogits) => {
    const mean = tf.tidy(() => {
      const [ours, theirs] = [logits, cleanLogits].map((all) => {
        const begin = [row ?? 0, codebook ?? 0, position ?? 0, 0];
        const size = [row, codebook, position, undefined].map((index) => (index === undefined ? -1 : 1));
        return tf.logSoftmax(tf.slice(all, begin, size));
      });
      if (!ours || !theirs) throw new RangeError("two runs are compared");
      return tf.mean(tf.sum(tf.mul(tf.exp(theirs), tf.sub(theirs, ours)), -1));
    });
    const [value = NaN] = await mean.data();
    mean.dispose();
    return value;
  };
}

/** A hook that puts a region of the cache's activations in the place of the run's own. */
function patchHook(
  cache: ActivationCache,
  catalogue: readonly Site[],
  sites: SiteSelection,
  region: PatchRegion,
): Hook {
  const shapes = new Map(catalogue.map(({ site, shape }) => [site, shape]));
  return {
    name: "patch",
    sites,
    run: (value, { site }: Activation) => {
      const clean = cache[site];
      const same =
        clean?.shape.length === value.shape.length && clean.shape.every((size, axis) => size === value.shape[axis]);
      if (!clean || !same) {
        throw new UsageError({
          asked: `patch ${site}, [${value.shape.join(",")}] in the corrupted run`,
          found: `[${clean?.shape.join(",") ?? ""}] in the clean run`,
          todo: "Give inputs with as many items, rows, frames and text tokens",
        });
      }
      const mask = regionMask(site, value.shape, shapes.get(site) ?? [], region);
      if (!mask) return tf.clone(clean);
      return tf.tidy(() => tf.where(tf.tensor(mask, value.shape, "bool"), clean, value));
    },
  };
}

/** 1 where an activation is patched; undefined: everywhere. */
function regionMask(
  site: string,
  shape: readonly number[],
  letters: readonly string[],
  { rows, positions, heads }: PatchRegion,
): Uint8Array | undefined {
  const chosen = [
    { what: "rows", axis: letters.findIndex((letter) => ["R", "Rc", "B"].includes(letter)), indices: rows },
    { what: "positions", axis: positionAxis(letters), indices: positions },
    { what: "heads", axis: letters.indexOf("H"), indices: heads },
  ].flatMap(({ what, axis, indices }) => (indices ? [{ what, axis, indices }] : []));
  if (chosen.length === 0) return undefined;
  for (const { what, axis, indices } of chosen) {
    const count = shape[axis] ?? 0;
    const bad = indices.find((index) => !Number.isInteger(index) || index < 0 || index >= count);
    if (indices.length > 0 && bad === undefined) continue;
    throw new UsageError({
      asked: `patch ${what} ${indices.join(", ")} of ${site}`,
      found: axis < 0 ? `an activation [${letters.join(", ")}], which has none` : `${count} ${what}`,
      todo: axis < 0 ? "Choose a site that has them" : `Give some of 0 … ${count - 1}`,
    });
  }
  const allowed = chosen.map(({ axis, indices }) => ({ axis, indices: new Set(indices) }));
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
  return Uint8Array.from({ length: shape.reduce((product, size) => product * size, 1) }, (_, flat) =>
    allowed.every(({ axis, indices }) => indices.has(Math.floor(flat / (strides[axis] ?? 1)) % (shape[axis] ?? 1)))
      ? 1
      : 0,
  );
}

function positionAxis(letters: readonly string[]): number {
  const own = letters.indexOf("T");
  return own >= 0 ? own : letters.indexOf("S");
}

function sweepColumns(
  swept: readonly Site[],
  cache: ActivationCache,
  over: PatchSweepOptions["over"],
  positions: readonly number[] | undefined,
): readonly number[] {
  if (over === "positions" && positions) return positions;
  const counts = swept.map(({ site, shape }) => {
    const axis = over === "positions" ? positionAxis(shape) : shape.indexOf("H");
    if (axis >= 0) return cache[site]?.shape[axis] ?? 0;
    throw new UsageError({
      asked: `sweep over the ${over} of ${site}`,
      found: `an activation [${shape.join(", ")}], which has none`,
      todo: "Choose sites that have them",
    });
  });
  const [first = 0] = counts;
  if (counts.every((count) => count === first)) return Array.from({ length: first }, (_, index) => index);
  throw new UsageError({
    asked: `sweep over the ${over} of ${swept.length} sites in one table`,
    found: `${[...new Set(counts)].join(" and ")} of them`,
    todo: "Make a sweep for each kind of site",
  });
}
