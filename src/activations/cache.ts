import type * as tf from "@tensorflow/tfjs-core";

import { SiteError } from "../errors.js";

/**
 * The activations of one run by site: `cache["blocks.3.attn.hook_pattern"]`. Reading a site that was not captured throws
 * a {@link SiteError}; `Object.keys` lists those that were. The tensors are the caller's: {@link disposeCache} frees them.
 */
export type ActivationCache = Readonly<Record<string, tf.Tensor>>;

/** A cache of these tensors. */
export function makeCache(tensors: ReadonlyMap<string, tf.Tensor>): ActivationCache {
  return new Proxy(Object.fromEntries(tensors), {
    get(captured, site) {
      if (typeof site !== "string" || Object.hasOwn(captured, site)) return Reflect.get(captured, site) as unknown;
      if (site === "then" || site === "toJSON") return undefined; // asked by await and JSON, not by the user
      throw new SiteError({
        asked: `read "${site}" from a cache`,
        found: `${tensors.size} other sites: ${[...tensors.keys()].slice(0, 5).join(", ")}${tensors.size > 5 ? " …" : ""}`,
        todo: "Add the site to the selection that was captured",
      });
    },
  });
}

/** Frees the tensors of a cache. */
export function disposeCache(cache: ActivationCache): void {
  Object.values(cache).forEach((tensor) => tensor.dispose());
}
