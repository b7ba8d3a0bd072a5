import type * as tf from "@tensorflow/tfjs-core";

import { SiteError } from "../errors.js";
import type { PassStop } from "../model/pass.js";
import type { Taps } from "../runtime/announce.js";
import { Activation } from "./activation.js";
import type { Site } from "./catalogue.js";
import { selectSites, type SiteSelection } from "./select.js";

/**
 * A function that is run at chosen sites.
 *
 * It may return a tensor of the same shape, which the network goes on with and owns, or nothing. It may be asynchronous.
 * `value` is what the hook before it left; it belongs to the network, so clone it to keep it.
 */
export interface Hook {
  readonly sites: SiteSelection;
  readonly run: (value: tf.Tensor, at: Activation) => HookResult | Promise<HookResult>;
  /** Shown in reports and errors. */
  readonly name?: string;
  /** Whether it may end a run without having been called; false makes that an error, which is the default. */
  readonly optional?: boolean;
}

// eslint's no-invalid-void-type would forbid `void` in a union; a hook that returns nothing is typed `undefined`.
type HookResult = tf.Tensor | undefined;

/** How often a hook was called. */
export interface HookCount {
  readonly name: string;
  readonly sites: number; // how many sites it was placed on
  readonly fired: number;
}

interface PlacedHook {
  readonly hook: Hook;
  readonly name: string;
  readonly sites: ReadonlySet<string>;
  fired: number;
}

/**
 * Hooks placed on the sites of one model for one run. Several hooks on a site run in the order in which they were given,
 * each on what the one before left.
 */
export class PlacedHooks implements Taps {
  readonly #placed: readonly PlacedHook[];
  readonly #bySite = new Map<string, readonly PlacedHook[]>();

  /** @throws {SiteError} if a selection matches no site. */
  constructor(hooks: readonly Hook[], catalogue: readonly Site[]) {
    this.#placed = hooks.map((hook, index) => {
      const sites = selectSites(hook.sites, catalogue);
      return { hook, name: hook.name ?? `hook ${index}`, sites, fired: 0 };
    });
    for (const placed of this.#placed) {
      for (const site of placed.sites) this.#bySite.set(site, [...(this.#bySite.get(site) ?? []), placed]);
    }
  }

  wants(site: string): boolean {
    return this.#bySite.has(site);
  }

  /** Calls the hooks of a stop's site. @throws {SiteError} naming the hook, if it returns a wrong shape or NaN. */
  async run(stop: PassStop): Promise<void> {
    const at = new Activation(stop);
    for (const placed of this.#bySite.get(at.site) ?? []) {
      placed.fired++;
      const result = await placed.hook.run(at.value, at);
      if (result === undefined || result === at.value) continue;
      try {
        at.replace(result);
      } catch (cause) {
        result.dispose();
        throw misbehaved(placed, at.site, cause instanceof SiteError ? cause.found : String(cause), cause);
      }
      await requireFinite(result, placed, at.site);
    }
  }

  /** How often each hook was called so far. */
  get counts(): readonly HookCount[] {
    return this.#placed.map(({ name, sites, fired }) => ({ name, sites: sites.size, fired }));
  }

  /** Ends a run. @throws {SiteError} naming each hook that was never called, unless it is `optional`. */
  requireFired(): void {
    const silent = this.#placed.filter(({ hook, fired }) => fired === 0 && hook.optional !== true);
    const [first] = silent;
    if (first === undefined) return;
    throw new SiteError({
      asked: `run ${silent.map(({ name, sites }) => `${name} at ${shorten([...sites])}`).join(", ")}`,
      found: "the run ended without reaching these sites",
      todo:
        "Sites of the cross-attention need a text, hook_guided_logits a generation, codec sites a decoding or encoding; " +
        "set optional: true for a hook that may stay silent",
    });
  }
}

/** Drives a walk to its end, running hooks at its stops; ends the walk early if one throws. */
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

async function requireFinite(tensor: tf.Tensor, placed: PlacedHook, site: string): Promise<void> {
  const values = await tensor.data();
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad < 0) return;
  throw misbehaved(placed, site, `${values[bad]} at position ${bad} of the tensor it returned`);
}

function misbehaved({ name }: PlacedHook, site: string, found: string, cause?: unknown): SiteError {
  return new SiteError({
    asked: `run ${name} at ${site}`,
    found,
    todo: "Return a finite tensor of the site's own shape, or nothing",
    cause,
  });
}

function shorten(sites: readonly string[]): string {
  const [first = ""] = sites;
  return sites.length === 1 ? first : `${first} and ${sites.length - 1} more`;
}
