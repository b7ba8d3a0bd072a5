import { UsageError } from "../errors.js";
import type { MusicGenConfig } from "../model/checkpoint.js";
import { parseSpec, type SteeringSpec } from "./spec.js";

/** Published procedures as complete specs, to be used as they are or edited. */

/** What a preset needs to be told. */
export interface PresetOptions {
  readonly vectors: string; // file, relative to the spec
  readonly concept: string;
  /** Steer away from this concept as well. */
  readonly minus?: string | undefined;
  readonly strength?: number | undefined;
}

type Model = Pick<MusicGenConfig, "decoder">;
type Preset = (model: Model, options: PresetOptions) => object;

/** The layer that the seed steers, of musicgen-small's 24 (its authors found 17 … 21 best). */
const SEED_LAYER = 19;
const SEED_LAYERS = 24;

/**
 * arXiv 2506.10225 as its released code does it (`seed-faithful`): h' = (h + s ‖h‖ v̂) / (1 + s) with s = 0.5, at the
 * output of block 19 of 24, on the conditional row, every 25th step (0.5 s): a counter starts at 1 with the prefill, so
 * that steps 24, 49, … are steered, the prefill being step 0.
 *
 * Repaired, and so different from the code: the probe is of the site that is steered (the code looked two blocks
 * earlier); targets were meant one-hot, so fit the vectors with one direction a class; one layer only (with several the
 * code's shared counter makes them take turns). On models of another depth the layer is at the same part of the depth.
 */
function seedFaithful({ decoder }: Model, { concept, strength = 0.5 }: PresetOptions): object {
  const layer = Math.min(decoder.layers - 1, Math.round((SEED_LAYER / SEED_LAYERS) * decoder.layers));
  const sites = `blocks.${layer}.hook_resid_post`;
  return { concept, sites, operator: "convex", strength, every: 25, offset: 24, rows: "cond" };
}

/**
 * The same operator, site and row, at every generated position, with the strength lowered to 0.15 to make up for acting
 * 25 times as often. No published numbers: choose the strength with `tonearm sweep`. It is meant for vectors that were fitted
 * on a neutral or empty text, with the windows of a track kept on one side of the split.
 */
function seedClean(model: Model, options: PresetOptions): object {
  const { concept, minus = null, strength = 0.15 } = options;
  return { ...seedFaithful(model, { ...options, strength }), concept, minus, every: 1, offset: 0 };
}

/**
 * Inference-time intervention (Li et al. 2023): x ← x + Σ W_O (α σ θ̂) over the K heads with the best held-out score, K = 48 of
 * 1,024 heads there, α = 15, at every position after the prompt, σ the deviation of the activations along θ̂. Added
 * before the output projection, which is the same. K is 4.7 % of the model's heads, rounded up, as there.
 *
 * The original has no guidance rows; here all rows are steered, as in its every forward pass.
 */
function iti({ decoder }: Model, { concept, strength = 15 }: PresetOptions): object {
  const top = Math.ceil((decoder.layers * decoder.heads * 48) / 1024);
  return {
    concept,
    sites: "blocks.*.attn.hook_z",
    weighting: { top },
    operator: "add",
    unit: "deviation",
    strength,
    rows: "all",
  };
}

/**
 * Self-monitored inference-time intervention, SMITIN (arXiv 2404.02252): z_h ← z_h + α w_h σ_h θ̂_h for every head, with
 * w_h = ((accuracy − lowest) / (highest − lowest))³, α = 5, every 5th step; off while the median probability of the 16
 * best heads reaches the median less the standard deviation of their scores.
 *
 * Unknown there and chosen here: decay δ of α ← α (1 − δ C): 0; no smoothing of C over time; all rows.
 */
function smitin({ decoder }: Model, { concept, strength = 5 }: PresetOptions): object {
  const sites = "blocks.*.attn.hook_z";
  const top = Math.min(16, decoder.layers * decoder.heads);
  return {
    concept,
    sites,
    weighting: { power: 3 },
    operator: "add",
    unit: "deviation",
    strength,
    every: 5,
    rows: "all",
    gate: { kind: "monitor", monitor: { concept, sites, top }, threshold: "scores", decay: 0 },
  };
}

/**
 * Contrastive activation addition (Panickssery et al. 2023): h ← h + m v, v the unscaled difference of class means, m = 1,
 * at one block and every position after the prompt. Fit the vectors with the estimator `means`; the block is 13 of 32
 * there, the same part of the depth here. The original has no guidance rows; here all rows are steered.
 */
function caa({ decoder }: Model, { concept, strength = 1 }: PresetOptions): object {
  const layer = Math.min(decoder.layers - 1, Math.round((13 / 32) * decoder.layers));
  return { concept, sites: `blocks.${layer}.hook_resid_post`, operator: "add", unit: "raw", strength, rows: "all" };
}

/**
 * MusicRFM (arXiv 2510.19127): h ← h + η w_l b q_l at every block but the first, η = 0.3 of absolute length, w_l =
 * ŝ_l^(1/κ) with the min-max normalised score ŝ and κ = 0.95, b ~ Bernoulli(0.3) for each layer and position, on all
 * rows and every position, the prompt's included.
 *
 * Different from the code: b is drawn for each position of a prompt (there once for all of it); a schedule follows the
 * clip's time even where b is 0 (there it stood still); features of the last block are before the final norm, as they are
 * steered. No schedule, as in its default; its schedules are ramps: "linear", "exponential" from 1 to 0.998^1500 = 0.0497,
 * "logistic" and "sine", each over 1,500 frames (30 s). Fit the vectors with the estimator `rfm`.
 */
function musicRfm({ decoder }: Model, { concept, strength = 0.3 }: PresetOptions): object {
  const layers = Array.from({ length: decoder.layers }, (_, layer) => layer).slice(1);
  const shared = { concept, operator: "add", unit: "unit", strength, probability: 0.3, rows: "all" };
  return {
    ...shared,
    sites: layers.length === 0 ? "blocks.0.hook_resid_post" : layers.map((layer) => `blocks.${layer}.hook_resid_post`),
    weighting: layers.length < 2 ? "uniform" : { power: 1 / 0.95 },
  };
}

const PRESETS: Readonly<Record<string, Preset>> = {
  "seed-faithful": seedFaithful,
  "seed-clean": seedClean,
  iti,
  smitin,
  caa,
  musicrfm: musicRfm,
};

/** The names of all presets. */
export const PRESET_NAMES: readonly string[] = Object.keys(PRESETS);

/**
 * A preset as a complete spec.
 *
 * @throws {UsageError} for a preset that doesn't exist or options out of range.
 */
export function presetSpec(name: string, model: Model, options: PresetOptions): SteeringSpec {
  const preset = PRESETS[name];
  if (!preset) {
    throw new UsageError({
      asked: `use the preset "${name}"`,
      found: "no preset of that name",
      todo: `Choose one of ${PRESET_NAMES.join(", ")}`,
    });
  }
  const made = preset(model, options);
  const intervention = options.minus === undefined ? made : { ...made, minus: options.minus };
  return parseSpec({
    vectors: { vectors: options.vectors },
    prompt: name === "musicrfm",
    segments: [{ steer: [intervention] }],
  });
}
