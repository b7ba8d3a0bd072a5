import type { Announcement } from "../runtime/announce.js";
import type { DelayPattern } from "./delay.js";
import type { Rows } from "./guidance.js";

/**
 * Where a pass through the decoder stands: what a consumer needs to know to address an activation by position, second,
 * frame, row or step.
 */
export interface PassContext {
  /** Teacher-forced over given codes, the first pass of a generation, or one step of it. */
  readonly phase: "forward" | "prefill" | "decode";
  readonly step: number; // passes made before this one
  readonly firstPosition: number; // absolute; 0 is the BOS column
  readonly positions: number; // T
  readonly rows: Rows;
  readonly pattern: DelayPattern;
  readonly frames: number; // F, of the whole sequence
  readonly frameRate: number; // frames per second
}

/** An announcement and where its pass stands. */
export interface PassStop {
  readonly announcement: Announcement;
  readonly pass: PassContext;
}
