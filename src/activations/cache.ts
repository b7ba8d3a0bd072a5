import * as tf from "@tensorflow/tfjs-core";

import { MemoryError, SiteError } from "../errors.js";
import type { MusicGenConfig } from "../model/checkpoint.js";
import { disposeTree } from "../runtime/owner.js";
import type { Activation } from "./activation.js";
import { siteCatalogue, type Site } from "./catalogue.js";
import type { Hook } from "./hooks.js";
import { countLayersFromStart, nearest, selectSites, type SiteSelection } from "./select.js";
import { byteSize, siteShape, type RunSizes } from "./shapes.js";

/**
 * The activations of one run by site: `cache["blocks.3.attn.hook_pattern"]`, layers counted from the end when negative:
 * `cache["blocks.-1.hook_resid_post"]`. `Object.keys` lists the sites that were captured; reading another one throws a
 * {@link SiteError}. The tensors are the caller's: {@link disposeCache} frees them.
 */
export type ActivationCache = Readonly<Record<string, tf.Tensor>>;

/** What a cache keeps. */
export interface CacheOptions {
  readonly sites: SiteSelection;
  /** The most bytes that it may take, known before the run. Default: {@link DEFAULT_BUDGET_BYTES}. */
  readonly budgetBytes?: number | undefined;
}

/** 2 GiB: ten seconds of one row of musicgen-small take 1.2 GB, without patterns, scores and heads' results. */
export const DEFAULT_BUDGET_BYTES: number = 2 * 2 ** 30;

/** A cache of these tensors, which become the cache's. */
export function makeCache(tensors: ReadonlyMap<string, tf.Tensor>, catalogue: readonly Site[]): ActivationCache {
  return new Proxy(Object.fromEntries(tensors), {
    get(captured, site) {
      if (typeof site !== "string" || site in captured) return Reflect.get(captured, site) as unknown;
      if (site === "then" || site === "toJSON") return undefined; // asked by await and JSON, not by the user
      const counted = countLayersFromStart(site, catalogue);
      if (Object.hasOwn(captured, counted)) return captured[counted];
      throw notCaptured(site, [...tensors.keys()], catalogue);
    },
  });
}

/** Frees the tensors of a cache. */
export function disposeCache(cache: ActivationCache): void {
  disposeTree(Object.values(cache));
}

function notCaptured(site: string, captured: readonly string[], catalogue: readonly Site[]): SiteError {
  const exists = catalogue.some((known) => known.site === countLayersFromStart(site, catalogue));
  return new SiteError({
    asked: `read "${site}" from a cache`,
    found: `it holds ${captured.length} other sites; nearest: ${nearest(site, captured).join(", ")}`,
    todo: exists
      ? "Add it to the sites of the run, if the run comes by it"
      : `The model has no such site; nearest: ${nearest(
          site,
          catalogue.map((known) => known.site),
        ).join(", ")}`,
  });
}

/** Keeps the activations of a run until it ends, and then joins them to a cache. */
export class CacheCollector {
  readonly #catalogue: readonly Site[];
  readonly #shapes = new Map<string, readonly string[]>(); // the chosen sites'
  readonly #kept = new Map<string, tf.Tensor[]>(); // one per pass

  /**
   * @throws {SiteError} if the selection matches no site.
   */
  constructor(config: MusicGenConfig, selection: SiteSelection) {
    this.#catalogue = siteCatalogue(config);
    const chosen = selectSites(selection, this.#catalogue);
    for (const { site, shape } of this.#catalogue) if (chosen.has(site)) this.#shapes.set(site, shape);
  }

  /**
   * Checks that what will be kept fits, before the run.
   *
   * @throws {MemoryError} with the numbers and the sites that take most.
   */
  requireBudget(config: MusicGenConfig, sizes: RunSizes, budgetBytes: number = DEFAULT_BUDGET_BYTES): void {
    const needed = this.#catalogue
      .filter(({ site }) => this.#shapes.has(site))
      .map((site) => ({ site: site.site, bytes: byteSize(siteShape(site, config, sizes) ?? [0]) }));
    const total = needed.reduce((sum, { bytes }) => sum + bytes, 0);
    if (total <= budgetBytes) return;
    const biggest = needed.toSorted((a, b) => b.bytes - a.bytes).slice(0, 3);
    throw new MemoryError({
      asked: `keep ${needed.length} sites over ${sizes.positions} positions of ${sizes.rows} rows`,
      found:
        `they take ${inMiB(total)}, the budget is ${inMiB(budgetBytes)}; the biggest: ` +
        biggest.map(({ site, bytes }) => `${site} ${inMiB(bytes)}`).join(", "),
      todo: "Choose fewer sites or a shorter clip, reduce while running (a hook, or `tonearm capture`), or raise budgetBytes",
    });
  }

  /** The hook that keeps a copy of every chosen activation. Place it last, so that it sees what the others left. */
  get hook(): Hook {
    return {
      name: "cache",
      sites: (site) => this.#shapes.has(site),
      run: (value, at) => {
        this.#keep(value, at);
        return undefined;
      },
    };
  }

  /**
   * Ends the run. Several passes over a site become one tensor, joined along its positions: see {@link joinPasses}.
   *
   * @returns a cache that is the caller's
   */
  finish(): ActivationCache {
    const joined = new Map<string, tf.Tensor>();
    for (const [site, passes] of this.#kept) {
      joined.set(site, joinPasses(passes, this.#shapes.get(site) ?? [], site));
      passes.length = 0;
    }
    this.#kept.clear();
    return makeCache(joined, this.#catalogue);
  }

  /** Frees what was kept. */
  dispose(): void {
    disposeTree([...this.#kept.values()]);
    this.#kept.clear();
  }

  #keep(value: tf.Tensor, { site }: Activation): void {
    const passes = this.#kept.get(site);
    if (!passes) this.#kept.set(site, [tf.clone(value)]);
    else if (!isConstant(this.#shapes.get(site) ?? [], site)) passes.push(tf.clone(value));
  }
}

const HIDDEN_KEY = -1e9; // the score of a key that a pass did not have yet: what the causal mask would make of it

/**
 * Joins what the passes of a generation left at a site along its positions, so that a cache of a generation looks like
 * that of a teacher-forced pass over the same codes. Keys that an earlier pass did not have yet get a pattern of 0 and a
 * score of −1e9, and so do tokens that a shorter text doesn't have. Passes of the codec are joined along the first axis. Takes ownership of `passes`.
 */
function joinPasses(passes: readonly tf.Tensor[], shape: readonly string[], site: string): tf.Tensor {
  const [first] = passes;
  if (first === undefined) throw new RangeError("a site is kept with its first pass");
  if (passes.length === 1) return first;
  try {
    const keys = Math.max(shape.indexOf("T'"), shape.indexOf("S")); // texts over time differ in length
    const longest = keys < 0 ? 0 : Math.max(...passes.map((pass) => pass.shape[keys] ?? 0));
    return tf.tidy(() => {
      const even = keys < 0 ? passes : passes.map((pass) => padKeys(pass, keys, longest, site));
      return tf.concat([...even], Math.max(0, shape.indexOf("T")));
    });
  } finally {
    disposeTree(passes);
  }
}

function padKeys(pass: tf.Tensor, axis: number, length: number, site: string): tf.Tensor {
  const missing = length - (pass.shape[axis] ?? 0);
  const paddings = pass.shape.map((_, index): [number, number] => [0, index === axis ? missing : 0]);
  return tf.pad(pass, paddings, site.endsWith("hook_attn_scores") ? HIDDEN_KEY : 0);
}

/**
 * Whether every pass of a generation would leave the same: the text's keys and values. Of texts over time the first one's
 * are kept, as are those of the text encoder.
 */
function isConstant(shape: readonly string[], site: string): boolean {
  return !shape.includes("T") && !site.startsWith("codec.");
}

function inMiB(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 3 : 1)} MiB`;
}
