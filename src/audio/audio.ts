import { AudioError } from "../errors.js";

/** A sound on the host: one array of samples per channel, all of one length, nominally −1 … 1. */
export interface Audio {
  readonly sampleRate: number; // samples per second
  readonly channels: readonly Float32Array[];
}

/** Samples per channel. */
export function sampleCount({ channels }: Audio): number {
  return channels[0]?.length ?? 0;
}

/** Length in seconds. */
export function duration(audio: Audio): number {
  return sampleCount(audio) / audio.sampleRate;
}

/** The mean of all channels as one; a sound of one channel is returned as it is. */
export function mixDown(audio: Audio): Audio {
  const { sampleRate, channels } = audio;
  if (channels.length === 1) return audio;
  const mono = Float32Array.from({ length: sampleCount(audio) }, (_, index) => {
    const sum = channels.reduce((total, channel) => total + (channel[index] ?? NaN), 0);
    return sum / channels.length;
  });
  return { sampleRate, channels: [mono] };
}

/**
 * The same sound on `count` channels, as audiocraft: one channel is repeated, to one channel all are averaged, and of
 * more channels than wanted the first ones stay, which are left and right in every common order.
 *
 * Channels are not copied.
 *
 * @throws {AudioError} if several channels would have to become more.
 */
export function toChannels(audio: Audio, count: number): Audio {
  const { sampleRate, channels } = audio;
  const [first] = channels;
  if (channels.length === count) return audio;
  if (count === 1) return mixDown(audio);
  if (channels.length > count) return { sampleRate, channels: channels.slice(0, count) };
  if (channels.length === 1 && first) return { sampleRate, channels: Array.from({ length: count }, () => first) };
  throw new AudioError({
    asked: `use a sound on ${count} channels`,
    found: `${channels.length} channels`,
    todo: `Give one channel, or at least ${count}`,
  });
}

/**
 * The sum of stems, such as the vocals and the other instruments of a separated piece, on one channel. What is shorter is
 * continued by silence.
 *
 * @throws {AudioError} if they have different sample rates, or there are none.
 */
export function mixStems(stems: readonly Audio[]): Audio {
  const rates = [...new Set(stems.map(({ sampleRate }) => sampleRate))];
  const [sampleRate, other] = rates;
  if (sampleRate === undefined || other !== undefined) {
    throw new AudioError({
      asked: "sum stems",
      found: sampleRate === undefined ? "none" : `sample rates of ${rates.join(" and ")}`,
      todo: "Give stems of one piece, all at one sample rate",
    });
  }
  const sum = new Float32Array(Math.max(...stems.map(sampleCount)));
  for (const stem of stems) {
    mixDown(stem).channels[0]?.forEach((sample, n) => (sum[n] = (sum[n] ?? 0) + sample));
  }
  return { sampleRate, channels: [sum] };
}

/** The end of a sound: its last `seconds`, or all of it if it is shorter. Samples are not copied. */
export function lastSeconds({ sampleRate, channels }: Audio, seconds: number): Audio {
  const count = Math.max(1, Math.round(seconds * sampleRate));
  return { sampleRate, channels: channels.map((channel) => channel.subarray(-count)) };
}

/** The largest absolute sample of all channels; 0 for silence. */
export function peak({ channels }: Audio): number {
  let largest = 0;
  for (const channel of channels) for (const sample of channel) largest = Math.max(largest, Math.abs(sample));
  return largest;
}

/** Root of the mean square of all samples of all channels. */
export function rootMeanSquare(audio: Audio): number {
  let sum = 0;
  for (const channel of audio.channels) for (const sample of channel) sum += sample * sample;
  return Math.sqrt(sum / (sampleCount(audio) * audio.channels.length));
}

const LEAST_SAMPLE_RATE = 1_000;
const MOST_SAMPLE_RATE = 768_000;

/**
 * Checks that a sample rate is one that sound is kept at: a whole number of 1,000 to 768,000.
 *
 * @param asked what for, to begin the error with
 * @throws {AudioError} if it is not.
 */
export function checkSampleRate(sampleRate: number, asked: string): void {
  if (Number.isInteger(sampleRate) && sampleRate >= LEAST_SAMPLE_RATE && sampleRate <= MOST_SAMPLE_RATE) return;
  throw new AudioError({
    asked,
    found: `a sample rate of ${sampleRate}`,
    todo: `Use a whole number of ${LEAST_SAMPLE_RATE} to ${MOST_SAMPLE_RATE} samples a second`,
  });
}

/**
 * Checks that a sound can be used: a sensible sample rate, at least one channel and one sample, channels of one length,
 * no NaN and no infinite sample.
 *
 * @param asked what for, to begin the error with
 * @throws {AudioError} naming what is wrong.
 */
export function checkAudio(audio: Audio, asked: string): void {
  const { sampleRate, channels } = audio;
  const refuse = (found: string, todo: string): AudioError => new AudioError({ asked, found, todo });
  checkSampleRate(sampleRate, asked);
  if (channels.length === 0) throw refuse("no channels", "Give at least one");
  const samples = sampleCount(audio);
  if (samples === 0) throw refuse("no samples", "Give a sound of at least one sample");
  for (const [index, channel] of channels.entries()) {
    if (channel.length !== samples) {
      throw refuse(`${channel.length} samples in channel ${index}, ${samples} in channel 0`, "Make them equally long");
    }
    const bad = channel.findIndex((sample) => !Number.isFinite(sample));
    if (bad >= 0) {
      throw refuse(
        `the sample ${channel[bad]} at position ${bad} of channel ${index}`,
        "The sound is damaged: make it again",
      );
    }
  }
}
