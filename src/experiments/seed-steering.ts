import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import type { Audio } from "../audio/audio.js";
import { chroma, chromaSimilarity, type Chroma } from "../audio/chroma.js";
import { readWav, writeWav } from "../audio/wav.js";
import type { Generation, MusicGen } from "../musicgen.js";
import type { SteeringVectors } from "../probes/vectors.js";
import { parseSpec, type RowChoice, type SteeringSpec } from "../steering/spec.js";
import { steer, type Steering } from "../steering/steering.js";
import { faultsOf, NEUTRAL_TEXTS, textFor, textForChange, type ClipJudge, type Fault } from "./concepts.js";
import { measureEffect } from "./effect.js";
import type { JudgeTask } from "./judge.js";
import { pushNorms, type PushNorms } from "./push.js";
import { randomized, randomOfLengths } from "./randomized.js";
import { towards } from "./seed-directions.js";
import { codesOf, fileName, firstSeconds, promptPath, type SourceClip } from "./seed-sources.js";
import type { SeedSettings } from "./seed.js";
import type { Stages } from "./stages.js";

/** Continuations of audio prompts under one condition each: steered in some way, asked by text, or left alone. */

/** From one class to another. */
export interface Pair {
  readonly from: string;
  readonly to: string;
}

/** How a continuation is influenced. */
export interface Condition {
  readonly name: string;
  /** What the text asks for: nothing, the class that is wanted, or the change from one to the other. */
  readonly asksFor: "nothing" | "class" | "change";
  readonly steering: Steered | null;
  /** Added to the seed: other draws than all other conditions have. */
  readonly otherSeed?: number | undefined;
  /** A condition of the same pair that came before: a random direction is as long as its pushes. */
  readonly like?: string | undefined;
}

/**
 * How activations are moved. "add" adds a direction, as the paper does, and leaves open where it ends; "span" takes what of an activation
 * lies in the span of the class means to a goal, and leaves all else alone.
 */
export type Move = "add" | "span";

/** How it is steered. */
export interface Steered {
  readonly move: Move;
  readonly vectors: SteeringVectors;
  readonly sites: string | readonly string[];
  /** How far, from one class's mean to the other's: 1 is to the other's. */
  readonly strength: number;
  readonly rows: RowChoice;
  /** A random direction instead, of the same norm; or a random span, held at a goal as far off. */
  readonly random?: "direction" | "span" | undefined;
  /** How far "span" moved activations, and a random direction in its place has to. */
  readonly norms?: PushNorms | undefined;
  readonly seconds?: number | undefined; // from the end of the prompt on; absent: to the end of the clip
}

/** What became of one continuation. The prompt is left out of all measures. */
export interface Outcome {
  readonly source: string; // id of the clip that was continued
  readonly heard: string; // by the judge
  readonly target: number; // probability that the judge gives the class that was wanted
  readonly content: number | null; // chroma similarity to the continuation of the same seed that was left alone
  readonly faults: readonly Fault[];
  readonly divergence: number | null; // KL, nats a token; measured for the first clips only
  readonly normRatio: number | null; // of the last residual stream, as divergence
  readonly push: PushNorms | null; // how far "span" moved activations; as divergence
  readonly file: string | null; // the first clips are kept
}

/** Every head, before the output projection. */
export const HEADS = "blocks.*.attn.hook_z";

/** What is steered, and how: residual streams behind some blocks, or every head. */
export interface Place {
  readonly move: Move;
  readonly at: "residual" | "heads";
  readonly layers: readonly number[]; // of heads: all
}

export function sitesOf({ at, layers }: Omit<Place, "move">): string | readonly string[] {
  return at === "heads" ? HEADS : layers.map((layer) => `blocks.${layer}.hook_resid_post`);
}

/** Steering at a chosen place and strength, for as long as the settings say. */
export function steeredAt(
  choice: Place & Pick<Steered, "strength" | "rows">,
  vectors: SteeringVectors,
  { steerSeconds }: Pick<SeedSettings, "steerSeconds">,
): Steered {
  const { move, strength, rows } = choice;
  return { move, vectors, sites: sitesOf(choice), strength, rows, seconds: steerSeconds ?? undefined };
}

/** "layer-3", "layer-all", "heads"; "layer-3-span" */
export function placeName({ move, at, layers }: Place): string {
  const place = at === "heads" ? "heads" : `layer-${layers.length === 1 ? String(layers[0]) : "all"}`;
  return move === "span" ? `${place}-span` : place;
}

/** What the condition at the place that was not chosen is called. */
export function secondName({ at }: Place): string {
  return at === "heads" ? "heads" : "residual stream";
}

/** "acoustic guitar" → "violin": "acoustic-guitar-to-violin" */
export function pairName({ from, to }: Pair): string {
  return `${fileName(from)}-to-${fileName(to)}`;
}

/** What runs share. */
export interface SteeringRuns {
  readonly model: MusicGen;
  readonly stages: Stages;
  readonly settings: SeedSettings;
  readonly judge: ClipJudge;
}

/** Sources that are continued, and what each continuation is when it is left alone. */
export interface Prompts {
  readonly task: JudgeTask;
  readonly pair: Pair;
  readonly sources: readonly SourceClip[];
  readonly audio: readonly Audio[];
  readonly clean: Generation;
  readonly melodies: readonly Chroma[]; // of its continuations
}

const MEASURED = 2; // clips of each condition whose divergence is measured: it takes two passes each
const KEPT = 1; // clips of each condition that are kept to be listened to

/** Reads the prompts of a pair and continues them without any influence. */
export async function preparePrompts(
  { model, stages, settings }: SteeringRuns,
  task: JudgeTask,
  pair: Pair,
  sources: readonly SourceClip[],
): Promise<Prompts> {
  const audio: Audio[] = [];
  for (const source of sources) {
    const path = promptPath(stages.folder, task, source.id);
    audio.push(
      existsSync(path) // only clips to be tested on have one
        ? await readWav(path)
        : firstSeconds(await model.decodeCodes(codesOf(source)), settings.promptSeconds),
    );
  }
  const clean = await model.generate(optionsOf(settings, NEUTRAL_TEXTS[task], audio, settings.seed));
  const melodies = clean.clips.map((clip) => chroma(continuation(clip.audio, settings)));
  return { task, pair, sources, audio, clean, melodies };
}

/**
 * Continues all prompts under a condition, in one batch. Text and draws are those of the continuation that was left alone,
 * except for what the condition changes.
 */
export async function runCondition(
  runs: SteeringRuns,
  { task, pair, sources, audio, clean, melodies }: Prompts,
  condition: Condition,
  folder: string, // for clips, below the experiment's
): Promise<readonly Outcome[]> {
  const { model, settings, judge, stages } = runs;
  const text = textOf(task, pair, condition);
  const how = condition.steering;
  const steering = how && steeringOf(model, settings, pair, how);
  const isClean = !steering && condition.asksFor === "nothing" && condition.otherSeed === undefined;
  const seed = settings.seed + (condition.otherSeed ?? 0);
  const made = isClean
    ? clean
    : await model.generate({ ...optionsOf(settings, text, audio, seed), ...(steering ? { steering } : {}) });
  const outcomes: Outcome[] = [];
  for (const { item, audio: whole, codes } of made.clips) {
    const [before, melody] = [clean.clips[item], melodies[item]];
    if (!before || !melody) continue;
    const sound = continuation(whole, settings);
    const judged = judge(sound);
    let drift: Pick<Outcome, "divergence" | "normRatio"> = { divergence: null, normRatio: null };
    let push: PushNorms | null = null;
    if (steering && item < Math.min(MEASURED, settings.clips)) {
      const { guidance, promptFrames } = made.settings;
      const steered = { audio: whole, codes };
      drift = await measureEffect({ model, steering, text, guidance, promptFrames, clean: before, steered });
      if (how.move === "span" && how.random === undefined) {
        push = await pushNorms({ model, steering, sites: how.sites, text, promptFrames, codes });
      }
    }
    let file: string | null = null;
    if (item < KEPT) {
      file = join(folder, `${fileName(condition.name)}.wav`);
      await mkdir(join(stages.folder, folder), { recursive: true });
      await writeWav(join(stages.folder, file), whole, { metadata: { ...made.settings, item } });
    }
    outcomes.push({
      source: sources[item]?.id ?? "",
      heard: judged[task],
      target: judged.probabilities[task][pair.to] ?? 0,
      content: chromaSimilarity(melody, chroma(sound)),
      faults: faultsOf(sound, codes, model.config.codec.frameRate),
      divergence: drift.divergence,
      normRatio: drift.normRatio,
      push,
      file,
    });
  }
  return outcomes;
}

function textOf(task: JudgeTask, { from, to }: Pair, { asksFor }: Condition): string {
  if (asksFor === "class") return textFor(task, to, 0);
  return asksFor === "change" ? textForChange(task, from, to) : NEUTRAL_TEXTS[task];
}

/** From one class to the other, after the prompt. A random direction is drawn for the pair, as long as the one it stands for. */
function steeringOf(model: MusicGen, settings: SeedSettings, { from, to }: Pair, how: Steered): Steering {
  const { move, vectors, random, norms } = how;
  if (random === "direction" && move === "span") {
    const sites = Object.keys(norms ?? {});
    if (!norms || sites.length === 0) throw new TypeError("it isn't known how far the span moves activations");
    const spec = transferSpec(to, { ...how, move: "add", sites, strength: sites.length }, settings.promptSeconds);
    return steer(model, spec, { vectors: randomOfLengths(vectors, to, norms, drawOf(from, to)) });
  }
  const spec = transferSpec(to, { ...how, from }, settings.promptSeconds);
  const own = move === "span" ? vectors : towards(vectors, from, to);
  const used = random ? randomized(own, { seed: drawOf(from, to), from: move === "span" ? from : null }) : own;
  return steer(model, spec, { vectors: used });
}

/** Each pair has a draw of its own, so that no result hangs on a single one; it is the same at every strength and in every run. */
function drawOf(from: string, to: string): number {
  return Array.from(`${from} to ${to}`).reduce((sum, one) => (Math.imul(sum, 31) + (one.codePointAt(0) ?? 0)) | 0, 1);
}

/**
 * The spec of a transfer. "add": h ← h + s v, v from the mean of one class to that of the other; several residual streams share s, as each
 * step is passed on to the next one. "span": what of h lies in the span of the class means is taken to m + s (µ − m), µ the mean of the
 * class and m that of `from`, or of all classes; at each site wholly. It acts after the prompt, for `seconds` or to the end.
 *
 * @param file of the vectors, for a spec that is kept
 */
export function transferSpec(
  to: string,
  how: Pick<Steered, "move" | "sites" | "strength" | "rows" | "seconds"> & { readonly from?: string },
  promptSeconds: number,
  file = "vectors.safetensors",
): SteeringSpec {
  const { move, from, sites, strength, rows, seconds } = how;
  const until = seconds === undefined ? {} : { until: promptSeconds + seconds };
  const each = strength / (typeof sites === "string" ? 1 : sites.length);
  const step =
    move === "span"
      ? { concept: to, minus: from, sites, operator: "span", beyond: strength, strength: 1, rows }
      : { concept: to, sites, operator: "add", unit: "raw", strength: each, rows };
  return parseSpec({ vectors: { vectors: file }, segments: [{ from: promptSeconds, ...until, steer: [step] }] });
}

function optionsOf(settings: SeedSettings, text: string, promptAudio: readonly Audio[], seed: number) {
  const { promptSeconds, seconds, guidance, temperature } = settings;
  const length = { count: promptAudio.length, seconds: promptSeconds + seconds };
  return { text, promptAudio, ...length, seed, guidance, temperature };
}

/** What comes after the prompt. */
function continuation({ sampleRate, channels }: Audio, { promptSeconds }: SeedSettings): Audio {
  return { sampleRate, channels: channels.map((channel) => channel.slice(Math.round(promptSeconds * sampleRate))) };
}
