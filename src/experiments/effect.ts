import * as tf from "@tensorflow/tfjs-core";

import type { Hook } from "../activations/hooks.js";
import { withIntervention, type RunPlan } from "../activations/intervention.js";
import { chroma, chromaSimilarity } from "../audio/chroma.js";
import type { Audio } from "../audio/audio.js";
import { measureSound, type SoundMeasures } from "../audio/measures.js";
import type { Codes } from "../model/delay.js";
import type { TextInput } from "../model/request.js";
import { withStretches, type TimedText } from "../model/timed-text.js";
import type { MusicGen } from "../musicgen.js";
import type { Steering } from "../steering/steering.js";

/** What steering did to a clip, by measures that no probe had a hand in. */

/** A user's own judge, such as a classifier: named scores of a sound. */
export type Judge = (audio: Audio) => Promise<Readonly<Record<string, number>>> | Readonly<Record<string, number>>;

/** A steered clip beside the one of the same seed without steering. */
export interface ClipComparison {
  readonly model: MusicGen;
  readonly steering: Steering;
  readonly text: TextInput | TimedText | null;
  readonly guidance: number;
  readonly promptFrames: number;
  readonly clean: { readonly audio: Audio; readonly codes: Codes };
  readonly steered: { readonly audio: Audio; readonly codes: Codes };
  readonly judge?: Judge | undefined;
}

/** What was found; null where it can't be measured. */
export interface Effect {
  readonly sound: SoundMeasures;
  readonly cleanSound: SoundMeasures;
  /** Part of the generated codes that differ from the clean clip's. */
  readonly tokenChange: number;
  /**
   * Mean over generated positions and codebooks of KL(steered ‖ clean) of the guided next-token distribution, in nats, both
   * teacher-forced on the steered clip's codes. Null with a gate, which works only while generating.
   */
  readonly divergence: number | null;
  /**
   * Norm of the residual stream after the last block, steered by clean, mean over rows and positions of the same pass.
   * Far from 1 the stream is where the model never was in training. Null where only the steered clip has a text.
   */
  readonly normRatio: number | null;
  /** Cosine of the chroma over time with the clean clip's: how much of the melody was kept. */
  readonly content: number | null;
  readonly judged: Readonly<Record<string, number>>;
}

/** Measures a steered clip against its clean one. Leaves no tensors behind. */
export async function measureEffect(comparison: ClipComparison): Promise<Effect> {
  const { clean, steered, promptFrames, judge, steering } = comparison;
  const gated = steering.spec.segments.some(({ steer }) => steer.some(({ gate }) => gate !== null));
  const drift = gated ? { divergence: null, normRatio: null } : await measureDrift(comparison);
  return {
    sound: measureSound(steered.audio),
    cleanSound: measureSound(clean.audio),
    tokenChange: tokenChange(clean.codes, steered.codes, promptFrames),
    ...drift,
    content: chromaSimilarity(chroma(clean.audio), chroma(steered.audio)),
    judged: judge ? await judge(steered.audio) : {},
  };
}

/** The part of the codes after the prompt that differ. */
export function tokenChange(a: Codes, b: Codes, promptFrames: number): number {
  let changed = 0;
  a.values.forEach((code, index) => {
    if (index % a.frames >= promptFrames && code !== b.values[index]) changed++;
  });
  return changed / (a.codebooks * (a.frames - promptFrames));
}

async function measureDrift({
  model,
  steering,
  text,
  guidance,
  promptFrames,
  steered: { codes },
}: ClipComparison): Promise<{ divergence: number; normRatio: number | null }> {
  const { frames } = codes;
  const { frameRate } = model.config.codec;
  const optionsFor = (text: TextInput | TimedText | null) => {
    const isGuided = text !== null && guidance !== 1;
    const rows = isGuided ? (["cond", "null"] as const) : ([text === null ? "null" : "cond"] as const);
    return { text, codes, rows };
  };
  const stretches = steering.texts?.(frameRate) ?? [];
  const options = optionsFor(withStretches(text ?? undefined, stretches, frames, frameRate) ?? null);
  const run: RunPlan = { frames, promptFrames, frameRate, rows: { batch: 1, roles: options.rows } };
  const clean = await pass(model, optionsFor(text), []);
  const steered = await withIntervention(steering, run, (hooks) => pass(model, options, hooks));
  const positions = clean.positions - 1; // the last one decides nothing
  let divergence = 0;
  for (let codebook = 0; codebook < clean.codebooks; codebook++) {
    for (let position = promptFrames; position < positions; position++) {
      const p = distribution(steered, codebook, position, guidance);
      const q = distribution(clean, codebook, position, guidance);
      p.forEach((value, token) => (divergence += value > 0 ? value * Math.log(value / (q[token] ?? NaN)) : 0));
    }
  }
  const ratios = steered.norms.map((norm, place) => norm / (clean.norms[place] ?? NaN));
  return {
    divergence: divergence / (clean.codebooks * (positions - promptFrames)),
    normRatio: clean.rows === steered.rows ? ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length : null,
  };
}

interface Pass {
  readonly logits: ArrayLike<number>; // [R, K, T, V]
  readonly rows: number;
  readonly codebooks: number;
  readonly positions: number;
  readonly entries: number;
  readonly norms: readonly number[]; // of the last residual stream, [R · T]
}

async function pass(
  model: MusicGen,
  options: Parameters<MusicGen["runWithHooks"]>[0],
  hooks: readonly Hook[],
): Promise<Pass> {
  const norms: number[] = []; // a text over time makes several passes
  const measure: Hook = {
    sites: `blocks.${model.config.decoder.layers - 1}.hook_resid_post`,
    run: async (value) => {
      const norm = tf.tidy(() => tf.sqrt(tf.sum(tf.square(value), -1))); // [R, T]
      norms.push(...(await norm.data()));
      norm.dispose();
      return undefined;
    },
  };
  const { logits } = await model.runWithHooks(options, [...hooks, measure]);
  const [rows = 0, codebooks = 0, positions = 0, entries = 0] = logits.shape;
  const values = await logits.data();
  logits.dispose();
  return { logits: values, rows, codebooks, positions, entries, norms };
}

/** The guided next-token distribution of one codebook at one position: [V]. */
function distribution(
  { logits, rows, codebooks, positions, entries }: Pass,
  codebook: number,
  position: number,
  guidance: number,
): Float64Array {
  const start = (row: number): number => ((row * codebooks + codebook) * positions + position) * entries;
  const guided = Float64Array.from({ length: entries }, (_, token) => {
    const first = logits[start(0) + token] ?? NaN;
    if (rows === 1) return first;
    const second = logits[start(1) + token] ?? NaN;
    return second + (first - second) * guidance;
  });
  const highest = guided.reduce((most, value) => Math.max(most, value), -Infinity);
  const weights = guided.map((value) => Math.exp(value - highest));
  const total = weights.reduce((sum, value) => sum + value, 0);
  return weights.map((value) => value / total);
}
