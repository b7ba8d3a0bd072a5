import * as tf from "@tensorflow/tfjs-core";

import { SiteError } from "../errors.js";
import type { MusicGen } from "../musicgen.js";
import type { ActivationCache } from "./cache.js";

/**
 * The residual stream taken apart (Elhage et al. 2021, https://transformer-circuits.pub/2021/framework): what it is before
 * each block, and what each part of each block adds to it.
 */

/** Parts or stages of the residual stream of one run, one upon another. */
export interface ResidualStack {
  readonly labels: readonly string[]; // C names of sites
  readonly values: tf.Tensor4D; // [C, R, T, D], owned by the caller
}

/** The sites that {@link accumulatedResidual} needs. */
export function accumulatedSites(site: string): boolean {
  return /^blocks\.\d+\.hook_resid_(pre|post)$/.test(site);
}

/** The sites that {@link decomposedResidual} needs. */
export function decomposedSites(site: string): boolean {
  return /^(hook_(pos_)?embed|blocks\.\d+\.hook_(attn|cross_attn|mlp)_out)$/.test(site);
}

/** The sites that {@link decomposedResidual} needs to take the self-attention apart by head. */
export function decomposedByHeadSites(site: string): boolean {
  return decomposedSites(site) || /^blocks\.\d+\.attn\.hook_result$/.test(site);
}

/**
 * The residual stream before each block and after the last one captured: L + 1 stages.
 *
 * @returns owned by the caller.
 * @throws {SiteError} if the cache lacks a stage; capture {@link accumulatedSites}.
 */
export function accumulatedResidual(cache: ActivationCache): ResidualStack {
  const layers = capturedLayers(cache, /^blocks\.(\d+)\.hook_resid_post$/, "accumulatedSites");
  const labels = [
    ...layers.map((layer) => `blocks.${layer}.hook_resid_pre`),
    `blocks.${layers.length - 1}.hook_resid_post`,
  ];
  return stack(() => labels.map((label) => ({ label, value: take(cache, label) })));
}

/**
 * What adds up to the residual stream after the last block captured: both embeddings, and what attention, cross-attention
 * and feed-forward part of each block add. Rows without a text have no cross-attention.
 *
 * @param byHead take the self-attention apart into its heads, labelled `blocks.3.attn.hook_result[7]`
 * @returns owned by the caller; the sum over its first axis is the residual stream.
 * @throws {SiteError} if the cache lacks a part; capture {@link decomposedSites} or {@link decomposedByHeadSites}.
 */
export function decomposedResidual(
  cache: ActivationCache,
  { byHead = false }: { readonly byHead?: boolean } = {},
): ResidualStack {
  const layers = capturedLayers(cache, /^blocks\.(\d+)\.hook_mlp_out$/, "decomposedSites");
  return stack(() => {
    const parts = ["hook_embed", "hook_pos_embed"].map((label) => ({ label, value: take(cache, label) }));
    for (const layer of layers) {
      const block = `blocks.${layer}`;
      if (byHead) parts.push(...headParts(cache, `${block}.attn.hook_result`));
      else parts.push({ label: `${block}.hook_attn_out`, value: take(cache, `${block}.hook_attn_out`) });
      const cross = `${block}.hook_cross_attn_out`;
      if (cross in cache) parts.push({ label: cross, value: take(cache, cross) });
      parts.push({ label: `${block}.hook_mlp_out`, value: take(cache, `${block}.hook_mlp_out`) });
    }
    return parts;
  });
}

/**
 * What each head of each captured layer's self-attention adds to the residual stream: L·H parts.
 *
 * @returns owned by the caller.
 * @throws {SiteError} if the cache has no `blocks.*.attn.hook_result`.
 */
export function headResults(cache: ActivationCache): ResidualStack {
  const sites = Object.keys(cache).filter((site) => /^blocks\.\d+\.attn\.hook_result$/.test(site));
  if (sites.length === 0) take(cache, "blocks.0.attn.hook_result"); // throws, with the sites that there are
  return stack(() => sites.flatMap((site) => headParts(cache, site)));
}

/**
 * Applies the final layer norm of the run to parts of its residual stream: each is centred, divided by the run's own scale
 * and multiplied by the gain. That is linear: parts that add up to the residual stream add up to the normalised one, less
 * the norm's bias.
 *
 * @param cache has `ln_final.hook_scale` of the same run
 * @returns owned by the caller; `stack` stays the caller's too.
 */
export async function applyFinalNorm(
  model: Pick<MusicGen, "unembedding">,
  { labels, values }: ResidualStack,
  cache: ActivationCache,
): Promise<ResidualStack> {
  const scale = take(cache, "ln_final.hook_scale"); // [R, T, 1]
  const { gain, bias, heads } = await model.unembedding();
  try {
    const normalized = tf.tidy(() => {
      const centred = tf.sub(values, tf.mean(values, -1, true)); // [C, R, T, D]
      return tf.mul<tf.Tensor4D>(tf.div(centred, scale), gain);
    });
    return { labels, values: normalized };
  } finally {
    tf.dispose([gain, bias, heads]);
  }
}

interface Part {
  readonly label: string;
  readonly value: tf.Tensor; // [R, T, D], or [T, D] for all rows
}

function headParts(cache: ActivationCache, site: string): Part[] {
  return tf.unstack(take(cache, site), 2).map((value, head) => ({ label: `${site}[${head}]`, value })); // H × [R, T, D]
}

/** Stacks parts, which may be made on the spot. */
function stack(makeParts: () => readonly Part[]): ResidualStack {
  const labels: string[] = [];
  const values = tf.tidy(() => {
    const parts = makeParts();
    labels.push(...parts.map(({ label }) => label));
    const shape = parts.map(({ value }) => value.shape).find((axes) => axes.length === 3) ?? [];
    return tf.stack(parts.map(({ value }) => tf.broadcastTo(value, shape))) as tf.Tensor4D; // [C, R, T, D]
  });
  return { labels, values };
}

function take(cache: ActivationCache, site: string): tf.Tensor {
  const value = cache[site]; // throws where it was not captured
  if (value) return value;
  throw new SiteError({
    asked: `read "${site}" from a cache`,
    found: "nothing",
    todo: "Add it to the sites of the run",
  });
}

/** Layers 0 … n − 1 of which the last was captured. */
function capturedLayers(cache: ActivationCache, site: RegExp, needed: string): readonly number[] {
  const last = Object.keys(cache).reduce((most, name) => Math.max(most, Number(site.exec(name)?.[1] ?? -1)), -1);
  if (last >= 0) return Array.from({ length: last + 1 }, (_, layer) => layer);
  throw new SiteError({
    asked: "take a residual stream apart",
    found: "a cache without its parts",
    todo: `Run with { sites: ${needed} }`,
  });
}
