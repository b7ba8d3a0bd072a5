import type * as tf from "@tensorflow/tfjs-core";

import { SiteError, UsageError } from "../errors.js";
import { frameAt } from "../model/delay.js";
import { describeRows, type RowRole } from "../model/guidance.js";
import type { PrefixLength } from "../model/melody.js";
import {
  absolutePositions,
  NO_PREFIX,
  prefixSize,
  type DecoderContext,
  type PassContext,
  type PassStop,
} from "../model/pass.js";
import type { Announcement } from "../runtime/announce.js";

/** A row of an activation: what it is for, and which clip it belongs to. */
export interface ActivationRow {
  readonly role: RowRole | "guided" | "text" | "audio"; // guided: both rows of an item as one; the last two: no decoder
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

  /**
   * The tensor, or what it was replaced by.
   *
   * @throws {SiteError} if it is freed: its block has ended, or a consumer disposed it.
   */
  get value(): tf.Tensor {
    const { result } = this.#announcement;
    if (!result.isDisposed) return result;
    throw new SiteError({
      asked: `read the activation at ${this.site}`,
      found: "its tensor is freed: it was disposed, or the network has gone on from there",
      todo: "tf.clone an activation that you keep, while the walk is there; leave disposing to the network",
    });
  }

  /** Whether the tensor is freed, so that reading {@link value} throws. */
  get isFreed(): boolean {
    return this.#announcement.result.isDisposed;
  }

  /**
   * The network goes on with `tensor` instead, and owns it from here on.
   *
   * @throws {SiteError} if its shape or dtype is not the value's, or the network has gone on already.
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
   * Which of the texts over time the rows with a text read by cross-attention, from 0. A pass reads one: where another
   * takes over within an audio prompt or given codes, they are read in several passes. Undefined where none is read.
   */
  get textSegment(): number | undefined {
    return "textSegment" in this.pass ? this.pass.textSegment : undefined;
  }

  /** The channel that a pass of the codec is over, 0: mono or left; undefined outside the codec. */
  get channel(): number | undefined {
    return "channel" in this.pass ? this.pass.channel : undefined;
  }

  /**
   * Absolute positions, one for each entry of the value's position axis (of an attention pattern: its queries). In the
   * decoder 0 is the BOS column; logits of a generation are made for the last position only. What a melody model reads
   * before the BOS column, the rows of its melody and then the text, has negative positions: {@link prefix} tells how
   * many. In a later window of a long clip, the BOS column stands at the position before the window's first frame. In the
   * text encoder, and for the keys and values of the cross-attention, positions are text tokens. In the codec there are
   * none.
   */
  get positions(): readonly number[] {
    const { pass } = this;
    if (pass.phase === "text") return range(0, pass.tokens);
    if (!isDecoder(pass)) return [];
    if (this.#overTokens) return range(0, this.#announcement.result.shape[1] ?? 0);
    const all = absolutePositions(pass);
    if (!LOGITS.test(this.site)) return all;
    return all.slice(all.length - (this.#announcement.result.shape[2] ?? 0)); // the last one, or all but a prefix's
  }

  /** How many of {@link positions} hold the melody and the text, before the BOS column: 0 but in a melody model's first pass. */
  get prefix(): PrefixLength {
    const { pass } = this;
    const none = !isDecoder(pass) || this.#overTokens || LOGITS.test(this.site);
    return none ? NO_PREFIX : pass.prefix;
  }

  /**
   * When each of {@link positions} sounds: the start of the frame that its first codebook carries, in seconds. The BOS
   * column lies one frame before 0. NaN before it: melody and text sound at no time. Empty where positions are not the
   * decoder's.
   */
  get seconds(): readonly number[] {
    const { pass } = this;
    if (!isDecoder(pass) || this.#overTokens) return [];
    return this.positions.map((position, index) =>
      index < prefixSize(this.prefix) ? NaN : (position - 1) / pass.frameRate,
    );
  }

  /**
   * Role and clip of each row of the tensor's first axis. Sites of the cross-attention have only the rows with a text;
   * `hook_pos_embed` is shared by all rows and has none of its own.
   */
  get rows(): readonly ActivationRow[] {
    const { pass } = this;
    if (pass.phase === "text") return range(0, pass.texts).map((item) => ({ role: "text", item }));
    if (!isDecoder(pass)) return [{ role: "audio", item: pass.item }];
    if (this.site === "hook_pos_embed") return [];
    const { batch } = pass.rows;
    if (this.site === "hook_guided_logits") return range(0, batch).map((item) => ({ role: "guided", item }));
    return describeRows(pass.rows).slice(0, this.#announcement.result.shape[0]);
  }

  /**
   * The frame that a codebook carries at each of {@link positions}, undefined where the delay pattern has a pad token.
   * The logits at a position are for what comes at the next one. Empty where positions are not the decoder's.
   */
  frames(codebook: number): readonly (number | undefined)[] {
    const { pass } = this;
    if (!isDecoder(pass) || this.#overTokens) return [];
    const delay = pass.pattern.delays[codebook];
    if (delay === undefined) {
      throw new UsageError({
        asked: `the frames of codebook ${codebook}`,
        found: `a model of ${pass.pattern.delays.length} codebooks`,
        todo: `Give 0 … ${pass.pattern.delays.length - 1}`,
      });
    }
    return this.positions.map((position, index) =>
      index < prefixSize(this.prefix) ? undefined : frameAt(position, delay, pass.window),
    );
  }

  /** Whether the position axis counts text tokens, inside the decoder. */
  get #overTokens(): boolean {
    return /\.cross_attn\.hook_[kv]$/.test(this.site);
  }
}

/** Whether a pass is the decoder's. */
export function isDecoder(pass: PassContext): pass is DecoderContext {
  return "firstPosition" in pass;
}

const LOGITS = /^hook_(guided_)?logits$/;

/** The block that a site lies in, of the decoder or the text encoder, from 0. */
export function layerOf(site: string): number | undefined {
  const match = /(?:^|\.)blocks\.(\d+)\./.exec(site);
  return match ? Number(match[1]) : undefined;
}

function range(first: number, count: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}
