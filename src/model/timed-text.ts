import { UsageError } from "../errors.js";
import type { TextInput } from "./request.js";

/**
 * Texts over time: "slow jazz" from the start, "electronic" from 8 s on. The pass at position p decides frame p of the first
 * codebook, frame p − 1 of the second, and so on; a text that holds from frame f is read by the positions from f on. So
 * the later codebooks of the three frames before a change are decided under the new text already: a change is 60 ms wide.
 */

/** A text and when it takes over; it holds until the next one does. Times are in the clip, an audio prompt included. */
export interface TextSegment {
  readonly text: TextInput;
  /** In seconds. The first segment's is 0, which may be left out. */
  readonly from?: number | undefined;
  /** In codec frames instead. */
  readonly fromFrame?: number | undefined;
}

/** Texts one after another, the first of them from 0 on. */
export type TimedText = readonly TextSegment[];

/** A text and the first position that reads it. */
export interface PlacedText {
  readonly from: number;
  readonly text: TextInput;
}

/** A text that takes the place of others for a while: at positions first … end − 1. */
export interface TextStretch {
  readonly first: number;
  readonly end: number | null; // null: the end of the clip
  readonly text: string;
  readonly path: string; // of its field, for errors
}

const WHOLE = 1e-6; // a time this close to a frame is meant to be it

/** Whether a text changes over time. */
export function isTimed(text: TextInput | TimedText): text is TimedText {
  return Array.isArray(text) && typeof (text as readonly unknown[])[0] === "object";
}

/** All texts of an input. */
export function textInputs(text: TextInput | TimedText): readonly TextInput[] {
  return isTimed(text) ? text.map((segment) => segment.text) : [text];
}

/**
 * The positions at which texts take over.
 *
 * @param frames of the whole clip
 * @throws {UsageError} naming the entry, if it begins beyond the clip, not after the one before, or the first not at 0.
 */
export function placeTexts(text: TextInput | TimedText, frames: number, frameRate: number): readonly PlacedText[] {
  if (!isTimed(text)) return [{ from: 0, text }];
  let before = -1;
  return text.map((segment, index) => {
    const { value, unit, perUnit } = timeOf(segment, index, frameRate);
    const from = value === 0 ? 0 : Math.ceil(value * perUnit - WHOLE);
    const where = `text[${index}].${unit === "frames" ? "fromFrame" : "from"}`;
    const refuse = (found: string, todo: string): never => {
      throw new UsageError({ asked: "let the text change over time", found: `${where}: ${found}`, todo });
    };
    if (!Number.isFinite(value) || value < 0) refuse(`${value}`, `Give ${unit} from 0 up`);
    if (unit === "frames" && !Number.isInteger(value)) refuse(`${value}`, "Give a whole number of frames");
    if (index === 0 && from !== 0) refuse(`${value}`, "The first text holds from 0 on: give 0, or leave it out");
    if (from <= before) {
      refuse(
        `${value}, no later than text[${index - 1}]`,
        `Put texts in order, a frame (${1 / frameRate} s) apart or more`,
      );
    }
    if (from >= frames) {
      refuse(`${value}, while the clip ends at ${frames / perUnit} ${unit}`, "Let it begin before the end");
    }
    before = from;
    return { from, text: segment.text };
  });
}

function timeOf(
  { from, fromFrame }: TextSegment,
  index: number,
  frameRate: number,
): { readonly value: number; readonly unit: "seconds" | "frames"; readonly perUnit: number } {
  if (from !== undefined && fromFrame !== undefined) {
    throw new UsageError({
      asked: "let the text change over time",
      found: `text[${index}] begins at ${from} seconds and at frame ${fromFrame}`,
      todo: `Give one of them; a second has ${frameRate} frames`,
    });
  }
  if (fromFrame !== undefined) return { value: fromFrame, unit: "frames", perUnit: 1 };
  if (from === undefined && index > 0) {
    throw new UsageError({
      asked: "let the text change over time",
      found: `text[${index}] without a beginning`,
      todo: "Give from, in seconds, or fromFrame",
    });
  }
  return { value: from ?? 0, unit: "seconds", perUnit: frameRate };
}

/**
 * A run's own text with stretches in which others take its place.
 *
 * @param own undefined: the stretches must cover the clip
 * @throws {UsageError} if stretches overlap, or there is a part of the clip without a text.
 */
export function withStretches(
  own: TextInput | TimedText | undefined,
  stretches: readonly TextStretch[],
  frames: number,
  frameRate: number,
): TextInput | TimedText | undefined {
  if (stretches.length === 0) return own;
  const base = own === undefined ? [] : placeTexts(own, frames, frameRate);
  const sorted = stretches.toSorted((a, b) => a.first - b.first);
  sorted.forEach(({ first, path }, index) => {
    const before = sorted[index - 1];
    if (!before || (before.end !== null && before.end <= first)) return;
    throw new UsageError({
      asked: "let the text change over time",
      found: `${path} begins at ${first / frameRate} s, where ${before.path} still holds`,
      todo: "Give one text at a time",
    });
  });
  const borders = [0, ...base.map(({ from }) => from), ...sorted.flatMap(({ first, end }) => [first, end ?? frames])];
  const placed: PlacedText[] = [];
  for (const from of [...new Set(borders)].toSorted((a, b) => a - b)) {
    if (from >= frames) continue;
    const stretch = sorted.find(({ first, end }) => first <= from && from < (end ?? frames));
    const text = stretch?.text ?? base.findLast((one) => one.from <= from)?.text;
    if (text === undefined) {
      throw new UsageError({
        asked: "let the text change over time",
        found: `no text from ${from / frameRate} s on`,
        todo: "Give the clip a text of its own, which holds where no segment has one",
      });
    }
    if (placed.at(-1)?.text !== text) placed.push({ from, text });
  }
  const [only] = placed;
  if (only && placed.length === 1) return only.text;
  return placed.map(({ from, text }) => ({ fromFrame: from, text }));
}
