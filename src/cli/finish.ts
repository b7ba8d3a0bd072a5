import { cutLoop, loopMaterial } from "../audio/loop.js";
import { checkNormalization, normalizeAudio, type Normalization } from "../audio/normalize.js";
import { UsageError } from "../errors.js";
import type { Generation } from "../musicgen.js";

/** What is done to clips between the model and the file, where it was asked for: cutting a loop, and bringing to a level. */

/** The options that say so. */
export interface FinishOptions {
  readonly loop?: boolean;
  readonly loudness?: number;
  readonly normalize?: Normalization["strategy"];
  readonly compress?: boolean;
  readonly seconds?: number;
  readonly frames?: number;
  readonly stream?: boolean;
}

/** Finished clips, and what to tell of it. */
export interface Finished {
  readonly generation: Generation;
  readonly metadata: readonly Readonly<Record<string, unknown>>[]; // for each clip
  readonly lines: readonly string[];
}

const DEFAULT_SECONDS = 10;
const UNLIKE = 0.8; // below it a loop jumps in its content

/**
 * Checks the options, before any work.
 *
 * @returns how many seconds to generate, where a loop needs more than it will be long
 * @throws {UsageError} if one is out of range, or doesn't go with another.
 */
export function planFinish(options: FinishOptions): { readonly seconds: number | undefined } {
  const normalization = normalizationOf(options);
  if (normalization) checkNormalization(normalization);
  if (options.stream === true && (normalization || options.loop === true)) {
    throw new UsageError({
      asked: options.loop === true ? "--loop with --stream" : "a level with --stream",
      found: "sound that is written before its end is known",
      todo: "Leave out one of them",
    });
  }
  if (options.loop !== true) return { seconds: options.seconds };
  if (options.frames !== undefined) {
    throw new UsageError({
      asked: "--loop with --frames",
      found: "a loop is cut to the sample, where it fits the music",
      todo: "Give its length with --seconds",
    });
  }
  return { seconds: loopMaterial({ seconds: options.seconds ?? DEFAULT_SECONDS }) };
}

/** Finishes what was generated. @throws {AudioError} if it was interrupted before there was enough for the loop. */
export function finish(generation: Generation, options: FinishOptions): Finished {
  const normalization = normalizationOf(options);
  if (!normalization && options.loop !== true) return { generation, metadata: [], lines: [] };
  const lines: string[] = [];
  const metadata: Readonly<Record<string, unknown>>[] = [];
  const clips = generation.clips.map((clip) => {
    let { audio } = clip;
    let told: Readonly<Record<string, unknown>> = {};
    if (options.loop === true) {
      const { start, end, likeness, audio: loop } = cutLoop(audio, { seconds: options.seconds ?? DEFAULT_SECONDS });
      audio = loop;
      told = { loop: { start, end, likeness } };
      const seconds = ((end - start) / audio.sampleRate).toFixed(2);
      const warning = likeness < UNLIKE ? ": the music does not come by the same place again, try another seed" : "";
      lines.push(`loop of ${seconds} s whose ends are ${Math.round(100 * likeness)} % alike${warning}`);
    }
    if (normalization) {
      const { gain, clipped, audio: level } = normalizeAudio(audio, normalization);
      audio = level;
      told = { ...told, normalization: { ...normalization, gain } };
      const cut = clipped > 0 ? `, ${clipped} samples cut off` : "";
      lines.push(`${normalization.strategy}: ${gain >= 0 ? "+" : ""}${gain.toFixed(1)} dB${cut}`);
    }
    metadata.push(told);
    return { ...clip, audio };
  });
  return { generation: { ...generation, clips, audio: clips[0]?.audio ?? generation.audio }, metadata, lines };
}

/** `--loudness -14` is short for `--normalize loudness` with that target. */
function normalizationOf({ loudness, normalize, compress }: FinishOptions): Normalization | undefined {
  if (loudness !== undefined && normalize !== undefined && normalize !== "loudness") {
    throw new UsageError({
      asked: `--loudness ${loudness} with --normalize ${normalize}`,
      found: "two levels to bring one clip to",
      todo: "Choose one of them",
    });
  }
  const strategy = loudness === undefined ? normalize : "loudness";
  if (strategy !== undefined) return { strategy, target: loudness, compress };
  if (compress !== true) return undefined;
  throw new UsageError({
    asked: "--compress",
    found: "no loudness to bring the clip to",
    todo: "Give --loudness, for example --loudness -14",
  });
}
