import { mixDown, type Audio } from "./audio.js";
import { powerSpectra } from "./spectrum.js";

/**
 * Chroma: how strong each of the twelve pitch classes is over time, C first. The filters and the frames are those of
 * MusicGen's melody conditioning (librosa's `filters.chroma` with tuning 0), without source separation.
 */

/** Pitch classes, C first. */
export const CLASSES = 12;
const SIZE = 16_384;
const HOP = 4_096;
const LOWEST_A = 27.5; // Hz
const CENTRE_OCTAVE = 5; // above the lowest A; octaves away from it weigh less
const OCTAVE_WIDTH = 2;
const FLOOR = 1e-6; // below it a frame is silent

/** Chroma of one sound. */
export interface Chroma {
  readonly frames: number;
  readonly framesPerSecond: number;
  /** Filtered power before normalisation: [frames, 12]. */
  readonly raw: Float64Array;
  /** Divided by each frame's largest: [frames, 12]. */
  readonly normalized: Float64Array;
  /** The strongest class of each frame, 0 = C; silence is 0: [frames]. */
  readonly strongest: Int32Array;
}

/** The chroma of a sound, its channels mixed; one that is shorter than a frame is padded with silence on both sides. */
export function chroma(audio: Audio): Chroma {
  const samples = padded(mixDown(audio).channels[0] ?? new Float32Array(1));
  const filters = chromaFilters(audio.sampleRate, SIZE);
  const energy = (3 / 8) * SIZE; // Σ of the squared Hann window
  const raw: number[] = [];
  for (const power of powerSpectra(samples, { size: SIZE, hop: HOP })) {
    for (const filter of filters) raw.push(dot(filter, power) / energy);
  }
  const frames = raw.length / CLASSES;
  const normalized = new Float64Array(raw.length);
  const strongest = new Int32Array(frames);
  for (let frame = 0; frame < frames; frame++) {
    const classes = raw.slice(frame * CLASSES, (frame + 1) * CLASSES);
    const largest = Math.max(FLOOR, ...classes.map(Math.abs));
    classes.forEach((value, index) => (normalized[frame * CLASSES + index] = value / largest));
    strongest[frame] = classes.reduce((best, value, index) => (value > (classes[best] ?? 0) ? index : best), 0);
  }
  return { frames, framesPerSecond: audio.sampleRate / HOP, raw: Float64Array.from(raw), normalized, strongest };
}

/**
 * How alike two sounds are in pitch: the mean over their common frames of the cosine of their chroma, 0 … 1. Frames where both
 * are silent are left out; one against silence counts 0. Null where nothing is left.
 */
export function chromaSimilarity(a: Chroma, b: Chroma): number | null {
  let total = 0;
  let count = 0;
  for (let frame = 0; frame < Math.min(a.frames, b.frames); frame++) {
    const [one, other] = [a, b].map(({ normalized }) => normalized.subarray(frame * CLASSES, (frame + 1) * CLASSES));
    if (!one || !other) continue;
    const norms = Math.sqrt(dot(one, one)) * Math.sqrt(dot(other, other));
    if (dot(one, one) + dot(other, other) === 0) continue;
    count++;
    if (norms > 0) total += dot(one, other) / norms;
  }
  return count === 0 ? null : total / count;
}

/**
 * The filters, one for each class: Gaussians around the class's pitch in every octave, each frequency normalised over the
 * classes, octaves weighted around the fifth one.
 *
 * @returns 12 × [size / 2 + 1], C first
 */
export function chromaFilters(sampleRate: number, size: number): readonly Float64Array[] {
  const octaves = Float64Array.from({ length: size }, (_, bin) => Math.log2((bin * sampleRate) / size / LOWEST_A));
  const pitches = octaves.map((octave) => CLASSES * octave);
  pitches[0] = (pitches[1] ?? 0) - 1.5 * CLASSES; // frequency 0 has no pitch: 1.5 octaves below the next bin
  const filters = Array.from({ length: CLASSES }, () => new Float64Array(size / 2 + 1));
  for (let bin = 0; bin <= size / 2; bin++) {
    const pitch = pitches[bin] ?? 0;
    const width = bin === size - 1 ? 1 : Math.max((pitches[bin + 1] ?? 0) - pitch, 1);
    const bumps = filters.map((_, index) => {
      const fromA = (index + 3) % CLASSES; // filters start at C, pitches at A
      const distance = ((((pitch - fromA + 6 + 120) % CLASSES) + CLASSES) % CLASSES) - 6;
      return Math.exp(-0.5 * ((2 * distance) / width) ** 2);
    });
    const norm = Math.sqrt(dot(bumps, bumps));
    const octaveWeight = Math.exp(-0.5 * ((pitch / CLASSES - CENTRE_OCTAVE) / OCTAVE_WIDTH) ** 2);
    filters.forEach((filter, index) => (filter[bin] = Math.fround(((bumps[index] ?? 0) / norm) * octaveWeight)));
  }
  return filters;
}

function padded(samples: Float32Array): Float32Array {
  if (samples.length >= SIZE) return samples;
  const whole = new Float32Array(SIZE);
  whole.set(samples, Math.floor((SIZE - samples.length) / 2));
  return whole;
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let total = 0;
  for (let index = 0; index < a.length; index++) total += (a[index] ?? 0) * (b[index] ?? 0);
  return total;
}
