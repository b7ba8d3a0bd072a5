import type { SteeringVectors } from "../probes/vectors.js";
import type { JudgeTask } from "./judge.js";
import type { PushNorms } from "./push.js";
import { fileName, type ClassSources } from "./seed-sources.js";
import { pairName, preparePrompts, runCondition, steeredAt, type SteeringRuns } from "./seed-steering.js";
import type { Choice, PairOutcomes } from "./seed.js";

/** Every class steered to every other, at the chosen place and strength, next to a random direction: a matrix of sources and targets. */

/** The two conditions of a matrix. */
export const EVERY_PAIR = { steered: "every pair, steered", random: "every pair, random direction" } as const;

/**
 * Continues the first `settings.matrixClips` test clips of each class towards every other class; none if that is 0.
 *
 * @returns outcomes in the order of sources, then targets; sources without clips to continue are left out
 */
export async function steerEveryPair(
  runs: SteeringRuns,
  task: JudgeTask,
  vectors: SteeringVectors,
  classes: readonly ClassSources[],
  choice: Choice,
  norms: PushNorms, // how far the span moved activations at that place and strength
): Promise<readonly PairOutcomes[]> {
  const { stages, settings } = runs;
  const steering = steeredAt(choice, vectors, settings);
  const quiet = { ...runs, settings: { ...settings, clips: 0 } }; // no divergence here
  const results: PairOutcomes[] = [];
  for (const { name: from, test } of classes) {
    const sources = test.slice(0, settings.matrixClips);
    if (sources.length === 0) continue;
    const { row } = await stages.once(`matrix/${task}/${fileName(from)}`, async () => {
      const prompts = await preparePrompts(runs, task, { from, to: from }, sources);
      const found: PairOutcomes[] = [];
      for (const { name: to } of classes) {
        if (to === from) continue;
        const pair = { from, to };
        for (const name of [EVERY_PAIR.steered, EVERY_PAIR.random]) {
          const how = name === EVERY_PAIR.random ? { ...steering, random: "direction" as const, norms } : steering;
          const condition = { name, asksFor: "nothing" as const, steering: how };
          const folder = `clips/${task}/${pairName(pair)}`;
          const outcomes = await runCondition(quiet, { ...prompts, pair }, condition, folder);
          found.push({ pair, condition: name, outcomes });
        }
      }
      return { row: found };
    });
    results.push(...row);
  }
  return results;
}
