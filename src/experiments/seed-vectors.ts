import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { readVectors, writeVectors } from "../probes/vectors.js";
import { isAbove } from "./intervals.js";
import { summarizeConditions } from "./seed-findings.js";
import { fileName } from "./seed-sources.js";
import { secondName, sitesOf, transferSpec } from "./seed-steering.js";
import type { Choice, SeedResult, TaskResult } from "./seed.js";

/** What of an experiment is worth shipping: directions that turned clips more often than random ones did. */

/**
 * Writes the directions of each task, and a spec for each class that steering reached more often than a random direction of the
 * same norm did (95 % intervals apart, over all pairs that lead to it), at the chosen place or else at the other one:
 * `instrument.safetensors`, `piano.json` … In the folder `vectors` of a checkpoint, they are found by name:
 * `tonearm generate --steer piano`.
 *
 * @param folder of the experiment
 * @param directory is made if need be; files of these names are replaced
 * @returns the names of the files; none where nothing worked
 */
export async function exportVectors(
  { tasks }: SeedResult,
  folder: string,
  directory: string,
): Promise<readonly string[]> {
  const files: string[] = [];
  for (const task of tasks) {
    const reached = [...new Set(task.pairs.map(({ pair }) => pair.to))].flatMap((to) => {
      const place = triedPlaces(task).find((tried) => beatsRandom(task, tried, to));
      return place ? [{ to, choice: place.choice }] : [];
    });
    if (reached.length === 0) continue;
    const vectors = await readVectors(join(folder, "vectors", `${task.task}-means.safetensors`));
    const used = reached.flatMap(({ choice }) => {
      const sites = sitesOf(choice);
      return typeof sites === "string"
        ? [...vectors.sites.keys()].filter((site) => site.endsWith(".attn.hook_z"))
        : sites;
    });
    const sites = new Map([...vectors.sites].filter(([site]) => used.includes(site)));
    const file = `${task.task}.safetensors`;
    await mkdir(directory, { recursive: true });
    await writeVectors(join(directory, file), { ...vectors, sites });
    files.push(file);
    for (const { to, choice } of reached) {
      const spec = transferSpec(to, { ...choice, sites: sitesOf(choice) }, 0, file); // of a span: from the mean of all
      await writeFile(join(directory, `${fileName(to)}.json`), `${JSON.stringify(spec, null, 2)}\n`);
      files.push(`${fileName(to)}.json`);
    }
  }
  return files;
}

/** A place with the names of its condition and of that condition's control. */
interface TriedPlace {
  readonly choice: Choice;
  readonly steered: string;
  readonly random: string;
}

function triedPlaces({ choice, second }: TaskResult): readonly TriedPlace[] {
  const strength = String(choice?.strength ?? "");
  const other = second && secondName(second);
  return [
    ...(choice ? [{ choice, steered: `steered ${strength}`, random: `random direction ${strength}` }] : []),
    ...(second && other ? [{ choice: second, steered: other, random: `${other}, random direction` }] : []),
  ];
}

function beatsRandom({ pairs, ...task }: TaskResult, names: TriedPlace, to: string): boolean {
  const all = summarizeConditions({ ...task, pairs: pairs.filter(({ pair }) => pair.to === to) });
  const [steered, random] = [names.steered, names.random].map((name) =>
    all.find(({ condition }) => condition === name),
  );
  return steered !== undefined && random !== undefined && isAbove(steered.success, random.success);
}
