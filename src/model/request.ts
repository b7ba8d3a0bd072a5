import type { Audio } from "../audio/audio.js";
import { UsageError } from "../errors.js";
import type { TokenBatch } from "../text/tokenizer.js";
import type { MusicGenConfig } from "./checkpoint.js";
import type { Rows } from "./guidance.js";
import { planWindows, strideFrames, type ClipWindow } from "./long-form.js";
import type { Melody } from "./melody.js";
import { checkSampling, DEFAULT_SAMPLING, type SamplingOptions } from "./sampling.js";
import { textInputs, type TimedText } from "./timed-text.js";

/** One text for all clips, a text for each, or token ids with one row for all or for each. */
export type TextInput = string | readonly string[] | TokenBatch;

/** How far a generation is. */
export interface Progress {
  readonly stage: "text" | "prompt" | "tokens" | "audio";
  readonly done: number;
  readonly total: number;
}

/** What to generate. */
export interface GenerateOptions {
  /**
   * What the music should be, for all of the clip or changing over time: `[{ text: "jazz" }, { from: 8, text: "electronic" }]`.
   * Without it the model plays unconditionally, unguided.
   */
  readonly text?: TextInput | TimedText | undefined;
  /** What it should not be: guidance then steers away from this text instead of from no text. */
  readonly negative?: TextInput | undefined;
  /**
   * A sound to continue, or one for each clip: resampled and mixed to what the model needs. Its codes are the clip's
   * first frames.
   */
  readonly promptAudio?: Audio | readonly Audio[] | undefined;
  /** Continue from only so many seconds at the end of the prompt; what comes before them is left out of the clip. */
  readonly promptSeconds?: number | undefined;
  /**
   * A melody to follow, or one for each clip: a sound, of which the strongest pitch class counts, or chroma. Melody models
   * only. Drums and bass drown a tune: sum the stems that carry it with `mixStems`.
   */
  readonly melody?: Melody | readonly Melody[] | undefined;
  /** Length of the clip, the audio prompt included. The clip is cut to the exact sample. Default: 10. */
  readonly seconds?: number | undefined;
  /** Length in codec frames instead, the audio prompt included. */
  readonly frames?: number | undefined;
  /**
   * A clip longer than what the model was trained on (30 s) is made in windows of that length; this is how many seconds
   * lie between the starts of two. The rest of a window is what the next one hears of it. Default: 0.6 of a window (18 s),
   * as in audiocraft.
   */
  readonly stride?: number | undefined;
  /** How many clips, numbered from item 0. Default: 1. */
  readonly count?: number | undefined;
  /**
   * Any 32-bit integer; without it one is drawn and reported. A clip depends on seed and item alone. A list has one for each
   * clip, which then is the one that `generate` makes of that seed alone.
   */
  readonly seed?: number | readonly number[] | undefined;
  /** How strongly the text is followed; 1 turns guidance off. Default: the checkpoint's, else 3. */
  readonly guidance?: number | undefined;
  readonly greedy?: boolean | undefined;
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Ends early: the clips then hold what was complete. */
  readonly signal?: AbortSignal | undefined;
}

/** The same with every default filled in and every number checked. */
export interface ResolvedRequest {
  readonly frames: number; // F
  readonly samples: number; // N, of one channel
  readonly windows: readonly ClipWindow[]; // that the F are made in
  readonly count: number; // B
  readonly seed: number; // of the first clip
  readonly seeds: readonly number[] | undefined; // one for each clip, where each was given its own
  readonly guidance: number;
  readonly sampling: SamplingOptions;
}

const DEFAULT_SECONDS = 10;
const DEFAULT_STRIDE = 0.6; // of a window: audiocraft's 18 of 30 s
const MAX_COUNT = 64; // beyond it the rows no longer fit any backend, and a second call serves as well
const WHOLE = 1e-6; // seconds · frame rate this close to a whole number is meant to be one

/**
 * Fills in defaults and checks ranges, before any work starts.
 *
 * @param promptFrames frames of the audio prompt, 0 without one
 * @throws {UsageError} naming the option, its value and its range.
 */
export function resolveRequest(
  options: GenerateOptions,
  { generation, codec }: MusicGenConfig,
  promptFrames: number,
): ResolvedRequest {
  const sampling: SamplingOptions = {
    greedy: options.greedy ?? DEFAULT_SAMPLING.greedy,
    temperature: options.temperature ?? DEFAULT_SAMPLING.temperature,
    topK: options.topK ?? DEFAULT_SAMPLING.topK,
    topP: options.topP ?? DEFAULT_SAMPLING.topP,
  };
  checkSampling(sampling);
  const guidance = options.guidance ?? generation.guidance;
  requireThat(Number.isFinite(guidance) && guidance >= 0, `guidance ${guidance}`, "a number from 0 up; 1 turns it off");
  const count = resolveCount(options);
  const { seed, seeds } = resolveSeeds(options.seed);

  const { frames, samples } = resolveLength(options, codec);
  const length = generation.maxFrames;
  const stride =
    options.stride === undefined
      ? Math.max(1, Math.floor(DEFAULT_STRIDE * length))
      : strideFrames(options.stride, length, codec.frameRate);
  if (promptFrames >= frames) {
    throw new UsageError({
      asked: `continue an audio prompt of ${inSeconds(promptFrames, codec.frameRate)}`,
      found: `a clip of ${inSeconds(frames, codec.frameRate)} in all leaves nothing to generate`,
      todo: "Ask for a longer clip (its length includes the prompt) or give a shorter prompt",
    });
  }
  const windows = planWindows(frames, promptFrames, { length, stride });
  return { frames, samples, windows, count, seed, seeds, guidance, sampling };
}

function resolveSeeds(given: GenerateOptions["seed"]): Pick<ResolvedRequest, "seed" | "seeds"> {
  const seeds = typeof given === "object" ? given : [given ?? Math.floor(Math.random() * 2 ** 32)];
  const range = "a whole number from -2147483648 to 4294967295";
  for (const seed of seeds) requireThat(isWhole(seed, -(2 ** 31), 2 ** 32 - 1), `seed ${seed}`, range);
  return { seed: seeds[0] ?? 0, seeds: typeof given === "object" ? given : undefined };
}

/** How many clips: `count`, which lists of texts and prompts must match. */
function resolveCount({ count, text, negative, promptAudio, melody, seed }: GenerateOptions): number {
  const lists = [
    ...textInputs(text ?? "").map((one) => ["text", items(one)] as const),
    ["negative", items(negative)],
    ["promptAudio", Array.isArray(promptAudio) ? promptAudio.length : 1],
    ["melody", Array.isArray(melody) ? melody.length : 1],
    ["seed", typeof seed === "object" ? seed.length : 1],
  ] as const;
  const chosen = count ?? Math.max(...lists.map(([, length]) => length));
  requireThat(isWhole(chosen, 1, MAX_COUNT), `count ${chosen}`, `a whole number from 1 to ${MAX_COUNT}`);
  for (const [name, length] of lists) {
    requireThat(length === 1 || length === chosen, `${length} items of ${name} for ${chosen} clips`, `1 or ${chosen}`);
  }
  return chosen;
}

/** How many texts an input holds. */
function items(input: TextInput | undefined): number {
  if (input === undefined || typeof input === "string") return 1;
  return "ids" in input ? input.batch : input.length;
}

/**
 * The rows that a generation runs: with a text or melody and guidance two for each clip, the second without them or with
 * the negative text.
 */
export function planRows({ count, guidance }: ResolvedRequest, hasCondition: boolean, hasNegative: boolean): Rows {
  if (!hasCondition) return { batch: count, roles: ["null"] };
  if (guidance === 1) return { batch: count, roles: ["cond"] };
  return { batch: count, roles: ["cond", hasNegative ? "negative" : "null"] };
}

/** Length of a clip in frames and samples. @throws {UsageError} */
export function resolveLength(
  { seconds, frames }: GenerateOptions,
  { frameRate, hop, sampleRate }: MusicGenConfig["codec"],
): { frames: number; samples: number } {
  if (frames !== undefined) {
    if (seconds !== undefined) {
      throw new UsageError({
        asked: `${seconds} seconds and ${frames} frames`,
        found: "two lengths for one clip",
        todo: `Give one of them; a second has ${frameRate} frames`,
      });
    }
    requireThat(isWhole(frames, 1, Infinity), `${frames} frames`, "a whole number from 1 up");
    return { frames, samples: frames * hop };
  }
  const length = seconds ?? DEFAULT_SECONDS;
  requireThat(Number.isFinite(length) && length > 0, `a clip of ${length} seconds`, "a number of seconds above 0");
  const needed = Math.max(1, Math.ceil(length * frameRate - WHOLE));
  return { frames: needed, samples: Math.max(1, Math.min(needed * hop, Math.round(length * sampleRate))) };
}

function isWhole(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}

function requireThat(holds: boolean, asked: string, range: string): void {
  if (!holds) throw new UsageError({ asked, found: `it must be ${range}`, todo: `Choose ${range}` });
}

function inSeconds(frames: number, frameRate: number): string {
  return `${frames / frameRate} s (${frames} frames)`;
}
