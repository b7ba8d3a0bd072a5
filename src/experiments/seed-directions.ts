import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { captureActivations } from "../activations/capture.js";
import { openCapture } from "../activations/store.js";
import type { MusicGen } from "../musicgen.js";
import { CLIP_COLUMN, fromCapture } from "../probes/capture.js";
import { averageRows, type ActivationData, type Label } from "../probes/data.js";
import { summarize, type ProbeSummary } from "../probes/summary.js";
import { sweepProbes } from "../probes/sweep.js";
import { readVectors, writeVectors, type SteeringVectors } from "../probes/vectors.js";
import type { JudgeTask } from "./judge.js";
import { probeReport } from "./report.js";
import { codesOf, WINDOW_SECONDS, type ClassSources } from "./seed-sources.js";
import type { SeedSettings } from "./seed.js";
import type { Stages } from "./stages.js";

/** What the model knows of a task, layer by layer and head by head, and the directions that follow from it. */

/** Squared error against cross-entropy against the difference of class means. */
export const COMPARED = ["ridge", "logistic", "means"] as const;

export type Compared = (typeof COMPARED)[number];

/** Probes of a task by each estimator. */
export interface TaskProbes {
  readonly summaries: Readonly<Record<Compared, ProbeSummary>>;
  readonly vectors: Readonly<Record<Compared, SteeringVectors>>;
}

const SITES = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z"];
const ROW_SECONDS = 2;

/**
 * Runs the clips teacher-forced without any text and fits probes to what residual streams and heads held while there was sound: a
 * mean of each 2 s over the windows in which there was, as instruments that fall silent between notes would otherwise be known by
 * silence. Pieces are never on both sides of a split. Everything is kept in the folder.
 */
export async function probeTask(
  model: MusicGen,
  stages: Stages,
  task: JudgeTask,
  classes: readonly ClassSources[],
  { seed, penalties }: SeedSettings,
): Promise<TaskProbes> {
  const capture = join(stages.folder, "activations", task);
  await stages.once(`activations/${task}`, async () => {
    const items = classes.flatMap(({ name, fit }) =>
      fit.map((clip) => ({ id: clip.id, codes: codesOf(clip), labels: { [task]: name, piece: clip.piece } })),
    );
    const reduction = { window: WINDOW_SECONDS, hop: WINDOW_SECONDS };
    return captureActivations(model, { items, sites: SITES, rows: "null", reduction, output: capture });
  });
  const summaries: Partial<Record<Compared, ProbeSummary>> = {};
  const vectors: Partial<Record<Compared, SteeringVectors>> = {};
  await mkdir(join(stages.folder, "vectors"), { recursive: true });
  for (const estimator of COMPARED) {
    const file = join(stages.folder, "vectors", `${task}-${estimator}.safetensors`);
    summaries[estimator] = await stages.once(`probes/${task}-${estimator}`, async () => {
      const data = soundingMeans(fromCapture(await openCapture(capture)), classes);
      const sweep = await sweepProbes(data, {
        label: task,
        group: "piece",
        estimator,
        seed,
        options: { logistic: { penalties } },
      });
      await writeVectors(file, sweep.vectors);
      return summarize(sweep);
    });
    vectors[estimator] = await readVectors(file);
  }
  const { ridge, logistic, means } = summaries;
  const { ridge: first, logistic: second, means: third } = vectors;
  if (!ridge || !logistic || !means || !first || !second || !third) throw new TypeError("an estimator is missing");
  await writeFile(join(stages.folder, `probes-${task}.html`), probeReport([ridge, logistic, means]));
  return {
    summaries: { ridge, logistic, means },
    vectors: { ridge: first, logistic: second, means: third },
  };
}

/** One row for each 2 s of a clip: the mean of its windows that sound. Where none does there is no row. */
function soundingMeans(data: ActivationData, classes: readonly ClassSources[]): ActivationData {
  const clips = new Map(classes.flatMap(({ fit }) => fit.map(({ id, sounding }) => [id, sounding] as const)));
  const perRow = Math.round(ROW_SECONDS / WINDOW_SECONDS);
  const groups: number[][] = [];
  let [clip, window, stretch]: [Label | undefined, number, number] = [undefined, 0, -1];
  (data.columns.get(CLIP_COLUMN) ?? []).forEach((id, row) => {
    if (id !== clip) [clip, window, stretch] = [id, 0, -1];
    if (clips.get(String(id))?.[window] === true) {
      if (Math.floor(window / perRow) !== stretch) groups.push([]);
      stretch = Math.floor(window / perRow);
      groups.at(-1)?.push(row);
    }
    window += 1;
  });
  return averageRows(data, groups);
}

/**
 * From one class to another as one raw direction at each site, named after the second: of the difference of means the step from
 * mean to mean; of any other estimator the difference of its unit directions, as long as that step, each head for itself. A strength of
 * 1 therefore means the same for all of them.
 */
export function towards(vectors: SteeringVectors, from: string, to: string): SteeringVectors {
  const [source, target] = [from, to].map((name) => vectors.concepts.indexOf(name));
  if (source === undefined || target === undefined || source < 0 || target < 0) {
    throw new TypeError(`there are no directions of ${from} and ${to}`);
  }
  const sites = [...vectors.sites.values()].map((found) => {
    const size = found.mean.length / vectors.concepts.length;
    const width = found.shape.at(-1) ?? size;
    const difference = (all: Float32Array, unit: boolean): Float32Array => {
      const [a, b] = [source, target].map((index) => all.slice(index * size, (index + 1) * size));
      if (!a || !b) throw new TypeError("a concept has no values");
      for (const one of unit ? [a, b] : []) scaleUnits(one, width, () => 1);
      return b.map((value, index) => value - (a[index] ?? 0));
    };
    const step = difference(found.mean, false);
    const directions = vectors.estimator === "means" ? step : difference(found.directions, true);
    scaleUnits(directions, width, (start) => Math.hypot(...step.subarray(start, start + width)));
    const units = size / width;
    const own = (values: Float32Array): Float32Array => values.slice(target * units, (target + 1) * units);
    const mean = found.mean.slice(target * size, (target + 1) * size);
    const { gain, bias, deviation } = found;
    const moved = { directions, mean, gain: own(gain), bias: own(bias), deviation: own(deviation) };
    return [found.site, { ...found, ...moved }] as const;
  });
  return { ...vectors, concepts: [to], sites: new Map(sites) };
}

/** Gives each stretch of `width` values a norm; one of nothing but zeros stays. */
function scaleUnits(values: Float32Array, width: number, norm: (start: number) => number): void {
  for (let start = 0; start < values.length; start += width) {
    const own = values.subarray(start, start + width);
    const length = Math.hypot(...own);
    if (length === 0) continue;
    const factor = norm(start) / length;
    own.forEach((value, place) => (own[place] = value * factor));
  }
}

/** The best layer's score at the residual stream, and the best head's, of one estimator. */
export function bestUnits({ units }: ProbeSummary): readonly ProbeSummary["units"][number][] {
  const best = (all: ProbeSummary["units"]): ProbeSummary["units"] =>
    all.toSorted((a, b) => b.score.value - a.score.value).slice(0, 1);
  return [...best(units.filter(({ head }) => head === null)), ...best(units.filter(({ head }) => head !== null))];
}

/** The same vectors with the directions of a layer half the depth away: the control for the layer. */
export function fromOtherLayers(vectors: SteeringVectors, layers: number): SteeringVectors {
  const sites = [...vectors.sites.values()].map((found) => {
    const moved = found.site.replace(/^blocks\.(\d+)\./, (_, layer: string) => {
      return `blocks.${(Number(layer) + Math.floor(layers / 2)) % layers}.`;
    });
    return [found.site, { ...(vectors.sites.get(moved) ?? found), site: found.site }] as const;
  });
  return { ...vectors, sites: new Map(sites) };
}
