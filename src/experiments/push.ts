import * as tf from "@tensorflow/tfjs-core";

import type { Hook } from "../activations/hooks.js";
import { withIntervention, type RunPlan } from "../activations/intervention.js";
import type { Codes } from "../model/delay.js";
import type { MusicGen } from "../musicgen.js";
import type { Steering } from "../steering/steering.js";

/** How far steering moves activations, for a control that moves them as far. */

/** At each site one length for each unit: a head, or the whole site. */
export type PushNorms = Readonly<Record<string, readonly number[]>>;

/** A clip that steering made. */
export interface SteeredClip {
  readonly model: MusicGen;
  readonly steering: Steering;
  readonly sites: string | readonly string[];
  readonly text: string | null;
  readonly promptFrames: number;
  readonly codes: Codes;
}

/**
 * The root mean square of ‖h' − h‖ over the positions of a clip that were steered, from a teacher-forced pass over its codes. What is added
 * has one length, whatever there is; what is taken to a goal gets there sooner or later, and is then moved less and less: a random
 * direction as long as the way to the goal would be pushed along for longer.
 *
 * @returns the sites that were moved. Leaves no tensors behind.
 */
export async function pushNorms({
  model,
  steering,
  sites,
  text,
  promptFrames,
  codes,
}: SteeredClip): Promise<PushNorms> {
  const { frames } = codes;
  const roles = [text === null ? "null" : "cond"] as const;
  const run: RunPlan = { frames, promptFrames, frameRate: model.config.codec.frameRate, rows: { batch: 1, roles } };
  const before = new Map<string, tf.Tensor>();
  const squares = new Map<string, { readonly units: number; readonly values: ArrayLike<number> }>();
  const keep: Hook = {
    sites,
    run: (value, { site }) => {
      before.set(site, tf.keep(tf.clone(value)));
      return undefined;
    },
  };
  const compare: Hook = {
    sites,
    run: async (value, { site }) => {
      const own = before.get(site);
      if (!own) return undefined;
      const moved = tf.tidy(() => tf.sum(tf.squaredDifference(value, own), -1)); // [1, T] or [1, T, H]
      own.dispose();
      before.delete(site);
      squares.set(site, { units: moved.shape[2] ?? 1, values: await moved.data() });
      moved.dispose();
      return undefined;
    },
  };
  try {
    await withIntervention(steering, run, async (hooks) => {
      const { logits } = await model.runWithHooks({ text, codes, rows: roles }, [keep, ...hooks, compare]);
      logits.dispose();
    });
  } finally {
    before.forEach((value) => value.dispose()); // of a pass that failed half-way
  }
  const norms = [...squares].map(([site, { units, values }]) => {
    const each = Array.from({ length: units }, (_, unit) => {
      const own = Array.from(values).filter((value, place) => place % units === unit && value > 0);
      return Math.sqrt(own.reduce((sum, value) => sum + value, 0) / Math.max(1, own.length));
    });
    return [site, each] as const;
  });
  return Object.fromEntries(norms.filter(([, each]) => each.some((norm) => norm > 0)));
}

/** Root mean squares over several clips' norms. */
export function meanNorms(all: readonly PushNorms[]): PushNorms {
  const sites = [...new Set(all.flatMap((norms) => Object.keys(norms)))];
  return Object.fromEntries(
    sites.map((site) => {
      const own = all.flatMap((norms) => (norms[site] ? [norms[site]] : []));
      const units = own[0] ?? [];
      return [
        site,
        units.map((_, unit) => Math.sqrt(own.reduce((sum, one) => sum + (one[unit] ?? 0) ** 2, 0) / own.length)),
      ];
    }),
  );
}
