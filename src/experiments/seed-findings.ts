import type { Interval } from "../probes/metrics.js";
import { isAbove, meanOf, shareOf, type Share } from "./intervals.js";
import { showMean, showShare } from "./quality.js";
import { bestUnits, COMPARED } from "./seed-directions.js";
import { EVERY_PAIR } from "./seed-matrix.js";
import { placeName, type Outcome } from "./seed-steering.js";
import { MELODY_KEPT, type SeedResult, type TaskResult } from "./seed.js";

/** What the numbers of the experiment say. */

/** A condition over all pairs of a task. Intervals of 95 %, clips taken for independent. */
export interface ConditionSummary {
  readonly condition: string;
  /** Heard as the class that was wanted, without a fault. */
  readonly success: Share;
  /** The same, and chroma similarity to the continuation that was left alone of at least 0.7. */
  readonly withMelody: Share;
  readonly content: Interval | undefined;
  readonly divergence: Interval | undefined; // nats a token
  readonly normRatio: Interval | undefined;
  readonly faulty: Share;
}

/** All conditions of a task, in the order in which they were run. */
export function summarizeConditions({ pairs }: Pick<TaskResult, "pairs">): readonly ConditionSummary[] {
  const names = [...new Set(pairs.map(({ condition }) => condition))];
  return names.map((condition) =>
    summarizeOutcomes(
      condition,
      pairs
        .filter((one) => one.condition === condition)
        .flatMap(({ pair, outcomes }) => outcomes.map((outcome) => ({ ...outcome, wanted: pair.to }))),
    ),
  );
}

/** One condition. @param outcomes with the class that was wanted of each */
export function summarizeOutcomes(
  condition: string,
  outcomes: readonly (Outcome & { readonly wanted: string })[],
): ConditionSummary {
  const isRight = ({ heard, wanted, faults }: (typeof outcomes)[number]): boolean =>
    heard === wanted && faults.length === 0;
  const numbers = (read: (outcome: Outcome) => number | null): readonly number[] =>
    outcomes.map(read).filter((value) => value !== null);
  const right = outcomes.filter(isRight);
  return {
    condition,
    success: shareOf(right.length, outcomes.length),
    withMelody: shareOf(right.filter(({ content }) => (content ?? 0) >= MELODY_KEPT).length, outcomes.length),
    content: meanOf(numbers(({ content }) => content)),
    divergence: meanOf(numbers(({ divergence }) => divergence)),
    normRatio: meanOf(numbers(({ normRatio }) => normRatio)),
    faulty: shareOf(outcomes.filter(({ faults }) => faults.length > 0).length, outcomes.length),
  };
}

/** The findings in sentences, the disappointing ones too. */
export function findings(result: SeedResult): readonly string[] {
  const lines = [...result.notes];
  for (const task of result.tasks) {
    lines.push(...probeFindings(task), ...steeringFindings(task));
  }
  for (const condition of ["neutral text", "text", "fused", "random directions"] as const) {
    const own = result.fusion.filter((one) => one.condition === condition);
    if (own.length === 0) continue;
    const hits = own.reduce((sum, { both }) => sum + both, 0);
    const trials = own.reduce((sum, { clips }) => sum + clips, 0);
    const lesser = own.reduce((sum, one) => sum + one.lesser * one.clips, 0) / trials;
    lines.push(
      `fusion, ${condition}: the two genres are the judge's first two in ${showShare(shareOf(hits, trials))}; ` +
        `mean probability of the lesser one ${lesser.toFixed(3)}.`,
    );
  }
  const none = result.overhead.find(({ steering }) => steering === "none");
  for (const { steering, millisecondsPerStep: time } of result.overhead) {
    if (!none || steering === "none") continue;
    const part = 100 * (time / none.millisecondsPerStep - 1);
    lines.push(
      `time, ${steering} steered: ${time.toFixed(2)} ms a step against ${none.millisecondsPerStep.toFixed(2)} (${part >= 0 ? "+" : ""}${part.toFixed(1)} %).`,
    );
  }
  return lines;
}

function probeFindings({ task, probes }: TaskResult): readonly string[] {
  if (!probes) return [];
  return COMPARED.flatMap((estimator) => {
    const summary = probes[estimator];
    return bestUnits(summary).map(({ site, head, score, control }) => {
      const place = head === null ? site : `${site}, head ${head}`;
      return (
        `${task}, ${estimator}: best ${head === null ? "layer" : "head"} ${place}, ${summary.scoring} ${showMean(score)}, ` +
        `shuffled labels ${showMean(control ?? undefined)}, chance ${summary.chance.toFixed(3)}.`
      );
    });
  });
}

function steeringFindings(task: TaskResult): readonly string[] {
  const { choice } = task;
  const all = summarizeConditions(task);
  if (!choice || all.length === 0) return [];
  const named = (name: string): ConditionSummary | undefined => all.find(({ condition }) => condition === name);
  const place = placeName(choice).replaceAll("-", " ").replace("layer all", "all layers");
  const lines = [`${task.task}: chosen on other clips: ${place}, strength ${choice.strength}.`];
  for (const { condition, success, withMelody, content, divergence, faulty } of all) {
    lines.push(
      `${task.task}, ${condition}: ${showShare(success)}; with the melody kept ${showShare(withMelody)}; chroma ${showMean(content)}` +
        `${divergence ? `; KL ${showMean(divergence)}` : ""}; faulty ${faulty.hits}.`,
    );
  }
  const steered = named(`steered ${choice.strength}`);
  const random = named(`random direction ${choice.strength}`);
  if (steered && random) {
    const enough = steered.withMelody.value >= 0.6 && steered.withMelody.value >= 3 * random.withMelody.value;
    const apart = isAbove(steered.withMelody, random.withMelody);
    lines.push(
      `${task.task}: steering alone reaches the class with the melody kept in ${showShare(steered.withMelody)}, a random direction of the same ` +
        `norm in ${showShare(random.withMelody)}: intervals ${apart ? "apart" : "overlap"}; 60 % and three times as often: ${enough ? "reached" : "not reached"}.`,
    );
  }
  for (const { condition, success, withMelody } of summarizeConditions({ pairs: task.matrix })) {
    const count = task.matrix.filter((one) => one.condition === condition).length;
    const by = condition === EVERY_PAIR.random ? "a random direction" : "steered";
    lines.push(
      `${task.task}, all ${count} pairs, ${by}: ${showShare(success)}; with the melody kept ${showShare(withMelody)}.`,
    );
  }
  for (const asked of ["text", "text of the change"]) {
    const [text, both] = [named(asked), named(`${asked} and steered`)];
    if (!text || !both) continue;
    lines.push(
      `${task.task}: ${asked} alone ${showShare(text.success)}, with steering ${showShare(both.success)}: ` +
        `${isAbove(both.success, text.success) ? "more often, intervals apart" : "no difference beyond the intervals"}.`,
    );
  }
  return lines;
}
