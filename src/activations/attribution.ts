import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import type { MusicGen } from "../musicgen.js";
import type { ActivationCache } from "./cache.js";
import { applyFinalNorm, decomposedByHeadSites, decomposedResidual } from "./residual.js";

/** Which logit is taken apart. */
export interface AttributionOptions {
  readonly codebook: number;
  /** A token for all positions, or one for each of the T positions. */
  readonly token: number | readonly number[];
  /** Take the difference to this token's logit instead of the logit itself. */
  readonly minus?: number | readonly number[] | undefined;
  /** Take the self-attention apart by head; needs `blocks.*.attn.hook_result`. */
  readonly byHead?: boolean | undefined;
}

/** What each part of the network adds to a logit. */
export interface LogitAttribution {
  readonly labels: readonly string[]; // C names: sites, and "ln_final bias"
  readonly values: tf.Tensor3D; // [C, R, T], owned by the caller; the sum over its first axis is the logit
}

/** The sites that {@link logitAttribution} needs; it does without `attn.hook_result` unless it goes by head. */
export function attributionSites(site: string): boolean {
  return site === "ln_final.hook_scale" || decomposedByHeadSites(site);
}

/**
 * Direct logit attribution: how much of the logit of a token of a codebook each part of the network contributes on its
 * direct way through the residual stream. The parts add up to the logit exactly (to rounding).
 *
 * @param cache of one run over all layers, with {@link attributionSites}
 * @throws {SiteError} for sites that were not captured; {@link UsageError} for a codebook or token out of range.
 */
export async function logitAttribution(
  model: Pick<MusicGen, "config" | "unembedding">,
  cache: ActivationCache,
  { codebook, token, minus, byHead = false }: AttributionOptions,
): Promise<LogitAttribution> {
  const { codebooks, codebookSize, layers } = model.config.decoder;
  const parts = decomposedResidual(cache, { byHead });
  try {
    if (!parts.labels.includes(`blocks.${layers - 1}.hook_mlp_out`)) {
      throw new UsageError({
        asked: "attribute a logit to the parts of the network",
        found: "a cache that lacks the last layers",
        todo: "Run with { sites: attributionSites }",
      });
    }
    const positions = parts.values.shape[2];
    inRange("codebook", [codebook], codebooks);
    const [plus, other] = [token, minus].map((tokens) => {
      if (tokens === undefined) return undefined;
      const list = typeof tokens === "number" ? Array.from({ length: positions }, () => tokens) : tokens;
      inRange("token", list, codebookSize);
      if (list.length === positions) return list;
      throw new UsageError({
        asked: `attribute the logits of ${list.length} tokens`,
        found: `a run of ${positions} positions`,
        todo: "Give one token, or one for each position",
      });
    });
    const normalized = await applyFinalNorm(model, parts, cache);
    const { gain, bias, heads } = await model.unembedding();
    try {
      const values = tf.tidy(() => {
        const columns = tf.transpose(tf.squeeze(tf.slice(heads, [0, codebook, 0], [-1, 1, -1]), [1])); // [V, D]
        const towards = tf.gather(columns, [...(plus ?? [])]); // [T, D]
        const direction = other ? tf.sub(towards, tf.gather(columns, [...other])) : towards; // [T, D]
        const direct = tf.sum(tf.mul(normalized.values, direction), -1); // [C, R, T]
        const constant = tf.sum(tf.mul(bias, direction), -1); // [T]
        const [, rows] = parts.values.shape;
        return tf.concat<tf.Tensor>([direct, tf.broadcastTo(constant, [1, rows, positions])], 0) as tf.Tensor3D;
      });
      return { labels: [...parts.labels, "ln_final bias"], values };
    } finally {
      tf.dispose([gain, bias, heads, normalized.values]);
    }
  } finally {
    parts.values.dispose();
  }
}

function inRange(what: string, values: readonly number[], count: number): void {
  const bad = values.find((value) => !Number.isInteger(value) || value < 0 || value >= count);
  if (bad === undefined) return;
  throw new UsageError({ asked: `${what} ${bad}`, found: `a model with ${count}`, todo: `Give 0 … ${count - 1}` });
}
