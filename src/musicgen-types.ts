import type * as tf from "@tensorflow/tfjs-core";

import type { Hook, HookCount } from "./activations/hooks.js";
import type { Intervention } from "./activations/intervention.js";
import type { Audio } from "./audio/audio.js";
import type { Codes } from "./model/delay.js";
import type { ForwardPlan } from "./model/forward.js";
import type { Residency } from "./model/memory-plan.js";
import type { Melody } from "./model/melody.js";
import type { Clip } from "./model/pipeline.js";
import type { GenerateOptions, TextInput } from "./model/request.js";
import type { AudioBlock } from "./model/streaming.js";
import type { TimedText } from "./model/timed-text.js";
import type { CacheStorage } from "./runtime/attention.js";
import type { BackendName } from "./runtime/backend.js";
import type { Precision, WeightStorage } from "./runtime/linear.js";

/** What the methods of `MusicGen` take and give. */

/** A text as it was given, or a list of one for each clip; null: token ids, or none. */
export type WrittenText = string | readonly string[] | null;

/** Everything needed to make a clip again; written into its metadata. */
export interface GenerationSettings extends Numerics {
  readonly tonearm: string; // version
  readonly model: string; // fingerprint of the weights
  readonly backend: BackendName;
  /** Null also where token ids were given. Over time: each text with the frame that it holds from. */
  readonly text: WrittenText | readonly { readonly fromFrame: number; readonly text: WrittenText }[];
  readonly negative: string | readonly string[] | null;
  readonly frames: number;
  readonly promptFrames: number;
  readonly count: number;
  readonly stride: number | null; // seconds between windows; null where one was enough
  readonly melody: boolean; // whether one was followed
  readonly seed: number | readonly number[]; // a list has one for each clip
  readonly guidance: number;
  readonly greedy: boolean;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly steering: Intervention["record"] | null;
}

/** What `generate` returns: plain host data, nothing to dispose. */
export interface Generation {
  readonly clips: readonly Clip[];
  readonly audio: Audio; // the first clip's
  readonly codes: Codes; // the first clip's
  readonly seed: number; // the first clip's
  readonly interrupted: boolean; // whether the signal ended it: then clips hold what was complete
  readonly settings: GenerationSettings;
  readonly hooks: readonly HookCount[]; // how often each hook was called
}

/** What turns the last residual stream into logits: `((x − mean) / scale · gain + bias) · heads`. */
export interface Unembedding {
  readonly gain: tf.Tensor1D; // [D], of the final layer norm
  readonly bias: tf.Tensor1D; // [D]
  readonly heads: tf.Tensor3D; // [D, K, V]
}

/** How a model is loaded. */
export interface LoadOptions {
  /** The tensor backend; without it the best one that is usable. */
  readonly backend?: string | undefined;
  /** Whether the networks share the memory or take turns; without it whichever fits. */
  readonly residency?: Residency | undefined;
  /** Read each network's weights when they are first needed, instead of now. Networks that take turns always are. */
  readonly onDemand?: boolean | undefined;
  /**
   * How the native backend stores the decoder's matrices; without it in 16 bits where that loses nothing and in 32
   * elsewhere. `int8` and `int4` are smaller and faster, and not exact.
   */
  readonly weights?: WeightStorage | undefined;
  /**
   * How the native backend keeps the keys and values of a generation; without it as `f32`. `f16` rounds them, and takes
   * half the memory. Hooks see what was computed, unrounded. Teacher-forced passes always keep float32.
   */
  readonly cache?: CacheStorage | undefined;
  /**
   * What the native backend rounds both factors of the decoder's products to, in passes over 24 rows (clips × guidance ×
   * positions) or more; without it nothing. `bf16` is not exact; it is fast on processors that multiply bfloat16.
   */
  readonly compute?: Precision | undefined;
}

/** What decides, besides weights and backend, which numbers a model computes. All of it is exact by default. */
export interface Numerics {
  readonly weights: WeightStorage;
  readonly cache: CacheStorage;
  readonly compute: Precision;
}

/** What a teacher-forced pass runs over. */
export interface ForwardOptions {
  /** Null: no text at all. A text over time makes it one pass for each of its segments. */
  readonly text: TextInput | TimedText | null;
  /** A melody for the rows with the text, or one for each item. Melody models only. */
  readonly melody?: Melody | readonly Melody[] | undefined;
  /** The codes of each item, all of one length. They are laid out along the delay pattern. */
  readonly codes: Codes | readonly Codes[];
  /** Which rows to run: with the text (default), without, or both, as guidance does. */
  readonly rows?: readonly ("cond" | "null")[] | undefined;
  readonly startAt?: ForwardPlan["startAt"];
  readonly stopAt?: ForwardPlan["stopAt"];
}

/** `generate` with hooks. */
export interface HookedGenerateOptions extends GenerateOptions {
  readonly hooks?: readonly Hook[] | undefined;
  /** Made by `steer`. It acts before the hooks do, and is written into the settings. */
  readonly steering?: Intervention | undefined;
}

/** `stream` takes what `generate` does. */
export interface StreamOptions extends HookedGenerateOptions {
  /** Length of a block. Shorter ones come sooner and cost a little more. Default: 1. */
  readonly blockSeconds?: number | undefined;
}

/** Sound to be generated while it is listened to. */
export interface AudioStream {
  readonly settings: GenerationSettings;
  readonly sampleRate: number;
  readonly channels: number;
  readonly samples: number; // of each clip, per channel, if nothing ends it early
  [Symbol.asyncIterator](): AsyncGenerator<AudioBlock, StreamEnd, void>;
}

/** What a stream returns at its end. */
export interface StreamEnd {
  readonly codes: readonly Codes[]; // one per clip
  readonly interrupted: boolean; // whether the signal ended it
  readonly hooks: readonly HookCount[];
}
