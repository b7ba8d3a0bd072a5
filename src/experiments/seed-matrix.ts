import { shareOf, type Share } from "./intervals.js";
import type { TaskProbes } from "./seed-directions.js";
import { fileName, type ClassSources } from "./seed-sources.js";
import { preparePrompts, runCondition, sitesOf, type Outcome, type Pair, type SteeringRuns } from "./seed-steering.js";
import type { Choice, TaskResult } from "./seed.js";

/** Every class steered to every other, at the chosen place and strength, next to a random direction: a matrix of sources and targets. */

/** One cell. */
export interface MatrixCell {
  readonly pair: Pair;
  readonly steered: readonly Outcome[];
  readonly random: readonly Outcome[]; // by a random direction of the same norm
}

/**
 * Continues the first `settings.matrixClips` test clips of each class towards every other class; none if that is 0.
 *
 * @returns cells in the order of sources, then targets; sources without clips to continue are left out
 */
export async function steerEveryPair(
  runs: SteeringRuns,
  { task, vectors }: Pick<TaskProbes, "vectors"> & Pick<TaskResult, "task">,
  classes: readonly ClassSources[],
  choice: Choice,
): Promise<readonly MatrixCell[]> {
  const { stages, settings } = runs;
  const cells: MatrixCell[] = [];
  if (settings.matrixClips === 0) return cells;
  const { strength, rows } = choice;
  const span = { seconds: settings.steerSeconds ?? undefined };
  const steering = { vectors: vectors.means, sites: sitesOf(choice), strength, rows, ...span };
  const quiet = { ...runs, settings: { ...settings, clips: 0 } }; // no divergence here
  for (const { name: from, test } of classes) {
    const sources = test.slice(0, settings.matrixClips);
    if (sources.length === 0) continue;
    const targets = classes.map(({ name }) => name).filter((name) => name !== from);
    const { row } = await stages.once(`matrix/${task}/${fileName(from)}`, async () => {
      const prompts = await preparePrompts(runs, task, { from, to: from }, sources);
      const found: MatrixCell[] = [];
      for (const to of targets) {
        const pair = { from, to };
        const run = (random: boolean): Promise<readonly Outcome[]> => {
          const name = random ? "random direction" : "steered";
          const condition = { name, asksFor: "nothing" as const, steering: { ...steering, random } };
          return runCondition(
            quiet,
            { ...prompts, pair },
            condition,
            `clips/matrix/${task}/${fileName(from)}-to-${fileName(to)}`,
          );
        };
        found.push({ pair, steered: await run(false), random: await run(true) });
      }
      return { row: found };
    });
    cells.push(...row);
  }
  return cells;
}

/** How many of some cells reached their targets, without a fault; and of these how many kept the melody, where `kept` is the least similarity. */
export function reached(cells: readonly MatrixCell[], by: "steered" | "random", kept: number = -Infinity): Share {
  const hits = cells.flatMap(({ pair, [by]: outcomes }) =>
    outcomes.map(({ heard, faults, content }) => heard === pair.to && faults.length === 0 && (content ?? 0) >= kept),
  );
  return shareOf(hits.filter(Boolean).length, hits.length);
}
