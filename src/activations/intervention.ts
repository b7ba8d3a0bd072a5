import type { Rows } from "../model/guidance.js";
import type { TextStretch } from "../model/timed-text.js";
import type { Hook } from "./hooks.js";

/** The run that an intervention is for. */
export interface RunPlan {
  readonly frames: number; // F, of the whole clip
  readonly promptFrames: number; // its first ones, that were given
  readonly frameRate: number; // frames per second
  readonly rows: Rows;
}

/**
 * Something that acts on a run through hooks of its own, and can be written down: steering is one. It holds nothing
 * between runs, so one may serve several at once.
 */
export interface Intervention {
  /** Everything needed to act like this again: goes into the settings of a generation. Plain JSON. */
  readonly record: Readonly<Record<string, unknown>>;
  /**
   * Texts that a generation reads for a while instead of its own.
   *
   * @param frameRate frames per second
   */
  texts?(frameRate: number): readonly TextStretch[];
  /**
   * Begins a run.
   *
   * @throws {UsageError} if it doesn't fit the run: before any work starts.
   */
  begin(run: RunPlan): InterventionRun;
}

/** An intervention at work. */
export interface InterventionRun {
  readonly hooks: readonly Hook[];
  /** Ends the run and frees its tensors. */
  end(): void;
}

/** Runs `use` with the hooks of an intervention, and ends it: for passes other than `generate`. */
export async function withIntervention<Result>(
  intervention: Intervention,
  plan: RunPlan,
  use: (hooks: readonly Hook[]) => Promise<Result>,
): Promise<Result> {
  const run = intervention.begin(plan);
  try {
    return await use(run.hooks);
  } finally {
    run.end();
  }
}

/** Several interventions as one: each acts on what the ones before it left. */
export function joinInterventions(interventions: readonly Intervention[]): Intervention {
  const [first] = interventions;
  if (first && interventions.length === 1) return first;
  return {
    record: { joined: interventions.map(({ record }) => record) },
    texts: (frameRate) => interventions.flatMap((one) => one.texts?.(frameRate) ?? []),
    begin: (plan) => {
      const runs: InterventionRun[] = [];
      const end = (): void => runs.forEach((run) => run.end());
      try {
        for (const intervention of interventions) runs.push(intervention.begin(plan));
      } catch (error) {
        end();
        throw error;
      }
      return { hooks: runs.flatMap(({ hooks }) => hooks), end };
    },
  };
}
