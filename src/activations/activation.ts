import type * as tf from "@tensorflow/tfjs-core";

import { frameAt } from "../model/delay.js";
import { describeRows, type RowRole } from "../model/guidance.js";
import type { DecoderContext, PassContext, PassStop } from "../model/pass.js";
import type { Announcement } from "../runtime/announce.js";

/** A row of an activation: what it is for, and which clip it belongs to. */
export interface ActivationRow {
  readonly role: RowRole | "text" | "audio"; // the last two: outside the decoder
  readonly item: number; // the clip; for the text encoder, the text
}

/**
 * An activation at a site, with everything that tells where it stands. It is what a walk yields and what a hook is told.
 *
 * `value` belongs to the network and is freed when its block ends: `tf.clone` it to keep it.
 */
export class Activation {
  readonly site: string;
  readonly pass: PassContext;
  readonly #announcement: Announcement;

  constructor({ announcement, pass }: PassStop) {
    this.site = announcement.site;
    this.pass = pass;
    this.#announcement = announcement;
  }

  /** The tensor, or what it was replaced by. */
  get value(): tf.Tensor {
    return this.#announcement.result;
  }

  /**
   * The network goes on with `tensor` instead, and owns it from here on.
   *
   * @throws {SiteError} if its shape or dtype is not the value's.
   */
  replace(tensor: tf.Tensor): void {
    this.#announcement.replace(tensor);
  }

  /** The block that the site lies in, from 0; undefined outside blocks. */
  get layer(): number | undefined {
    return layerOf(this.site);
  }

  /** "forward" teacher-forced; "prefill" and "decode" while generating; "text"; "encode" and "decode-audio" in the codec. */
  get phase(): PassContext["phase"] {
    return this.pass.phase;
  }

  /** Passes of this generation before this one; 0 outside the decoder. */
  get step(): number {
    return "step" in this.pass ? this.pass.step : 0;
  }

  /**
   * Absolute positions of this pass, one for each of the T entries of the position axis. In the decoder 0 is the BOS
   * column; in the text encoder they are tokens; in the codec there are none.
   */
  get positions(): readonly number[] {
    if (isDecoder(this.pass)) return range(this.pass.firstPosition, this.pass.positions);
    return this.pass.phase === "text" ? range(0, this.pass.tokens) : [];
  }

  /**
   * When each position sounds: the start of the frame that its first codebook carries, in seconds. The BOS column lies one
   * frame before 0. Empty outside the decoder.
   */
  get seconds(): readonly number[] {
    const { pass } = this;
    return isDecoder(pass) ? this.positions.map((position) => (position - 1) / pass.frameRate) : [];
  }

  /** Role and clip of each row of the tensor's first axis. Sites of the cross-attention have only the rows with a text. */
  get rows(): readonly ActivationRow[] {
    const { pass } = this;
    if (isDecoder(pass)) return describeRows(pass.rows).slice(0, this.value.shape[0]);
    if (pass.phase === "text") return range(0, pass.texts).map((item) => ({ role: "text", item }));
    return [{ role: "audio", item: pass.item }];
  }

  /**
   * The frame that a codebook carries at each position of this pass, undefined where the delay pattern has a pad token.
   * Empty outside the decoder.
   */
  frames(codebook: number): readonly (number | undefined)[] {
    const { pass } = this;
    if (!isDecoder(pass)) return [];
    const delay = pass.pattern.delays[codebook];
    if (delay === undefined) return [];
    return this.positions.map((position) => frameAt(position, delay, pass.frames));
  }
}

/** Whether a pass is the decoder's. */
export function isDecoder(pass: PassContext): pass is DecoderContext {
  return "firstPosition" in pass;
}

/** The block that a site lies in, of the decoder or the text encoder, from 0. */
export function layerOf(site: string): number | undefined {
  const match = /(?:^|\.)blocks\.(\d+)\./.exec(site);
  return match ? Number(match[1]) : undefined;
}

function range(first: number, count: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}
