import type { TextStretch } from "../model/timed-text.js";
import { invalid } from "./fields.js";
import type { InterventionSpec, Ramp, SteeringSpec } from "./spec.js";

/**
 * When a step acts. What is steered is a *position* of the delayed sequence, an absolute one: so a schedule gives the
 * same positions with the key-value cache and without, in one teacher-forced pass and step by step.
 *
 * The pass at position p decides frame p of the codebooks with delay 0, frame p − 1 of those with delay 1, and so on. A
 * time t is frame t · frame rate, and a segment [from, until) covers the positions p with from ≤ p < until, in frames: those
 * that decide its frames of the first codebook. Its last frames' later codebooks are decided at the next few positions,
 * which belong to what comes next. A segment that reaches the end of the clip also covers the positions after the last
 * frame, where only the later codebooks are decided.
 */

/** What a schedule must know of the clip. */
export interface Timeline {
  readonly frames: number; // F, of the whole clip
  readonly promptFrames: number; // P, its first ones, that were given
  readonly frameRate: number; // frames per second
}

/** A segment as positions [first, end). */
export interface Stretch {
  readonly first: number;
  readonly end: number; // Infinity where it reaches the end of the clip
  readonly length: number; // in positions up to the end of the clip: what a ramp goes over
}

const WHOLE = 1e-6; // a time this close to a frame is meant to be it

/**
 * The positions of each segment.
 *
 * @throws {UsageError} with the field's path, if a segment lies beyond the clip, holds no frame, or holds nothing but
 *   the prompt while the prompt isn't steered.
 */
export function layOut({ segments, time, prompt }: SteeringSpec, timeline: Timeline): readonly Stretch[] {
  const { frames, promptFrames, frameRate } = timeline;
  const perUnit = time === "seconds" ? frameRate : 1;
  const end = `${frames / perUnit} ${time}`;
  return segments.map(({ from, until, steer }, index) => {
    const path = `segments[${index}]`;
    const first = positionOf(from * perUnit);
    if (first >= frames)
      throw invalid(`${path}.from`, `${from}, while the clip ends at ${end}`, "Begin before the end");
    if (until !== null && positionOf(until * perUnit) > frames) {
      throw invalid(
        `${path}.until`,
        `${until}, while the clip ends at ${end}`,
        `Give at most ${frames / perUnit}, or null`,
      );
    }
    const last = until === null ? frames : positionOf(until * perUnit);
    if (last <= first) {
      throw invalid(
        `${path}.until`,
        `${until}, less than a frame after ${from}`,
        `A frame lasts ${1 / perUnit} ${time}`,
      );
    }
    if (!prompt && steer.length > 0 && last <= promptFrames) {
      throw invalid(
        `${path}.until`,
        `${until}, within the audio prompt of ${promptFrames / perUnit} ${time}`,
        'Nothing is generated there: end later, or set "prompt": true to steer the reading of the prompt',
      );
    }
    steer.forEach(({ ramp }, number) => {
      const over = (ramp?.over ?? 0) * perUnit;
      if (over <= last - first + WHOLE) return;
      const found = `${ramp?.over}, longer than its segment of ${(last - first) / perUnit} ${time}`;
      throw invalid(`${path}.steer[${number}].ramp.over`, found, "Give at most that, or null for all of it");
    });
    return { first, end: last === frames ? Infinity : last, length: last - first };
  });
}

/** The texts of segments, as the positions that read them: those that the segment's directions steer. */
export function layOutTexts({ segments, time }: SteeringSpec, frameRate: number): readonly TextStretch[] {
  const perUnit = time === "seconds" ? frameRate : 1;
  return segments.flatMap(({ from, until, text }, index) => {
    if (text === null) return [];
    const end = until === null ? null : positionOf(until * perUnit);
    return [{ first: positionOf(from * perUnit), end, text, path: `segments[${index}].text` }];
  });
}

function positionOf(frames: number): number {
  return Math.max(0, Math.ceil(frames - WHOLE));
}

/** The places of one intervention in a spec, which its random draws depend on. */
export interface Place {
  readonly segment: number;
  readonly index: number; // in the segment
}

/**
 * The strength at a position, before gate, weights and draws: 0 where the schedule leaves it alone.
 *
 * @param position absolute, 0 is the BOS column
 */
export function strengthAt(
  position: number,
  { strength, ramp, every, offset }: InterventionSpec,
  { first, end, length }: Stretch,
  { prompt, time }: Pick<SteeringSpec, "prompt" | "time">,
  { promptFrames, frameRate }: Timeline,
): number {
  if (position < first || position >= end || (!prompt && position < promptFrames)) return 0;
  if (modulo(position - promptFrames, every) !== offset) return 0;
  if (!ramp) return strength;
  const over = ramp.over === null ? length : ramp.over * (time === "seconds" ? frameRate : 1);
  return strength * rampAt(ramp, (position - first) / over);
}

/** MusicRFM's logistic schedule is 1 / (1 + exp(−(t − 750) / 200)) for frames 0 … 1,500. */
const LOGISTIC_STEEPNESS = 1500 / 200;

/** The factor of a ramp a part `way` of its way along, 0 … 1 and beyond. */
export function rampAt({ shape, from, to }: Ramp, way: number): number {
  const u = Math.min(1, way);
  switch (shape) {
    case "linear":
      return from + (to - from) * u;
    case "cosine":
      return from + ((to - from) * (1 - Math.cos(Math.PI * u))) / 2;
    case "exponential":
      return from * (to / from) ** u;
    case "logistic":
      return from + (to - from) / (1 + Math.exp(-LOGISTIC_STEEPNESS * (u - 0.5)));
    case "sine":
      return from + ((to - from) * (1 + Math.sin(2 * Math.PI * way))) / 2;
  }
}

/**
 * Whether a draw of this probability succeeds for a position at a site. It depends on the seed and the place alone, not
 * on how many draws came before, so that it is the same in whatever passes the positions come.
 */
export function isDrawn(
  probability: number,
  seed: number,
  { segment, index }: Place,
  site: number,
  position: number,
): boolean {
  if (probability >= 1) return true;
  const hash = [segment, index, site, position].reduce(
    (state, part) => mix(state ^ Math.imul(part + 1, 0x9e3779b9)),
    mix(seed),
  );
  return (hash >>> 0) / 2 ** 32 < probability;
}

/** The finaliser of MurmurHash3: every bit of the input reaches every bit of the output. */
function mix(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

function modulo(value: number, n: number): number {
  return ((value % n) + n) % n;
}
