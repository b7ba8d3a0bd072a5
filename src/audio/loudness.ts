import { checkAudio, sampleCount, type Audio } from "./audio.js";

/**
 * Loudness as ITU-R BS.1770-4 measures it: channels weighted by frequency (K-weighting), their power over blocks of 0.4 s
 * that overlap by three quarters, and the mean over the blocks that are neither silent nor far below the others.
 */

/** A filter of second order: y[n] = b0·x[n] + b1·x[n−1] + b2·x[n−2] − a1·y[n−1] − a2·y[n−2]. */
export interface Biquad {
  readonly b: readonly [number, number, number];
  readonly a: readonly [number, number]; // a1, a2; a0 is 1
}

const BLOCK_SECONDS = 0.4;
const STEPS = 4; // a block begins every quarter of one
const OFFSET = -0.691; // dB: makes 997 Hz at full scale in one channel −3.01
const ABSOLUTE_GATE = -70; // LUFS
const RELATIVE_GATE = -10; // dB below the mean

/**
 * Integrated loudness in LUFS. All channels count alike, as left, right and centre do.
 *
 * @returns −Infinity for silence, and for a sound whose every block is below −70 LUFS. A sound shorter than a block is one
 *   block.
 * @throws {AudioError} if the sound can't be used.
 */
export function loudness(audio: Audio): number {
  checkAudio(audio, "measure the loudness of a sound");
  const powers = blockPowers(audio);
  const audible = powers.filter((power) => toLufs(power) > ABSOLUTE_GATE);
  const threshold = toLufs(mean(audible)) + RELATIVE_GATE;
  return toLufs(mean(audible.filter((power) => toLufs(power) > threshold)));
}

function toLufs(power: number): number {
  return OFFSET + 10 * Math.log10(power);
}

/** The mean, 0 of nothing. */
function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Mean square of each block, summed over channels, after K-weighting. */
function blockPowers(audio: Audio): readonly number[] {
  const samples = sampleCount(audio);
  const block = Math.min(samples, Math.round(BLOCK_SECONDS * audio.sampleRate));
  const step = Math.max(1, Math.round(block / STEPS));
  const count = 1 + Math.floor((samples - block) / step);
  const powers = new Array<number>(count).fill(0);
  const filters = kWeighting(audio.sampleRate);
  for (const channel of audio.channels) {
    const energy = new Float64Array(samples + 1); // of all samples before each
    filterThrough(filters, channel).forEach((value, n) => (energy[n + 1] = (energy[n] ?? 0) + value * value));
    for (let index = 0; index < count; index++) {
      const sum = (energy[index * step + block] ?? 0) - (energy[index * step] ?? 0);
      powers[index] = (powers[index] ?? 0) + sum / block;
    }
  }
  return powers;
}

/**
 * The two filters of K-weighting: a shelf for the head, which lifts treble by 4 dB, and a high-pass. The standard gives
 * their coefficients for 48 kHz; those of other rates come from the analogue filters behind them (De Man, "Evaluation of
 * implementations of the EBU R128 loudness measurement", 2014).
 */
export function kWeighting(sampleRate: number): readonly Biquad[] {
  return [shelf(sampleRate), highPass(sampleRate)];
}

function shelf(sampleRate: number): Biquad {
  const k = Math.tan((Math.PI * 1681.974450955533) / sampleRate);
  const q = 0.7071752369554196;
  const high = 10 ** (3.999843853973347 / 20);
  const band = high ** 0.4996667741545416;
  const a0 = 1 + k / q + k * k;
  return {
    b: [(high + (band * k) / q + k * k) / a0, (2 * (k * k - high)) / a0, (high - (band * k) / q + k * k) / a0],
    a: [(2 * (k * k - 1)) / a0, (1 - k / q + k * k) / a0],
  };
}

function highPass(sampleRate: number): Biquad {
  const k = Math.tan((Math.PI * 38.13547087602444) / sampleRate);
  const q = 0.5003270373238773;
  const a0 = 1 + k / q + k * k;
  return { b: [1, -2, 1], a: [(2 * (k * k - 1)) / a0, (1 - k / q + k * k) / a0] };
}

function filterThrough(filters: readonly Biquad[], samples: Float32Array): Float64Array {
  const values = Float64Array.from(samples);
  for (const { b, a } of filters) {
    let [x1, x2, y1, y2] = [0, 0, 0, 0];
    for (let n = 0; n < values.length; n++) {
      const x = values[n] ?? 0;
      const y = b[0] * x + b[1] * x1 + b[2] * x2 - a[0] * y1 - a[1] * y2;
      [x2, x1, y2, y1] = [x1, x, y1, y];
      values[n] = y;
    }
  }
  return values;
}
