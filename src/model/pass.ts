import type { Announcement, Taps, Walk } from "../runtime/announce.js";
import type { DelayPattern, FrameRange } from "./delay.js";
import type { Rows } from "./guidance.js";
import type { PrefixLength } from "./melody.js";

/**
 * Where a pass through a network stands: what a consumer needs to know to address an activation by position, second,
 * frame, row or step.
 */
export type PassContext = DecoderContext | TextContext | CodecContext;

/** A pass of the decoder. */
export interface DecoderContext {
  /** Teacher-forced over given codes, the first pass of a generation, or one step of it. */
  readonly phase: "forward" | "prefill" | "decode";
  readonly step: number; // passes made before this one
  readonly firstPosition: number; // absolute, of the first position after a prefix; 0 is the BOS column
  readonly positions: number; // T, a prefix included
  readonly prefix: PrefixLength; // how many of these positions come before the BOS column; melody models' first passes
  readonly rows: Rows;
  readonly pattern: DelayPattern;
  readonly frames: number; // F, of the whole clip
  readonly window: FrameRange; // those of them that this pass's sequence covers
  readonly frameRate: number; // frames per second
  readonly textSegment?: number | undefined; // which of the texts over time is read, from 0; undefined: no row reads one
}

/** Of passes that nothing precedes. */
export const NO_PREFIX: PrefixLength = { melody: 0, text: 0 };

/** How many positions a prefix takes. */
export function prefixSize({ melody, text }: PrefixLength): number {
  return melody + text;
}

/**
 * The absolute position of each of the T: those of a prefix are −P … −1, in whichever window of a clip it is read.
 */
export function absolutePositions({ firstPosition, positions, prefix }: DecoderContext): readonly number[] {
  const before = prefixSize(prefix);
  return Array.from({ length: positions }, (_, t) => (t < before ? t - before : firstPosition + t - before));
}

/** A pass of the text encoder. Its rows are texts: those of the clips, then the negative ones. */
export interface TextContext {
  readonly phase: "text";
  readonly texts: number; // N
  readonly tokens: number; // S
}

/** A pass of the codec over one channel of one clip. */
export interface CodecContext {
  readonly phase: "encode" | "decode-audio";
  readonly item: number; // the clip, from 0
  readonly channel: number; // 0: mono or left
}

/** An announcement and where its pass stands. */
export interface PassStop {
  readonly announcement: Announcement;
  readonly pass: PassContext;
}

/** A consumer of passes. */
export interface PassTaps extends Taps {
  /**
   * Deals with a stop in the midst of the pass, which spares it the way out through all generators around it.
   *
   * @returns false if it can't: the stop is then yielded.
   */
  attend?(stop: PassStop): boolean;
}

/** Gives each announcement of a walk its place. Yields those that `taps` doesn't deal with at once. */
export function* locate<Result>(
  walk: Walk<Result>,
  pass: PassContext,
  taps?: PassTaps,
): Generator<PassStop, Result, void> {
  try {
    for (;;) {
      const next = walk.next();
      if (next.done) return next.value;
      const stop = { announcement: next.value, pass };
      if (taps?.attend?.(stop) !== true) yield stop;
    }
  } finally {
    walk.return(undefined as never); // no effect on a walk that has ended
  }
}
