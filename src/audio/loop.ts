import { AudioError, UsageError } from "../errors.js";
import { checkAudio, duration, mixDown, sampleCount, type Audio } from "./audio.js";
import { powerSpectra } from "./spectrum.js";

/**
 * Loops without a seam, cut out of a longer piece where it repeats itself. A model that plays forward can't be made to
 * end where it began, but most music comes by the same place again, a bar or four later. So: generate more than the loop
 * needs, find the stretch of about the wanted length around whose two ends the music sounds most alike, and fade its last
 * moments over into what came just before its start. From the last sample to the first the loop then goes on exactly as
 * the piece did.
 */

/** How to cut a loop. */
export interface LoopOptions {
  /** Length of the loop; the cut is made where it fits the music, within the tolerance. */
  readonly seconds: number;
  /** How far the length may be off, as a part of it. Default: 0.1. */
  readonly tolerance?: number | undefined;
  /** Seconds over which the end fades into what came before the start. Default: 0.05. */
  readonly crossfade?: number | undefined;
}

/** A loop and where it comes from. */
export interface Loop {
  readonly audio: Audio;
  readonly start: number; // its first sample in the piece
  readonly end: number; // the one after its last
  /**
   * How alike the two ends sound, 0 … 1: the cosine of their spectra over a second. Above 0.95 a repetition is hard to tell from
   * the music's own; below 0.8 the piece does not come by the same place again, and the loop jumps in its content.
   */
  readonly likeness: number;
}

const DEFAULTS = { tolerance: 0.1, crossfade: 0.05 };
const SIZE = 2048; // of a spectrum
const HOP = 512;
const BANDS = 48;
const LOWEST_HZ = 60;
const AROUND_SECONDS = 0.5; // on either side of a cut, compared

/** How long a piece should be to cut a loop out of it: a quarter more, so that there is a choice of places. */
export function loopMaterial({ seconds, tolerance = DEFAULTS.tolerance }: LoopOptions): number {
  return seconds * (1 + tolerance) + Math.max(1, seconds / 4);
}

/**
 * Cuts a loop out of a piece.
 *
 * @returns new samples; the last one lies `1 / sampleRate` before the first
 * @throws {UsageError} if an option is out of range; {@link AudioError} if the piece can't be used or is too short.
 */
export function cutLoop(piece: Audio, options: LoopOptions): Loop {
  const { seconds, tolerance = DEFAULTS.tolerance, crossfade = DEFAULTS.crossfade } = options;
  checkAudio(piece, "cut a loop");
  checkOptions(seconds, tolerance, crossfade);
  const { sampleRate } = piece;
  const fade = Math.max(1, Math.round(crossfade * sampleRate));
  const wanted = Math.round(seconds * sampleRate);
  const shortest = Math.max(fade + 1, Math.round(wanted * (1 - tolerance)));
  const longest = Math.min(Math.round(wanted * (1 + tolerance)), sampleCount(piece) - fade);
  if (longest < shortest) {
    throw new AudioError({
      asked: `cut a loop of ${seconds} s`,
      found: `a piece of ${duration(piece).toFixed(2)} s`,
      todo: `Give a longer one: ${loopMaterial(options).toFixed(1)} s leave a choice of places`,
    });
  }
  const mono = mixDown(piece).channels[0] ?? new Float32Array();
  const rough = bestPlace(mono, sampleRate, { fade, shortest, longest, wanted });
  const end = align(mono, rough, fade, { first: rough.start + shortest, last: rough.start + longest });
  const { start, likeness } = rough;
  const correlation = correlate(mono, start - fade, end - fade, fade);
  const channels = piece.channels.map((channel) => closed(channel, start, end, fade, correlation));
  return { audio: { sampleRate, channels }, start, end, likeness };
}

function checkOptions(seconds: number, tolerance: number, crossfade: number): void {
  const refuse = (asked: string, range: string): UsageError =>
    new UsageError({ asked, found: `it must be ${range}`, todo: `Choose ${range}` });
  if (!(seconds > 0 && Number.isFinite(seconds))) throw refuse(`a loop of ${seconds} seconds`, "a number above 0");
  if (!(tolerance >= 0 && tolerance < 1)) throw refuse(`a tolerance of ${tolerance}`, "a number from 0, below 1");
  const longest = (seconds * (1 - tolerance)) / 2;
  if (!(crossfade > 0 && crossfade <= longest)) {
    throw refuse(`a crossfade of ${crossfade} seconds`, `above 0 and at most ${longest}, half the shortest loop`);
  }
}

/** Bounds of a search, in samples. */
interface Bounds {
  readonly fade: number;
  readonly shortest: number;
  readonly longest: number;
  readonly wanted: number;
}

interface Place {
  readonly start: number;
  readonly end: number;
  readonly likeness: number;
}

/** The two places that sound most alike, on the grid of the spectra; of equals those nearest to the wanted length. */
function bestPlace(mono: Float32Array, sampleRate: number, { fade, shortest, longest, wanted }: Bounds): Place {
  const spectra = [...bandSpectra(mono, sampleRate)];
  const around = Math.round((AROUND_SECONDS * sampleRate) / HOP);
  const firstFrame = Math.ceil(fade / HOP);
  const lags = range(Math.floor(shortest / HOP), Math.ceil(longest / HOP));
  let best: Place = { start: fade, end: fade + Math.min(wanted, longest), likeness: 0 };
  let bestScore = -Infinity;
  for (const lag of lags) {
    const likenesses = runningLikeness(spectra, lag, around);
    const length = Math.min(longest, Math.max(shortest, lag * HOP));
    const offBy = Math.abs(length - wanted) / wanted;
    for (let frame = firstFrame; frame * HOP + length <= mono.length; frame++) {
      const likeness = likenesses[frame] ?? 0;
      const score = likeness - 0.01 * offBy; // decides between equals
      if (score <= bestScore) continue;
      bestScore = score;
      best = { start: frame * HOP, end: frame * HOP + length, likeness };
    }
  }
  return best;
}

/** For each frame: the cosine of the spectra around it and those `lag` frames later, all of them as one vector. */
function runningLikeness(spectra: readonly Float32Array[], lag: number, around: number): Float64Array {
  const count = Math.max(0, spectra.length - lag);
  const sums = [0, 1, 2].map(() => new Float64Array(count + 1)); // of products, and of both squares, of all before
  for (let frame = 0; frame < count; frame++) {
    const [a, b] = [spectra[frame], spectra[frame + lag]];
    const terms = [dot(a, b), dot(a, a), dot(b, b)];
    sums.forEach((sum, index) => (sum[frame + 1] = (sum[frame] ?? 0) + (terms[index] ?? 0)));
  }
  return Float64Array.from({ length: count }, (_, frame) => {
    const [from, to] = [Math.max(0, frame - around), Math.min(count, frame + around)];
    const [products = 0, first = 0, second = 0] = sums.map((sum) => (sum[to] ?? 0) - (sum[from] ?? 0));
    return first * second > 0 ? products / Math.sqrt(first * second) : 0;
  });
}

/** Amplitude in bands of equal musical width, compressed as hearing does: [BANDS] for each frame. */
function* bandSpectra(mono: Float32Array, sampleRate: number): Generator<Float32Array, void> {
  const top = Math.log2(sampleRate / 2 / LOWEST_HZ);
  const bandOf = Int32Array.from({ length: SIZE / 2 + 1 }, (_, bin) => {
    const octaves = Math.log2(Math.max(1e-9, (bin * sampleRate) / SIZE) / LOWEST_HZ);
    return Math.max(0, Math.min(BANDS - 1, Math.floor((octaves / top) * BANDS)));
  });
  for (const power of powerSpectra(mono, { size: SIZE, hop: HOP })) {
    const bands = new Float32Array(BANDS);
    power.forEach((value, bin) => {
      const band = bandOf[bin] ?? 0;
      bands[band] = (bands[band] ?? 0) + value;
    });
    yield bands.map((value) => value ** 0.25);
  }
}

/** Moves the end by up to a hop, to where the waveform before it is most like the one before the start. */
function align(
  mono: Float32Array,
  { start, end }: Place,
  fade: number,
  { first, last }: { readonly first: number; readonly last: number },
): number {
  const from = Math.max(first, end - HOP, fade);
  const to = Math.min(last, end + HOP, mono.length);
  let best = end;
  let bestCorrelation = -Infinity;
  for (let candidate = from; candidate <= to; candidate++) {
    const correlation = correlate(mono, start - fade, candidate - fade, fade);
    if (correlation > bestCorrelation) [best, bestCorrelation] = [candidate, correlation];
  }
  return best;
}

/** Normalised correlation of two stretches, −1 … 1; 0 where one is silent. */
function correlate(samples: Float32Array, a: number, b: number, length: number): number {
  let [product, first, second] = [0, 0, 0];
  for (let n = 0; n < length; n++) {
    const [x, y] = [samples[a + n] ?? 0, samples[b + n] ?? 0];
    product += x * y;
    first += x * x;
    second += y * y;
  }
  return first * second > 0 ? product / Math.sqrt(first * second) : 0;
}

/**
 * Samples `start` … `end − 1`, the last `fade` of which turn into those before `start`. The gains keep the power even for
 * two signals of this correlation: of equal signals they add up to 1, of unrelated ones their squares do.
 */
function closed(channel: Float32Array, start: number, end: number, fade: number, correlation: number): Float32Array {
  const loop = channel.slice(start, end);
  const length = loop.length;
  for (let n = 0; n < fade; n++) {
    const angle = ((n + 1) / (fade + 1)) * (Math.PI / 2);
    const [out, into] = [Math.cos(angle), Math.sin(angle)];
    const even = Math.sqrt(1 + 2 * Math.max(0, correlation) * out * into);
    const at = length - fade + n;
    loop[at] = (out * (loop[at] ?? 0) + into * (channel[start - fade + n] ?? 0)) / even;
  }
  return loop;
}

function dot(a: Float32Array | undefined, b: Float32Array | undefined): number {
  let sum = 0;
  a?.forEach((value, index) => (sum += value * (b?.[index] ?? 0)));
  return sum;
}

function range(first: number, last: number): readonly number[] {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
}
