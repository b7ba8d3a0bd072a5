import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { readVectors, writeVectors } from "../probes/vectors.js";
import { isAbove } from "./intervals.js";
import { summarizeConditions } from "./seed-findings.js";
import { fileName } from "./seed-sources.js";
import { sitesOf, transferSpec } from "./seed-steering.js";
import type { Choice, SeedResult, TaskResult } from "./seed.js";

/** What of an experiment is worth shipping: directions that turned clips more often than random ones did. */

/**
 * Writes the chosen directions of each task, and a spec for each class that steering reached more often than a random direction of
 * the same norm did (95 % intervals apart, over all pairs that lead to it): `instrument.safetensors`, `piano.json` … In the folder
 * `vectors` of a checkpoint, they are found by name: `tonearm generate --steer piano`.
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
    const { choice } = task;
    if (!choice) continue;
    const reached = [...new Set(task.pairs.map(({ pair }) => pair.to))].filter((to) => beatsRandom(task, choice, to));
    if (reached.length === 0) continue;
    const vectors = await readVectors(join(folder, "vectors", `${task.task}-means.safetensors`));
    const wanted = sitesOf(choice);
    const isWanted = (site: string): boolean =>
      choice.at === "heads" ? site.endsWith(".attn.hook_z") : wanted.includes(site);
    const sites = new Map([...vectors.sites].filter(([site]) => isWanted(site)));
    const file = `${task.task}.safetensors`;
    await mkdir(directory, { recursive: true });
    await writeVectors(join(directory, file), { ...vectors, sites });
    files.push(file);
    for (const to of reached) {
      const spec = transferSpec(to, { ...choice, sites: wanted }, 0, file);
      await writeFile(join(directory, `${fileName(to)}.json`), `${JSON.stringify(spec, null, 2)}\n`);
      files.push(`${fileName(to)}.json`);
    }
  }
  return files;
}

function beatsRandom({ pairs, ...task }: TaskResult, { strength }: Choice, to: string): boolean {
  const all = summarizeConditions({ ...task, pairs: pairs.filter(({ pair }) => pair.to === to) });
  const [steered, random] = ["steered", "random direction"].map((name) =>
    all.find(({ condition }) => condition === `${name} ${strength}`),
  );
  return steered !== undefined && random !== undefined && isAbove(steered.success, random.success);
}
