import { AudioError } from "../errors.js";
import { checkAudio, checkSampleRate, sampleCount, type Audio } from "./audio.js";

const ZERO_CROSSINGS = 24; // of the sinc on either side
const ROLLOFF = 0.945; // where the pass band ends, as a part of the lower Nyquist frequency

/**
 * The same sound at another sample rate, by interpolation with a windowed sinc (J. O. Smith, "Digital Audio Resampling")
 * with the choices of `julius`, which audiocraft uses: 24 zero crossings under a cos² window, roll-off 0.945, each
 * phase's kernel scaled to sum 1, ends continued by their last sample.
 *
 * @returns ⌊N · to / from⌋ samples per channel; at the same rate the sound itself.
 * @throws {AudioError} if the sound or the rate can't be used, or no sample would be left.
 */
export function resample(audio: Audio, sampleRate: number): Audio {
  const asked = `resample a sound to ${sampleRate} samples a second`;
  checkAudio(audio, asked);
  if (sampleRate === audio.sampleRate) return audio;
  checkSampleRate(sampleRate, asked);
  const length = resampledLength(audio, sampleRate);
  if (length === 0) {
    throw new AudioError({
      asked,
      found: `${sampleCount(audio)} samples at ${audio.sampleRate} a second, less than one afterwards`,
      todo: "Give a longer sound",
    });
  }
  const divisor = greatestCommonDivisor(audio.sampleRate, sampleRate);
  const ratio = { from: audio.sampleRate / divisor, to: sampleRate / divisor };
  return { sampleRate, channels: channelsAt(audio.channels, ratio, length) };
}

/** Samples per channel after {@link resample}. */
export function resampledLength(audio: Audio, sampleRate: number): number {
  return Math.floor((sampleCount(audio) * sampleRate) / audio.sampleRate);
}

/** Two rates without a common divisor. */
interface Ratio {
  readonly from: number;
  readonly to: number;
}

/**
 * Output sample n lies at input position n · from / to. All n of one phase, n modulo `to`, lie equally between their
 * neighbours, so they share a kernel.
 */
function channelsAt(channels: readonly Float32Array[], { from, to }: Ratio, length: number): readonly Float32Array[] {
  const outputs = channels.map(() => new Float32Array(length));
  for (let phase = 0; phase < Math.min(to, length); phase++) {
    const { first, taps } = kernelAt((phase * from) / to, { from, to });
    for (const [index, channel] of channels.entries()) {
      const output = outputs[index];
      if (!output) continue;
      for (let n = phase, start = first; n < length; n += to, start += from) output[n] = dot(channel, start, taps);
    }
  }
  return outputs;
}

/** The taps around input position `position`, the first of which belongs to input sample `first`. */
function kernelAt(position: number, { from, to }: Ratio): { readonly first: number; readonly taps: Float64Array } {
  const zerosPerSample = (Math.min(from, to) * ROLLOFF) / from;
  const reach = ZERO_CROSSINGS / zerosPerSample; // in input samples
  const first = Math.ceil(position - reach);
  const taps = new Float64Array(Math.floor(position + reach) - first + 1);
  taps.forEach((_, index) => {
    const t = (first + index - position) * zerosPerSample * Math.PI;
    const window = Math.cos(t / (2 * ZERO_CROSSINGS)) ** 2;
    taps[index] = window * (t === 0 ? 1 : Math.sin(t) / t);
  });
  const sum = taps.reduce((total, tap) => total + tap, 0);
  return { first, taps: taps.map((tap) => tap / sum) };
}

/** Σ taps[i] · channel[start + i], with the channel's ends continued by its first and last sample. */
function dot(channel: Float32Array, start: number, taps: Float64Array): number {
  const last = channel.length - 1;
  let sum = 0;
  if (start >= 0 && start + taps.length <= channel.length) {
    for (let i = 0; i < taps.length; i++) sum += (taps[i] ?? NaN) * (channel[start + i] ?? NaN);
  } else {
    for (let i = 0; i < taps.length; i++) {
      sum += (taps[i] ?? NaN) * (channel[Math.min(last, Math.max(0, start + i))] ?? NaN);
    }
  }
  return sum;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
