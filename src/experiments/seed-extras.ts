import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { writeWav } from "../audio/wav.js";
import type { SteeringVectors } from "../probes/vectors.js";
import { parseSpec } from "../steering/spec.js";
import { steer, type Steering } from "../steering/steering.js";
import { faultsOf, NEUTRAL_TEXTS } from "./concepts.js";
import type { JudgeTask } from "./judge.js";
import { randomized } from "./randomized.js";
import type { TaskProbes } from "./seed-directions.js";
import type { ClassSources } from "./seed-sources.js";
import { HEADS, pairName, sitesOf, transferSpec, type Pair, type SteeringRuns } from "./seed-steering.js";
import type { Choice } from "./seed.js";

/** Genre fusion, and what steering costs in time. */

/** Clips that should be two genres at once. */
export interface FusionResult {
  readonly pair: Pair;
  readonly condition: "neutral text" | "text" | "fused" | "random directions";
  /** Clips whose two likeliest genres are the two. By chance 1 in 6, of four genres. */
  readonly both: number;
  readonly clips: number;
  /** Mean probability of the less likely one of the two. */
  readonly lesser: number;
  readonly faulty: number; // clips
  readonly file: string;
}

/** Without an audio prompt: every two genres, half of the chosen strength each. */
export async function fuseGenres(
  { model, stages, settings, judge }: SteeringRuns,
  { vectors }: TaskProbes,
  classes: readonly ClassSources[],
  choice: Choice, // of an added direction: two of those can be added up
): Promise<readonly FusionResult[]> {
  const names = classes.map(({ name }) => name);
  const all = names.flatMap((from, index) => names.slice(index + 1).map((to) => ({ from, to })));
  const random = randomized(vectors.means);
  const results: FusionResult[] = [];
  for (const pair of all.slice(0, settings.pairs)) {
    const sites = sitesOf(choice);
    const strength = choice.strength / 2 / (typeof sites === "string" ? 1 : sites.length);
    const step = { sites, operator: "add", unit: "raw", strength, rows: choice.rows };
    const steps = [pair.from, pair.to].map((concept) => ({ ...step, concept }));
    const spec = parseSpec({ vectors: { vectors: "vectors.safetensors" }, segments: [{ steer: steps }] });
    const neutral = NEUTRAL_TEXTS.genre;
    const conditions: readonly (readonly [FusionResult["condition"], string, SteeringVectors | null])[] = [
      ["neutral text", neutral, null],
      ["text", `${pair.from} and ${pair.to} music`, null],
      ["fused", neutral, vectors.means],
      ["random directions", neutral, random],
    ];
    for (const [condition, text, used] of conditions) {
      const stage = `fusion/${pairName(pair)}/${condition.replace(/ /g, "-")}`;
      results.push(
        await stages.once(stage, async (): Promise<FusionResult> => {
          const { clips } = await model.generate({
            text,
            count: settings.clips,
            seconds: settings.seconds,
            seed: settings.seed,
            ...(used ? { steering: steer(model, spec, { vectors: used }) } : {}),
          });
          let [both, lesser, faulty] = [0, 0, 0];
          for (const { audio, codes } of clips) {
            const { genre } = judge(audio).probabilities;
            const ranked = Object.entries(genre).toSorted((a, b) => b[1] - a[1]);
            const top = ranked.slice(0, 2).map(([name]) => name);
            if (top.includes(pair.from) && top.includes(pair.to)) both++;
            lesser += Math.min(genre[pair.from] ?? 0, genre[pair.to] ?? 0) / clips.length;
            if (faultsOf(audio, codes, model.config.codec.frameRate).length > 0) faulty++;
          }
          const file = join("clips", `${stage}.wav`);
          await mkdir(join(stages.folder, "clips", "fusion", pairName(pair)), { recursive: true });
          if (clips[0]) await writeWav(join(stages.folder, file), clips[0].audio);
          return { pair, condition, both, clips: clips.length, lesser, faulty, file };
        }),
      );
    }
  }
  return results;
}

/** Time of a generation under steering. */
export interface Overhead {
  readonly steering: "none" | "one layer" | "all layers" | "all heads";
  readonly millisecondsPerStep: number; // median over rounds
  readonly rounds: readonly number[];
}

const ROUNDS = 5;

/** One clip, guided, in turns without and with steering, so that other work on the machine hits all of them alike. */
export async function measureOverhead(
  { model, stages, settings }: SteeringRuns,
  task: JudgeTask,
  { vectors }: TaskProbes,
  pair: Pair | undefined,
  { move, strength, rows, layers }: Choice,
): Promise<readonly Overhead[]> {
  if (!pair) return [];
  const depth = Array.from({ length: model.config.decoder.layers }, (_, layer) => layer);
  const steering = (sites: string | readonly string[]): Steering =>
    steer(model, transferSpec(pair.to, { move, sites, strength, rows }, 0), { vectors: vectors.means });
  const kinds: readonly (readonly [Overhead["steering"], Steering | undefined])[] = [
    ["none", undefined],
    ["one layer", steering(sitesOf({ at: "residual", layers: layers.slice(0, 1) }))],
    ["all layers", steering(sitesOf({ at: "residual", layers: depth }))],
    ["all heads", steering(HEADS)],
  ];
  const { overhead } = await stages.once(`overhead-${task}`, async () => {
    const times = kinds.map(() => [] as number[]);
    for (let round = 0; round <= ROUNDS; round++) {
      for (const [index, [, used]] of kinds.entries()) {
        const time = await timePerStep({ model, settings }, task, used);
        if (round > 0) times[index]?.push(time); // the first round warms up
      }
    }
    return {
      overhead: kinds.map(([name], index): Overhead => {
        const rounds = times[index] ?? [];
        const sorted = rounds.toSorted((a, b) => a - b);
        return { steering: name, millisecondsPerStep: sorted[Math.floor(sorted.length / 2)] ?? NaN, rounds };
      }),
    };
  });
  return overhead;
}

async function timePerStep(
  { model, settings }: Pick<SteeringRuns, "model" | "settings">,
  task: JudgeTask,
  steering: Steering | undefined,
): Promise<number> {
  let first: { readonly done: number; readonly at: number } | undefined;
  let last: typeof first;
  await model.generate({
    text: NEUTRAL_TEXTS[task],
    seconds: settings.seconds,
    seed: settings.seed,
    ...(steering ? { steering } : {}),
    onProgress: ({ stage, done }) => {
      if (stage !== "tokens") return;
      last = { done, at: performance.now() };
      first ??= last;
    },
  });
  return first && last ? (last.at - first.at) / Math.max(1, last.done - first.done) : NaN;
}
