import { UsageError } from "../errors.js";
import { isMoments, type Reduction } from "./store-format.js";

/**
 * How the positions of a clip become rows.
 *
 * A clip of F frames takes the positions 0 … F + max delay. Position 0 is the BOS column; in codebook k, position p carries
 * frame p − 1 − delay(k), or a pad token where there is no such frame. The *complete* positions are those where every
 * codebook carries a frame: max delay + 1 … F. Before them some codebooks haven't begun, after them (the delay tail) some
 * have ended: what the model computes there, it computes from pad tokens. All reductions but `none` read complete positions
 * only.
 *
 * A position belongs to the moment at which the frame of its first codebook sounds: position p to second
 * (p − 1) / frame rate.
 */

/** The positions of a clip that a capture sees, and what they carry. */
export interface ClipSpan {
  readonly frames: number; // F
  readonly first: number; // first position that is captured
  readonly last: number; // last one
  readonly maxDelay: number; // of the codebooks
  readonly frameRate: number; // frames per second
}

/** A row to be: the mean over the positions first … last, both included. */
export interface PlannedRow {
  readonly window: number | null;
  readonly first: number;
  readonly last: number;
  readonly seconds: readonly [start: number, end: number];
}

/** The positions of a span at which every codebook carries a frame. Empty if `last` < `first`. */
export function completePositions({ frames, first, last, maxDelay }: ClipSpan): { first: number; last: number } {
  return { first: Math.max(first, maxDelay + 1), last: Math.min(last, frames) };
}

/**
 * The rows that a clip gives, in order.
 *
 * - `none`: one for each position, BOS column and delay tail included.
 * - `mean`: one, over all complete positions.
 * - `last`: one, the last complete position: not the last position, which lies in the delay tail.
 * - windows: one for each window that lies within the captured sound, from its start on, `hop` seconds apart. A window
 *   [s, s + window) holds the complete positions whose seconds lie in it; the first window of a clip therefore has max
 *   delay positions fewer.
 * - moments: one for each complete position, to be summed up.
 *
 * @param what the clip, for errors
 * @throws {UsageError} if the clip has no complete position, or is shorter than one window.
 */
export function planRows(reduction: Reduction, span: ClipSpan, what: string): readonly PlannedRow[] {
  if (reduction === "none") return each(span.first, span.last, span.frameRate);
  const { first, last } = completePositions(span);
  if (last < first) {
    throw new UsageError({
      asked: `reduce the activations of ${what}`,
      found: `${span.frames} frames, in which no position carries a frame in every codebook`,
      todo: `Give clips of at least ${span.maxDelay + 1} frames, or capture every position with the reduction none`,
    });
  }
  if (reduction === "mean") return [row(null, first, last, span.frameRate)];
  if (reduction === "last") return [row(null, last, last, span.frameRate)];
  if (isMoments(reduction)) return each(first, last, span.frameRate);
  return windows(reduction, span, what);
}

function each(first: number, last: number, frameRate: number): readonly PlannedRow[] {
  return Array.from({ length: last - first + 1 }, (_, index) => row(null, first + index, first + index, frameRate));
}

function row(window: number | null, first: number, last: number, frameRate: number): PlannedRow {
  return { window, first, last, seconds: [(first - 1) / frameRate, last / frameRate] };
}

function windows(
  { window, hop }: Extract<Reduction, { window: number }>,
  span: ClipSpan,
  what: string,
): readonly PlannedRow[] {
  const { frameRate, frames } = span;
  const complete = completePositions(span);
  const start = Math.max(0, span.first - 1) / frameRate; // of the sound that is captured, in seconds
  const end = Math.min(frames, span.last) / frameRate;
  const count = Math.floor((end - start - window) / hop + TOLERANCE) + 1;
  if (count < 1) {
    throw new UsageError({
      asked: `windows of ${window} s over ${what}`,
      found: `only ${round(end - start)} s of captured sound`,
      todo: "Choose a shorter window, or leave the clip out",
    });
  }
  return Array.from({ length: count }, (_, index) => {
    const from = start + index * hop;
    const until = from + window;
    const first = Math.max(complete.first, 1 + Math.ceil(from * frameRate - TOLERANCE));
    const last = Math.min(complete.last, Math.ceil(until * frameRate - TOLERANCE));
    if (last >= first) return { window: index, first, last, seconds: [exact(from), exact(until)] };
    throw new UsageError({
      asked: `window ${index} of ${what}, ${round(from)} … ${round(until)} s`,
      found: "no position in it carries a frame in every codebook",
      todo: `Choose a window of more than ${round((span.maxDelay + 1) / frameRate)} s`,
    });
  });
}

const TOLERANCE = 1e-6; // seconds · frame rate this close to a whole number is meant to be one

/** 0.1 + 0.2 is meant to be 0.3. */
function exact(seconds: number): number {
  return Number(seconds.toFixed(9));
}

function round(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}

/**
 * Checks a reduction's numbers.
 *
 * @throws {UsageError} if a window or hop is not a number of seconds above 0, or shorter than one frame.
 */
export function checkReduction(reduction: Reduction, frameRate: number): void {
  if (typeof reduction === "string" || isMoments(reduction)) return;
  for (const [name, seconds] of Object.entries(reduction)) {
    if (Number.isFinite(seconds) && seconds * frameRate >= 1 - TOLERANCE) continue;
    throw new UsageError({
      asked: `a ${name} of ${seconds} s`,
      found: `it must be a number of seconds, at least one frame (${1 / frameRate} s)`,
      todo: `Choose a longer ${name}`,
    });
  }
}

/** Turns the positions of one site and role, as they come, into rows. Sums are float64; a row of one position is exact. */
export class RowCollector {
  readonly values: Float32Array<ArrayBuffer>; // [rows, W]
  readonly #plan: readonly PlannedRow[];
  readonly #width: number;
  readonly #sums = new Map<number, Float64Array>(); // of rows that have begun
  #next: number | undefined; // the position that must come next
  #open = 0; // rows before this one are finished, if rows end in order

  constructor(plan: readonly PlannedRow[], width: number) {
    this.values = new Float32Array(plan.length * width);
    this.#plan = plan;
    this.#width = width;
  }

  /**
   * Takes one position.
   *
   * @param vector [W]; read at once, not kept
   * @throws {RangeError} if positions don't follow each other, or the first row has begun before the first of them.
   */
  add(position: number, vector: Float32Array): void {
    const expected = this.#next ?? Math.min(position, this.#plan[0]?.first ?? position);
    if (position !== expected) throw new RangeError(`position ${position} came where ${expected} was expected`);
    this.#next = position + 1;
    while ((this.#plan[this.#open]?.last ?? Infinity) < position) this.#open++;
    for (let index = this.#open; index < this.#plan.length; index++) {
      const planned = this.#plan[index];
      if (!planned || planned.first > position) break;
      if (planned.last >= position) this.#addTo(index, planned, position, vector);
    }
  }

  /** Whether every row has had all its positions. */
  get finished(): boolean {
    const last = this.#plan.at(-1);
    return this.#sums.size === 0 && (last === undefined || (this.#next ?? 0) > last.last);
  }

  #addTo(index: number, { first, last }: PlannedRow, position: number, vector: Float32Array): void {
    const start = index * this.#width;
    if (first === last) return this.values.set(vector, start);
    let sum = this.#sums.get(index);
    if (!sum) this.#sums.set(index, (sum = new Float64Array(this.#width)));
    for (let i = 0; i < this.#width; i++) sum[i] = (sum[i] ?? 0) + (vector[i] ?? 0);
    if (position !== last) return;
    const count = last - first + 1;
    for (let i = 0; i < this.#width; i++) this.values[start + i] = (sum[i] ?? 0) / count;
    this.#sums.delete(index);
  }
}
