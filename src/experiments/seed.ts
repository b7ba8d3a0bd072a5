import { UsageError } from "../errors.js";
import type { MusicGen } from "../musicgen.js";
import { LOGISTIC_PENALTIES } from "../probes/logistic.js";
import type { RowChoice } from "../steering/spec.js";
import { CONCEPTS, type ClipJudge } from "./concepts.js";
import type { JudgeTask } from "./judge.js";
import type { LabelledClip } from "./material.js";
import { COMPARED, fromOtherLayers, probeTask, type Compared, type TaskProbes } from "./seed-directions.js";
import { fuseGenres, measureOverhead, type FusionResult, type Overhead } from "./seed-extras.js";
import { steerEveryPair } from "./seed-matrix.js";
import { meanNorms, type PushNorms } from "./push.js";
import { collectSources, fileName, type ClassSources } from "./seed-sources.js";
import {
  pairName,
  placeName,
  secondName,
  preparePrompts,
  runCondition,
  steeredAt,
  type Condition,
  type Outcome,
  type Pair,
  type Place,
  type Prompts,
  type Steered,
  type SteeringRuns,
} from "./seed-steering.js";
import { Stages } from "./stages.js";

/**
 * The experiment of arXiv 2506.10225 with the controls that it lacks: where a model knows instruments and genres, and whether
 * directions found there turn the continuation of a sound into another instrument or genre, by an independent judge.
 *
 * Layer, strength and rows are chosen on clips that directions were fitted on; all that is reported is of other clips.
 */

/** What decides the results. */
export interface SeedSettings {
  readonly pairs: number; // of each task
  readonly clips: number; // continuations of each pair and condition, each of another clip
  readonly fitClips: number; // of each class, to fit directions on
  readonly choiceClips: number; // of each pair, to choose layer and strength on
  readonly matrixClips: number; // of each class, steered to every other class; 0: only the first pairs are steered
  readonly seconds: number; // of a continuation
  readonly promptSeconds: number;
  readonly sourceSeconds: number; // of the clips that directions are fitted on
  readonly strengths: readonly number[];
  readonly guidance: number; // of continuations; 1 turns it off
  readonly temperature: number; // of continuations
  readonly steerSeconds: number | null; // that are steered, from the end of the prompt on; null: to the end
  readonly penalties: readonly number[]; // that logistic regression chooses from
  readonly seed: number;
}

/** Settings, of which any may be left out. */
export type SomeSettings = { readonly [Key in keyof SeedSettings]?: SeedSettings[Key] | undefined };

/** How to run it. */
export interface SeedOptions extends SomeSettings {
  readonly judge: ClipJudge;
  /** Labelled sound to fit on and to continue; without it the model makes its own. */
  readonly material?: readonly LabelledClip[] | undefined;
  /** Fewer of everything: a look in minutes, with wide intervals. */
  readonly quick?: boolean | undefined;
  readonly onStage?: ((name: string, made: number) => void) | undefined;
}

/** Place, strength and rows. */
export interface Choice extends Place {
  readonly strength: number;
  readonly rows: RowChoice;
}

/** A candidate and how it did. */
export interface Candidate extends Choice {
  readonly success: number; // share of continuations heard as wanted
  readonly kept: number; // share of those heard as wanted with the melody kept
  readonly content: number; // mean chroma similarity to the one left alone
}

/** All continuations of a pair under a condition. */
export interface PairOutcomes {
  readonly pair: Pair;
  readonly condition: string;
  readonly outcomes: readonly Outcome[];
}

/** What was found for a task. */
export interface TaskResult {
  readonly task: JudgeTask;
  readonly classes: readonly (Pick<ClassSources, "name" | "tried" | "confirmed"> & {
    readonly fit: number;
    readonly test: number;
  })[];
  readonly probes: TaskProbes["summaries"] | null;
  readonly candidates: readonly Candidate[];
  readonly choice: Choice | null;
  readonly second: Choice | null; // the best one at the other place
  readonly added: Choice | null; // the best one that adds a direction
  readonly pairs: readonly PairOutcomes[];
  readonly matrix: readonly PairOutcomes[]; // of every two classes; empty where they weren't asked for
}

/** What was found. */
export interface SeedResult {
  readonly model: string;
  readonly material: "own clips" | "labelled sound";
  readonly settings: SeedSettings;
  readonly tasks: readonly TaskResult[];
  readonly fusion: readonly FusionResult[];
  readonly overhead: readonly Overhead[];
  readonly notes: readonly string[];
}

const DEFAULTS: SeedSettings = {
  pairs: 6,
  clips: 16,
  fitClips: 40,
  choiceClips: 6,
  matrixClips: 0,
  seconds: 3.5,
  promptSeconds: 4, // two bars of the demo checkpoint's loops
  sourceSeconds: 8,
  strengths: [0.3, 0.6, 1, 1.5],
  guidance: 3,
  temperature: 1,
  steerSeconds: null,
  penalties: LOGISTIC_PENALTIES,
  seed: 0,
};
const QUICK = {
  pairs: 2,
  clips: 8,
  fitClips: 16,
  choiceClips: 3,
  seconds: 3,
  strengths: [0.5, 1],
  penalties: [0.1],
};
const FIRST_PAIRS: Readonly<Record<JudgeTask, readonly Pair[]>> = {
  instrument: [
    { from: "trumpet", to: "violin" },
    { from: "trumpet", to: "xylophone" },
  ],
  genre: [
    { from: "classical", to: "electronic" },
    { from: "electronic", to: "jazz" },
    { from: "jazz", to: "rock" },
    { from: "rock", to: "classical" },
  ],
};
/** Below it a melody counts as lost. */
export const MELODY_KEPT = 0.7;
const LEAST_FIT = 5; // pieces of a class: folds to test on leave four, of which folds to choose a penalty on leave three
const OTHER_SEED = 7919;

/** All settings, with defaults filled in. @throws {UsageError} for numbers out of range. */
export function seedSettings(options: SomeSettings & { readonly quick?: boolean | undefined }): SeedSettings {
  const base = { ...DEFAULTS, ...(options.quick === true ? QUICK : {}) };
  const settings = {
    pairs: options.pairs ?? base.pairs,
    clips: options.clips ?? base.clips,
    fitClips: options.fitClips ?? base.fitClips,
    choiceClips: options.choiceClips ?? base.choiceClips,
    matrixClips: options.matrixClips ?? base.matrixClips,
    seconds: options.seconds ?? base.seconds,
    promptSeconds: options.promptSeconds ?? base.promptSeconds,
    sourceSeconds: options.sourceSeconds ?? Math.max(base.sourceSeconds, options.promptSeconds ?? base.promptSeconds),
    strengths: options.strengths ?? base.strengths,
    guidance: options.guidance ?? base.guidance,
    temperature: options.temperature ?? base.temperature,
    steerSeconds: options.steerSeconds ?? base.steerSeconds,
    penalties: options.penalties ?? base.penalties,
    seed: options.seed ?? base.seed,
  };
  for (const key of ["pairs", "clips", "fitClips", "choiceClips", "matrixClips"] as const) {
    const least = key === "matrixClips" ? 0 : 1;
    if (Number.isInteger(settings[key]) && settings[key] >= least && settings[key] <= 64) continue;
    throw new UsageError({
      asked: `${key} ${settings[key]}`,
      found: "out of range",
      todo: `Give a whole number of ${least} to 64`,
    });
  }
  const { steerSeconds, seconds } = settings;
  if (steerSeconds !== null && !(steerSeconds > 0 && steerSeconds <= seconds)) {
    throw new UsageError({
      asked: `steered for ${steerSeconds} s`,
      found: `out of range, as a continuation takes ${seconds} s`,
      todo: "Give more than 0 and at most that, or leave it out to steer to the end",
    });
  }
  return settings;
}

/**
 * Runs the experiment in a folder, or goes on with it: each stage is done once. Writes stages, prompts, clips, activations,
 * probes and vectors; {@link writeSeedReport} writes results, table and report.
 *
 * @throws {UsageError} if the folder holds an experiment of other settings.
 */
export async function runSeedExperiment(
  model: MusicGen,
  folder: string,
  { judge, material, onStage, ...options }: SeedOptions,
): Promise<{ readonly result: SeedResult; readonly stages: Stages }> {
  const settings = seedSettings(options);
  const source = material ? ("labelled sound" as const) : ("own clips" as const);
  const identity = {
    model: model.fingerprint,
    material: material ? material.map(({ id }) => id) : source,
    ...settings,
  };
  let made = 0;
  const stages = await Stages.open(folder, identity, (name) => onStage?.(name, made++));
  const runs = { model, stages, settings, judge };
  const notes: string[] = [];
  const tasks: TaskResult[] = [];
  let fusion: readonly FusionResult[] = [];
  let overhead: readonly Overhead[] = [];
  for (const task of ["instrument", "genre"] as const) {
    const classes = await collectSources(model, stages, task, settings, judge, material);
    const usable = classes.filter(({ fit }) => new Set(fit.map(({ piece }) => piece)).size >= LEAST_FIT);
    const lost = classes.filter((one) => !usable.includes(one));
    if (lost.length > 0) {
      const shown = lost.map(({ name, confirmed, tried }) => `${name} (${confirmed} of ${tried})`).join(", ");
      notes.push(`${task}: too few clips that the judge confirms, so these classes are left out: ${shown}.`);
    }
    const summary = {
      task,
      classes: classes.map(({ fit, test, ...rest }) => ({ ...rest, fit: fit.length, test: test.length })),
    };
    if (usable.length < 2) {
      notes.push(`${task}: nothing to tell apart, so there are no probes and no steering.`);
      const none = { probes: null, candidates: [], choice: null, second: null, added: null, pairs: [], matrix: [] };
      tasks.push({ ...summary, ...none });
      continue;
    }
    const probes = await probeTask(model, stages, task, usable, settings);
    const pairs = pairsOf(task, usable, settings.pairs);
    if (pairs.length === 0) notes.push(`${task}: no class has clips to continue from, so there is no steering.`);
    const { candidates, ...chosen } = await choose(runs, task, probes, usable, pairs);
    const { choice, added } = chosen;
    const found = await evaluate(runs, task, probes, usable, pairs, chosen);
    const norms = pushesOf(found, `steered ${choice.strength}`);
    const matrix = await steerEveryPair(runs, task, probes.vectors[MAIN], usable, choice, norms);
    tasks.push({ ...summary, probes: probes.summaries, candidates, ...chosen, pairs: found, matrix });
    if (task === "genre") fusion = await fuseGenres(runs, probes, usable, added);
    overhead = await measureOverhead(runs, task, probes, pairs[0], choice);
  }
  return {
    result: { model: model.fingerprint, material: source, settings, tasks, fusion, overhead, notes },
    stages,
  };
}

/** The pairs of the paper first, then all others of classes that have clips. */
function pairsOf(task: JudgeTask, usable: readonly ClassSources[], count: number): readonly Pair[] {
  const has = (name: string): boolean => usable.some((one) => one.name === name);
  const continued = usable.filter(({ test }) => test.length > 0).map(({ name }) => name);
  const names = CONCEPTS[task].filter(has);
  const all = continued.flatMap((from) => names.filter((to) => to !== from).map((to) => ({ from, to })));
  // Spread over sources, so that a few pairs are not all of the first class.
  const spread = all.toSorted((a, b) => rank(a) - rank(b));
  const first = FIRST_PAIRS[task].filter(({ from, to }) => continued.includes(from) && has(to));
  const isFirst = (pair: Pair): boolean => first.some(({ from, to }) => from === pair.from && to === pair.to);
  return [...first, ...spread.filter((pair) => !isFirst(pair))].slice(0, count);

  function rank({ from, to }: Pair): number {
    return (names.indexOf(to) - names.indexOf(from) + names.length) % names.length;
  }
}

/** The estimator whose directions are evaluated first: what the literature finds to steer best. */
const MAIN: Compared = "means";

/** What is evaluated: the best of all candidates, and the best of some. */
interface Chosen {
  readonly choice: Choice;
  readonly second: Choice;
  readonly added: Choice;
}

/** Tries places, moves and strengths on clips that directions were fitted on. */
async function choose(
  runs: SteeringRuns,
  task: JudgeTask,
  { vectors }: TaskProbes,
  classes: readonly ClassSources[],
  pairs: readonly Pair[],
): Promise<Chosen & { readonly candidates: readonly Candidate[] }> {
  const { model, stages, settings } = runs;
  const depth = model.config.decoder.layers;
  const all = Array.from({ length: depth }, (_, layer) => layer);
  const places = (["add", "span"] as const).flatMap((move): readonly Place[] => [
    ...all.map((layer) => ({ move, at: "residual" as const, layers: [layer] })),
    { move, at: "residual", layers: all },
    { move, at: "heads", layers: all },
  ]);
  const prepared = new Map<Pair, Prompts>();
  const tryOut = async (choice: Choice): Promise<Omit<Candidate, keyof Choice>> => {
    const name = `${placeName(choice)}-${choice.strength}`;
    const steering = steeredAt(choice, vectors[MAIN], settings);
    const outcomes: Outcome[] = [];
    for (const pair of pairs) {
      const stage = `choice/${task}/${name}/${pairName(pair)}`;
      const { found } = await stages.once(stage, async () => {
        const fit = classes.find(({ name: own }) => own === pair.from)?.fit.slice(0, settings.choiceClips) ?? [];
        const prompts = prepared.get(pair) ?? (await preparePrompts(runs, task, pair, fit));
        prepared.set(pair, prompts);
        const quiet = { ...runs, settings: { ...settings, clips: 0 } }; // no divergence here
        return { found: await runCondition(quiet, prompts, { name, asksFor: "nothing", steering }, `choice/${task}`) };
      });
      outcomes.push(...found.map((outcome) => ({ ...outcome, target: outcome.heard === pair.to ? 1 : 0 })));
    }
    const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
    const turned = outcomes.map((one) => ({ ...one, target: one.faults.length === 0 ? one.target : 0 }));
    return {
      success: mean(turned.map(({ target }) => target)),
      kept: mean(turned.map(({ target, content }) => ((content ?? 0) >= MELODY_KEPT ? target : 0))),
      content: mean(outcomes.map(({ content }) => content ?? 0)),
    };
  };
  const candidates: Candidate[] = [];
  for (const place of places) {
    for (const strength of settings.strengths) {
      const choice = { ...place, strength, rows: "all" } as const;
      candidates.push({ ...choice, ...(await tryOut(choice)) });
    }
  }
  const choice = bestOf(candidates);
  return {
    candidates,
    choice,
    second: bestOf(candidates.filter(({ at }) => at !== choice.at)),
    added: bestOf(candidates.filter(({ move }) => move === "add")),
  };
}

/** The one that turns most clips with their melody kept; of several, that which is best in both together. */
function bestOf(candidates: readonly Candidate[]): Choice {
  const both = ({ success, content }: Candidate): number => success * content;
  const isBetter = (a: Candidate, b: Candidate): boolean => (a.kept === b.kept ? both(a) > both(b) : a.kept > b.kept);
  const { move, at, layers, strength, rows } = candidates.reduce((best, one) => (isBetter(one, best) ? one : best));
  return { move, at, layers, strength, rows };
}

/** Every condition on clips that nothing was fitted or chosen on. */
async function evaluate(
  runs: SteeringRuns,
  task: JudgeTask,
  { vectors }: TaskProbes,
  classes: readonly ClassSources[],
  pairs: readonly Pair[],
  { choice, second, added }: Chosen,
): Promise<readonly PairOutcomes[]> {
  const { stages, settings, model } = runs;
  const main = steeredAt(choice, vectors[MAIN], settings);
  const other = steeredAt(second, vectors[MAIN], settings);
  const otherName = secondName(second);
  const plain = steeredAt(added, vectors[MAIN], settings);
  const steered = (name: string, steering: Steered): Condition => ({ name, asksFor: "nothing", steering });
  const random = (name: string, steering: Steered, like?: string): Condition => ({
    ...steered(name, { ...steering, random: "direction" }),
    like,
  });
  const conditions: readonly Condition[] = [
    { name: "left alone", asksFor: "nothing", steering: null },
    { name: "left alone, other seed", asksFor: "nothing", steering: null, otherSeed: OTHER_SEED },
    { name: "text", asksFor: "class", steering: null },
    { name: "text of the change", asksFor: "change", steering: null },
    ...settings.strengths.flatMap((strength) => [
      steered(`steered ${strength}`, { ...main, strength }),
      random(`random direction ${strength}`, { ...main, strength }, `steered ${strength}`),
    ]),
    ...(main.move === "span" ? [steered(`random span ${choice.strength}`, { ...main, random: "span" })] : []),
    { name: "text and steered", asksFor: "class", steering: main },
    { name: "text of the change and steered", asksFor: "change", steering: main },
    steered("wrong layer", { ...main, vectors: fromOtherLayers(vectors[MAIN], model.config.decoder.layers) }),
    steered("conditional row only", { ...main, rows: "cond" }),
    ...(main.seconds === undefined ? [] : [steered("steered to the end", { ...main, seconds: undefined })]),
    steered(otherName, other),
    random(`${otherName}, random direction`, other, otherName),
    // Estimators are compared where directions are added: a span is made of means.
    ...COMPARED.map((name) => steered(`${name} direction added`, { ...plain, vectors: vectors[name] })),
    random("random direction added", plain),
  ];
  const results: PairOutcomes[] = [];
  for (const pair of pairs) {
    const test = classes.find(({ name }) => name === pair.from)?.test ?? [];
    let prompts: Prompts | undefined;
    for (const condition of conditions) {
      const { outcomes } = await stages.once(
        `steering/${task}/${pairName(pair)}/${fileName(condition.name)}`,
        async () => {
          prompts ??= await preparePrompts(runs, task, pair, test);
          const norms = pushesOf(
            results.filter((one) => one.pair === pair),
            condition.like,
          );
          const given = { ...condition, steering: condition.steering && { ...condition.steering, norms } };
          return { outcomes: await runCondition(runs, prompts, given, `clips/${task}/${pairName(pair)}`) };
        },
      );
      results.push({ pair, condition: condition.name, outcomes });
    }
  }
  return results;
}

/** How far a condition moved activations, over the pairs that are given. */
function pushesOf(found: readonly PairOutcomes[], name: string | undefined): PushNorms {
  const own = found.filter(({ condition }) => condition === name);
  return meanNorms(own.flatMap(({ outcomes }) => outcomes.flatMap(({ push }) => (push ? [push] : []))));
}
