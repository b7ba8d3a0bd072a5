import { duration, mixDown, type Audio } from "./audio.js";
import { powerSpectra } from "./spectrum.js";

/**
 * What a sound is like in a few numbers that no probe had a hand in. Channels are mixed; a number is null where the sound
 * has nothing to measure it by (silence, or too short).
 */

/** Measures of one sound. */
export interface SoundMeasures {
  /** Centre of gravity of the spectrum, in Hz: higher is brighter. */
  readonly centroid: number | null;
  /** Below it lies 85 % of the power, in Hz. */
  readonly rolloff: number | null;
  /** Geometric by arithmetic mean of the power: 0 a tone, 1 white noise. */
  readonly flatness: number | null;
  /** Onsets a second. */
  readonly onsetRate: number | null;
  /** Beats a minute, 40 … 240. */
  readonly tempo: number | null;
}

const SIZE = 2048;
const HOP = 512;
const ROLLOFF = 0.85;
const SILENCE = 1e-10; // of the loudest frame's power: what is below it is left out
const SLOWEST = 40; // beats a minute
const FASTEST = 240;
const USUAL = 120; // beats a minute that listeners prefer, where several fit (Ellis 2007)

/** Measures a sound. Frames are weighted by their power, so that pauses have no say. */
export function measureSound(audio: Audio): SoundMeasures {
  const samples = mixDown(audio).channels[0] ?? new Float32Array(1);
  const binWidth = audio.sampleRate / SIZE;
  const spectra = 1 + Math.floor(samples.length / HOP); // frames
  const powers = new Float64Array(spectra);
  const perFrame = {
    centroid: new Float64Array(spectra),
    rolloff: new Float64Array(spectra),
    flatness: new Float64Array(spectra),
  };
  const flux = new Float64Array(spectra);
  let before: Float64Array | undefined;
  let frame = 0;
  for (const power of powerSpectra(samples, { size: SIZE, hop: HOP })) {
    const total = power.reduce((sum, value) => sum + value, 0);
    powers[frame] = total;
    perFrame.centroid[frame] =
      total > 0 ? (binWidth * power.reduce((sum, value, bin) => sum + bin * value, 0)) / total : 0;
    perFrame.rolloff[frame] = binWidth * rolloffBin(power, ROLLOFF * total);
    perFrame.flatness[frame] = flatnessOf(power, total);
    const loudness = power.map((value) => Math.log1p(1000 * value));
    flux[frame] = before ? loudness.reduce((sum, value, bin) => sum + Math.max(0, value - (before?.[bin] ?? 0)), 0) : 0;
    before = loudness;
    frame++;
  }
  const framesPerSecond = audio.sampleRate / HOP;
  const onsets = findOnsets(flux);
  const heard = powers.some((power) => power > 0);
  return {
    centroid: weightedMean(perFrame.centroid, powers),
    rolloff: weightedMean(perFrame.rolloff, powers),
    flatness: weightedMean(perFrame.flatness, powers),
    onsetRate: heard ? onsets.length / duration(audio) : null,
    tempo: onsets.length < 3 ? null : findTempo(flux, framesPerSecond),
  };
}

function weightedMean(values: Float64Array, powers: Float64Array): number | null {
  const loudest = powers.reduce((most, power) => Math.max(most, power), 0);
  if (loudest === 0) return null;
  let sum = 0;
  let weight = 0;
  values.forEach((value, frame) => {
    const power = powers[frame] ?? 0;
    if (power <= SILENCE * loudest) return;
    sum += power * value;
    weight += power;
  });
  return sum / weight;
}

function rolloffBin(power: Float64Array, wanted: number): number {
  let sum = 0;
  for (const [bin, value] of power.entries()) {
    sum += value;
    if (sum >= wanted) return bin;
  }
  return power.length - 1;
}

function flatnessOf(power: Float64Array, total: number): number {
  if (total === 0) return 0;
  const floor = (SILENCE * total) / power.length;
  const logs = power.reduce((sum, value) => sum + Math.log(value + floor), 0);
  return Math.exp(logs / power.length) / (total / power.length + floor);
}

/** Frames where the flux has a peak well above what is around it. */
function findOnsets(flux: Float64Array): readonly number[] {
  const AROUND = 16; // frames on either side
  const APART = 3; // frames between two onsets
  const mean = flux.reduce((sum, value) => sum + value, 0) / flux.length;
  const onsets: number[] = [];
  flux.forEach((value, frame) => {
    const around = flux.subarray(Math.max(0, frame - AROUND), frame + AROUND + 1);
    const local = around.reduce((sum, other) => sum + other, 0) / around.length;
    const near = flux.subarray(Math.max(0, frame - APART), frame + APART + 1);
    const isPeak = near.every((other) => other <= value);
    const apart = frame - (onsets.at(-1) ?? -Infinity) > APART;
    if (isPeak && apart && value > 1.5 * local + 0.5 * mean) onsets.push(frame);
  });
  return onsets;
}

/** The lag at which the flux is most like itself, with a preference for usual tempi. */
function findTempo(flux: Float64Array, framesPerSecond: number): number | null {
  const mean = flux.reduce((sum, value) => sum + value, 0) / flux.length;
  const centred = flux.map((value) => value - mean);
  const likeness = (lag: number): number => {
    let sum = 0;
    for (let frame = lag; frame < centred.length; frame++) sum += (centred[frame] ?? 0) * (centred[frame - lag] ?? 0);
    return sum / centred.length;
  };
  const first = Math.ceil((60 * framesPerSecond) / FASTEST);
  const last = Math.min(Math.floor((60 * framesPerSecond) / SLOWEST), centred.length - 2);
  let best = { lag: 0, score: 0 };
  for (let lag = first; lag <= last; lag++) {
    const octaves = Math.log2((60 * framesPerSecond) / lag / USUAL);
    const score = likeness(lag) * Math.exp(-0.5 * octaves ** 2);
    if (score > best.score) best = { lag, score };
  }
  if (best.lag === 0) return null;
  const [left, middle, right] = [likeness(best.lag - 1), likeness(best.lag), likeness(best.lag + 1)];
  const curve = left - 2 * middle + right;
  const shift = curve < 0 ? Math.max(-0.5, Math.min(0.5, (0.5 * (left - right)) / curve)) : 0; // a parabola's peak
  return (60 * framesPerSecond) / (best.lag + shift);
}
