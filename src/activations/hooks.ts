import * as tf from "@tensorflow/tfjs-core";

import { SiteError } from "../errors.js";
import type { PassStop, PassTaps } from "../model/pass.js";
import { Activation } from "./activation.js";
import type { Site } from "./catalogue.js";
import { selectSites, type SiteSelection } from "./select.js";

/**
 * A function that is run at chosen sites, in every pass that comes by them.
 *
 * `value` is what the hook before it left; it belongs to the network, so `tf.clone` it to keep it. `run` may return a
 * tensor of the same shape, which the network goes on with and frees, or nothing. It may be asynchronous.
 */
export interface Hook {
  readonly sites: SiteSelection;
  readonly run: (value: tf.Tensor, at: Activation) => tf.Tensor | undefined | Promise<tf.Tensor | undefined>;
  /** Shown in reports and errors; without it the hook's number in the list. */
  readonly name?: string | undefined;
  /** Whether it may end a run without having been called; false makes that an error, which is the default. */
  readonly optional?: boolean | undefined;
  /**
   * Whether it answers at once, and what it returns needs no look for NaN and infinity, which reads every value back from
   * the backend. For hooks of tonearm itself, whose arithmetic is finite for the finite numbers it was checked to start
   * from. Where all hooks at a site are trusted, a generation calls them without leaving the pass.
   */
  readonly trusted?: boolean | undefined;
}

/** What became of a hook in a run. */
export interface HookCount {
  readonly name: string;
  readonly sites: number; // how many sites it was placed on
  readonly fired: number; // how often it was called
  readonly silent: readonly string[]; // the sites among them that the run never came by
}

interface PlacedHook {
  readonly hook: Hook;
  readonly name: string;
  readonly sites: ReadonlySet<string>;
  readonly reached: Set<string>;
  fired: number;
}

/**
 * Hooks placed on the sites of one model for one run. Several hooks on a site run in the order in which they were given,
 * each on what the one before left.
 */
export class PlacedHooks implements PassTaps {
  readonly #placed: readonly PlacedHook[];
  readonly #bySite = new Map<string, PlacedHook[]>();

  /** @throws {SiteError} if a selection matches no site. */
  constructor(hooks: readonly Hook[], catalogue: readonly Site[]) {
    this.#placed = hooks.map((hook, index) => {
      const sites = selectSites(hook.sites, catalogue);
      return { hook, name: hook.name ?? `hook ${index}`, sites, reached: new Set<string>(), fired: 0 };
    });
    for (const placed of this.#placed) {
      for (const site of placed.sites) {
        const others = this.#bySite.get(site);
        if (others) others.push(placed);
        else this.#bySite.set(site, [placed]);
      }
    }
  }

  wants(site: string): boolean {
    return this.#bySite.has(site);
  }

  /**
   * Calls the hooks of a stop's site.
   *
   * @throws {SiteError} naming the hook and the site, if it returns what is not a live tensor of the site's shape, leaves
   *   NaN or infinity behind, or disposes the value it was given. Whatever a hook throws itself comes through unchanged.
   */
  async run(stop: PassStop): Promise<void> {
    const at = new Activation(stop);
    for (const placed of this.#bySite.get(at.site) ?? []) {
      const before = at.value;
      follow(before, await call(placed, before, at), at, placed);
      if (at.value !== before && placed.hook.trusted !== true) await requireFinite(at.value, placed, at.site);
    }
  }

  /** The same at once, where all hooks of the site are trusted. @returns whether they are */
  attend(stop: PassStop): boolean {
    const here = this.#bySite.get(stop.announcement.site) ?? [];
    if (here.some(({ hook }) => hook.trusted !== true)) return false;
    const at = new Activation(stop);
    for (const placed of here) {
      const before = at.value;
      follow(before, call(placed, before, at), at, placed);
    }
    return true;
  }

  /** What became of each hook so far. */
  get counts(): readonly HookCount[] {
    return this.#placed.map(({ name, sites, reached, fired }) => ({
      name,
      sites: sites.size,
      fired,
      silent: [...sites].filter((site) => !reached.has(site)),
    }));
  }

  /** Ends a run. @throws {SiteError} naming each hook that was never called, unless it is `optional`. */
  requireFired(): void {
    const silent = this.#placed.filter(({ hook, fired }) => fired === 0 && hook.optional !== true);
    if (silent.length === 0) return;
    throw new SiteError({
      asked: `run ${silent.map(({ name, sites }) => `${name} at ${shorten([...sites])}`).join(", ")}`,
      found: "the run ended without coming by these sites",
      todo:
        "Sites of the text encoder and the cross-attention need a text, hook_guided_logits a generation, codec sites a " +
        "decoding or encoding; startAt and stopAt leave blocks out. Set optional: true for a hook that may stay silent",
    });
  }
}

/**
 * Drives a walk to its end, running hooks at its stops. Ends the walk early if a hook throws.
 *
 * @returns the walk's result
 */
export async function driveHooks<Result>(
  walk: Generator<PassStop, Result, void> | AsyncGenerator<PassStop, Result, void>,
  hooks: PlacedHooks,
): Promise<Result> {
  try {
    for (;;) {
      const next = await walk.next();
      if (next.done) return next.value;
      await hooks.run(next.value);
    }
  } finally {
    await walk.return(undefined as never); // no effect on a walk that has ended
  }
}

function call(placed: PlacedHook, value: tf.Tensor, at: Activation): unknown {
  placed.fired++;
  placed.reached.add(at.site);
  return placed.hook.run(value, at);
}

/** Goes on with what a hook left. */
function follow(before: tf.Tensor, returned: unknown, at: Activation, placed: PlacedHook): void {
  if (returned !== undefined && returned !== before) replace(at, returned, placed);
  if (at.isFreed) throw misbehaved(placed, at.site, "it disposed the value, which is the network's");
}

/** Goes on with what a hook returned, or frees and refuses it. */
function replace(at: Activation, returned: unknown, placed: PlacedHook): void {
  if (!isTensor(returned)) {
    throw misbehaved(placed, at.site, `it returned ${returned === null ? "null" : `a ${typeof returned}`}`);
  }
  if (returned.isDisposed) {
    throw misbehaved(placed, at.site, "it returned a disposed tensor: the network frees what it is given");
  }
  try {
    at.replace(returned);
  } catch (cause) {
    returned.dispose();
    throw misbehaved(placed, at.site, cause instanceof SiteError ? cause.found : String(cause), cause);
  }
}

function isTensor(value: unknown): value is tf.Tensor {
  return value instanceof tf.Tensor;
}

async function requireFinite(tensor: tf.Tensor, placed: PlacedHook, site: string): Promise<void> {
  const values = await tensor.data();
  for (let index = 0; index < values.length; index++) {
    if (Number.isFinite(values[index])) continue;
    const found = `it left ${values[index]} at [${indices(index, tensor.shape).join(",")}]`;
    throw misbehaved(placed, site, site.endsWith("hook_attn_scores") ? `${found}; hide a key with -1e9` : found);
  }
}

/** Where the element `flat` of a tensor lies. */
function indices(flat: number, shape: readonly number[]): readonly number[] {
  let rest = flat;
  return shape
    .toReversed()
    .map((size) => {
      const index = rest % size;
      rest = Math.floor(rest / size);
      return index;
    })
    .toReversed();
}

function misbehaved({ name }: PlacedHook, site: string, found: string, cause?: unknown): SiteError {
  return new SiteError({
    asked: `run ${name} at ${site}`,
    found,
    todo: "Return a finite tensor of the site's own shape (tf.clone one that you keep), or nothing",
    cause,
  });
}

function shorten(sites: readonly string[]): string {
  const [first = ""] = sites;
  return sites.length === 1 ? first : `${first} and ${sites.length - 1} more`;
}
