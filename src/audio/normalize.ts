import { UsageError } from "../errors.js";
import { checkAudio, mixDown, peak, rootMeanSquare, type Audio } from "./audio.js";
import { loudness } from "./loudness.js";

/** How loud a sound is written: audiocraft's four strategies, with its targets as defaults. */

/** What is brought to a target. */
export const NORMALIZATIONS = ["loudness", "peak", "rms", "clip"] as const;

export type NormalizationStrategy = (typeof NORMALIZATIONS)[number];

/** How to normalise. */
export interface Normalization {
  /**
   * `loudness`: loudness as ITU-R BS.1770 measures it, cut at full scale. `peak`: the largest sample. `rms`: the root mean
   * square of the channels' mean, cut at full scale. `clip`: no gain; what exceeds the target is cut.
   */
  readonly strategy: NormalizationStrategy;
  /** In LUFS for `loudness`, else in dB of full scale; at most 0. Default: −14, −1, −18, −1. */
  readonly target?: number | undefined;
  /** With `loudness`: bend what comes near full scale with a hyperbolic tangent instead of cutting it. Default: false. */
  readonly compress?: boolean | undefined;
}

/** A sound and what was done to it. */
export interface Normalized {
  readonly audio: Audio;
  readonly gain: number; // dB; 0 where it was left as it is
  readonly clipped: number; // samples that were cut
}

const TARGETS: Readonly<Record<NormalizationStrategy, number>> = { loudness: -14, peak: -1, rms: -18, clip: -1 };
const LOWEST = -100; // dB
const FLOOR = 2e-3; // root mean square below which loudness is left alone, as in audiocraft

/**
 * Brings a sound to a level. Silence stays as it is, and with `loudness` so does what is nearly silent.
 *
 * Loudness is measured as the standard says; audiocraft's measure has slightly other filters.
 *
 * @throws {UsageError} if an option is out of range; {@link AudioError} if the sound can't be used.
 */
export function normalizeAudio(audio: Audio, options: Normalization): Normalized {
  checkNormalization(options);
  checkAudio(audio, "normalise a sound");
  const { strategy, compress = false } = options;
  const target = options.target ?? TARGETS[strategy];
  const gain = gainOf(audio, strategy, target);
  const factor = 10 ** (gain / 20);
  const limit = strategy === "clip" ? 10 ** (target / 20) : 1;
  let clipped = 0;
  const bend = (sample: number): number => {
    const louder = compress ? Math.tanh(factor * sample) : factor * sample;
    if (Math.abs(louder) <= limit) return louder;
    clipped++;
    return Math.sign(louder) * limit;
  };
  return { audio: { ...audio, channels: audio.channels.map((channel) => channel.map(bend)) }, gain, clipped };
}

/** @throws {UsageError} if an option is out of range. */
export function checkNormalization({ strategy, target, compress }: Normalization): void {
  const refuse = (asked: string, found: string, todo: string): UsageError => new UsageError({ asked, found, todo });
  if (!NORMALIZATIONS.includes(strategy)) {
    const all = NORMALIZATIONS.join(", ");
    throw refuse(`normalisation "${strategy}"`, `there are ${all}`, "Choose one of them");
  }
  if (target !== undefined && !(target >= LOWEST && target <= 0)) {
    throw refuse(`a target of ${target} dB`, "full scale is 0", `Choose a number from ${LOWEST} to 0`);
  }
  if (compress === true && strategy !== "loudness") {
    throw refuse(`compression with "${strategy}"`, "it belongs to loudness", "Leave it out, or normalise the loudness");
  }
}

function gainOf(audio: Audio, strategy: NormalizationStrategy, target: number): number {
  switch (strategy) {
    case "clip":
      return 0;
    case "peak":
      return gainTo(target, toDecibels(peak(audio)));
    case "rms":
      return gainTo(target, toDecibels(rootMeanSquare(mixDown(audio))));
    case "loudness":
      return rootMeanSquare(audio) < FLOOR ? 0 : gainTo(target, loudness(audio));
  }
}

/** Silence has no level to start from. */
function gainTo(target: number, level: number): number {
  return Number.isFinite(level) ? target - level : 0;
}

function toDecibels(value: number): number {
  return 20 * Math.log10(value);
}
