import { UsageError } from "../errors.js";
import { condition, disposeConditioning, type Conditioning } from "./conditioning.js";
import type { MelodyConfig } from "./checkpoint.js";
import { delayPattern, type Codes, type FrameRange } from "./delay.js";
import {
  generateCodes,
  isPassStop,
  passCount,
  type CompletedFrames,
  type GeneratedCodes,
  type GenerationObserver,
  type GenerationPlan,
} from "./generation.js";
import { melodyWindow, type Melody } from "./melody.js";
import type { LoadedDecoder } from "./networks.js";
import type { PassStop } from "./pass.js";
import type { EncodedTexts } from "./text-states.js";

/**
 * Clips that are longer than what the model was trained on, in windows as audiocraft makes them: each window begins a
 * stride after the one before, reads the frames that both cover as its prompt, and adds new ones. Frames are carried over
 * as codes and never encoded again, and the codec decodes all of them in one go, so no seam is to be heard for a technical
 * reason; what the music does there is up to the model, which hears only as far back as its window.
 */

/** A window of a clip: the frames that it covers, of which the first are known. */
export interface ClipWindow extends FrameRange {
  readonly known: number;
}

/** How far a model reaches, and how far windows lie apart, in frames. */
export interface WindowRule {
  readonly length: number; // W: what the model was trained on
  readonly stride: number; // from one window's start to the next one's, 1 … W − 1
}

/**
 * Splits a clip into windows. A clip that the model can make at once is one window. A prompt that fills a window is read
 * from where its last W − stride frames begin: that is all that audiocraft's windows hear of what came before, too.
 *
 * @param frames F, of the whole clip
 * @param promptFrames its first ones, which are given; fewer than F
 */
export function planWindows(
  frames: number,
  promptFrames: number,
  { length, stride }: WindowRule,
): readonly ClipWindow[] {
  const windows: ClipWindow[] = [];
  let first = promptFrames < length || frames <= length ? 0 : promptFrames - (length - stride);
  let done = promptFrames;
  while (done < frames) {
    const end = Math.min(frames, first + length);
    windows.push({ first, end, known: done - first });
    done = end;
    first += stride;
  }
  return windows;
}

/** A clip to generate, in as many windows as it takes. */
export interface ClipPlan extends Omit<GenerationPlan, "window" | "memory" | "later" | "prefix" | "passesBefore"> {
  readonly windows: readonly ClipWindow[];
  readonly encoded: EncodedTexts | undefined;
  readonly melody: MelodyConfig | undefined; // how the model reads melodies
  readonly melodies: readonly Melody[]; // none, one for all clips, or one for each; they move along with the windows
  readonly windowSeconds: number; // length of a full window
}

/**
 * Generates the codes of whole clips, window after window.
 *
 * Yields every wanted site of every pass, and all frames in order as they are complete, each once, those of the prompt
 * first. Ending it early frees all it holds.
 */
export async function* generateWindows(
  decoder: LoadedDecoder,
  plan: ClipPlan,
  { taps, onStep, signal }: GenerationObserver,
): AsyncGenerator<PassStop | CompletedFrames, GeneratedCodes, void> {
  const { codebooks, codebookSize, audioChannels } = decoder.config;
  const pattern = delayPattern(codebooks, audioChannels, codebookSize);
  const later = plan.encoded?.later ?? [];
  const passes = plan.windows.map((window) => passCount(window, window.known, pattern, later));
  const total = passes.reduce((sum, count) => sum + count, 0);
  const clips = Array.from({ length: plan.rows.batch }, (_, item) => new GrowingCodes(codebooks, plan.prompt?.[item]));
  if (plan.prompt) yield { first: 0, codes: plan.prompt };

  let conditioning: Conditioning | undefined;
  let passesBefore = 0;
  try {
    for (const [index, window] of plan.windows.entries()) {
      if (!conditioning || plan.melodies.length > 0) {
        if (conditioning) disposeConditioning(conditioning);
        conditioning = undefined;
        conditioning = condition(decoder, plan.melody, plan.encoded, melodiesOf(plan, window), plan.rows);
      }
      const before = passesBefore;
      const walk = generateCodes(
        decoder,
        {
          ...plan,
          ...conditioning,
          window,
          prompt:
            window.known === 0 ? undefined : clips.map((clip) => clip.slice(window.first, window.first + window.known)),
          passesBefore,
        },
        { taps, signal, onStep: onStep && ((done) => onStep(before + done, total)) },
      );
      const { interrupted } = yield* appending(walk, clips);
      if (interrupted) return { codes: clips.map((clip) => clip.slice(0)), interrupted };
      passesBefore += passes[index] ?? 0;
    }
    return { codes: clips.map((clip) => clip.slice(0)), interrupted: false };
  } finally {
    if (conditioning) disposeConditioning(conditioning);
  }
}

/** What of the melodies a window hears: all of it where there is but one window. */
function melodiesOf(
  { melodies, windows, windowSeconds, frameRate }: ClipPlan,
  { first }: ClipWindow,
): readonly Melody[] {
  if (windows.length === 1 && first === 0) return melodies;
  return melodies.map((melody) => melodyWindow(melody, first / frameRate, windowSeconds));
}

/** Keeps the frames that a window completes, and lets them through. */
async function* appending(
  walk: AsyncGenerator<PassStop | CompletedFrames, GeneratedCodes, void>,
  clips: readonly GrowingCodes[],
): AsyncGenerator<PassStop | CompletedFrames, GeneratedCodes, void> {
  try {
    for (;;) {
      const next = await walk.next();
      if (next.done) return next.value;
      const stop = next.value;
      if (!isPassStop(stop)) stop.codes.forEach((codes, item) => clips[item]?.append(codes, stop.first));
      yield stop;
    }
  } finally {
    await walk.return(undefined as never); // no effect on a walk that has ended
  }
}

/** The codes of a clip as it grows. */
export class GrowingCodes {
  readonly #rows: number[][]; // K × [F so far]

  constructor(codebooks: number, start?: Codes) {
    this.#rows = Array.from({ length: codebooks }, () => []);
    if (start) this.append(start, 0);
  }

  /** F so far. */
  get frames(): number {
    return this.#rows[0]?.length ?? 0;
  }

  /**
   * Appends frames.
   *
   * @param first the first of them, counted from the start of the clip
   * @throws {RangeError} if frames would be missing between, or come twice.
   */
  append({ values, frames }: Codes, first: number): void {
    if (first !== this.frames) throw new RangeError(`frame ${first} came where ${this.frames} was expected`);
    this.#rows.forEach((row, k) => {
      for (const code of values.subarray(k * frames, (k + 1) * frames)) row.push(code);
    });
  }

  /** Frames `first` … `end − 1` of it. */
  slice(first: number, end: number = this.frames): Codes {
    const frames = end - first;
    const values = new Int32Array(this.#rows.length * frames);
    this.#rows.forEach((row, k) => values.set(row.slice(first, end), k * frames));
    return { values, codebooks: this.#rows.length, frames };
  }
}

/**
 * Checks how far windows lie apart.
 *
 * @param seconds from one window's start to the next one's
 * @param length W, in frames
 * @returns the same in frames
 * @throws {UsageError} if it isn't at least a frame and less than a window.
 */
export function strideFrames(seconds: number, length: number, frameRate: number): number {
  const frames = Math.floor(seconds * frameRate + 1e-6);
  if (Number.isFinite(seconds) && frames >= 1 && frames < length) return frames;
  throw new UsageError({
    asked: `windows ${seconds} s apart`,
    found: `a window is ${length / frameRate} s long, and each must begin inside the one before`,
    todo: `Choose more than 0 and less than ${length / frameRate} seconds`,
  });
}
