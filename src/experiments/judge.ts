import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { mixDown, type Audio } from "../audio/audio.js";
import { melFilters } from "../audio/mel.js";
import { resample } from "../audio/resample.js";
import { powerSpectra } from "../audio/spectrum.js";
import { isJsonObject, readJsonFile } from "../checkpoint/json.js";
import { SafetensorsFile } from "../checkpoint/safetensors.js";
import { AudioError, CheckpointError } from "../errors.js";

/**
 * The judge: which instrument plays and which genre it is, by small classifiers that had no part in probes or vectors.
 * They were trained on other sounds and other melodies than the demo checkpoint (tools/train/judge.py, which also says what
 * the features are; `judge.json` repeats it beside the weights).
 */

/** What can be asked of the judge. */
export type JudgeTask = "instrument" | "genre";

/** What the judge says of a sound. */
export interface Judgement {
  readonly instrument: string;
  readonly genre: string;
  /** Of each class of each task; they sum to 1. */
  readonly probabilities: Readonly<Record<JudgeTask, Readonly<Record<string, number>>>>;
}

/** One hidden layer on standardised features: C classes, H hidden units, of `COUNT` features. */
export interface Classifier {
  readonly names: readonly string[]; // [C]
  readonly centre: Float32Array;
  readonly scale: Float32Array;
  readonly firstWeight: Float32Array; // [H, COUNT]
  readonly firstBias: Float32Array; // [H]
  readonly secondWeight: Float32Array; // [C, H]
  readonly secondBias: Float32Array; // [C]
}

/** Both classifiers. */
export type SoundJudge = Readonly<Record<JudgeTask, Classifier>>;

const SAMPLE_RATE = 32_000;
const SIZE = 2048;
const STEP = 640; // samples: 50 frames a second
const FRAME_RATE = SAMPLE_RATE / STEP;
const BANDS = 64;
const FLOOR = 1e-4;
const SLOW = 8; // frames
const GROUPS = 8; // of bands, for the rhythm
const EDGES = [0.4, 0.8, 1.3, 1.8, 2.4, 3.2, 4.2, 5.4, 7.0, 9.5, 15.0]; // Hz, of level modulation
const POOLS = 5;
const COUNT = POOLS * BANDS + GROUPS * (EDGES.length - 1);
const QUIET = 1e-6;
const LEAST_SAMPLES = SIZE + SLOW * STEP;

/**
 * Reads the judge's weights.
 *
 * @param folder with judge.json and judge.safetensors; without it the one that comes with the package
 * @throws {CheckpointError} if a file is missing, or its tensors are not those of the judge.
 */
export async function loadJudge(
  folder: string = fileURLToPath(new URL("../../weights/judge", import.meta.url)),
): Promise<SoundJudge> {
  const path = join(folder, "judge.json");
  const { classes } = await readJsonFile(path);
  const file = await SafetensorsFile.open(join(folder, "judge.safetensors"));
  try {
    const read = async (task: JudgeTask): Promise<Classifier> => {
      const names = isJsonObject(classes) ? classes[task] : undefined;
      if (!isNames(names)) throw damaged(path, `no classes for "${task}"`);
      const centre = await file.floats(`${task}.centre`);
      const firstBias = await file.floats(`${task}.first.bias`);
      const classifier = {
        names,
        centre,
        scale: await file.floats(`${task}.scale`),
        firstWeight: await file.floats(`${task}.first.weight`),
        firstBias,
        secondWeight: await file.floats(`${task}.second.weight`),
        secondBias: await file.floats(`${task}.second.bias`),
      };
      checkSizes(classifier, file.path, task);
      return classifier;
    };
    return { instrument: await read("instrument"), genre: await read("genre") };
  } finally {
    await file.close();
  }
}

/**
 * Judges a sound, resampled to 32 kHz and mixed to one channel. Loudness has no say; a silent sound gets a judgement too,
 * which means nothing.
 *
 * @throws {AudioError} if it is shorter than 0.22 s.
 */
export function judgeAudio(judge: SoundJudge, audio: Audio): Judgement {
  const features = judgeFeatures(audio);
  const instrument = probabilitiesOf(judge.instrument, features);
  const genre = probabilitiesOf(judge.genre, features);
  return { instrument: likeliest(instrument), genre: likeliest(genre), probabilities: { instrument, genre } };
}

/** The logits of a classifier: [C]. @param features [COUNT], of {@link judgeFeatures} */
export function judgeLogits(classifier: Classifier, features: Float64Array): Float64Array {
  const { centre, scale, firstWeight, firstBias, secondWeight, secondBias } = classifier;
  const x = features.map((value, index) => (value - (centre[index] ?? 0)) / (scale[index] ?? 1));
  const hidden = affine(firstWeight, firstBias, x).map((value) => Math.max(0, value));
  return affine(secondWeight, secondBias, hidden);
}

/**
 * What the judge hears: statistics of a log-mel spectrogram of the sound at unit level.
 *
 * @returns for each of 64 bands its mean level; then its deviation, its mean change, its mean rise and its mean change over
 *   0.16 s, each for all bands; then for each of 8 groups of bands the share of its level modulation in 10 ranges of rates
 * @throws {AudioError} if it is shorter than 0.22 s.
 */
export function judgeFeatures(audio: Audio): Float64Array {
  const levels = logMel(audio); // [T, BANDS]
  const frames = levels.length;
  const pool = (term: (frame: number, band: number) => number, first: number): Float64Array =>
    Float64Array.from({ length: BANDS }, (_, band) => {
      let sum = 0;
      for (let frame = first; frame < frames; frame++) sum += term(frame, band);
      return sum / (frames - first);
    });
  const level = (frame: number, band: number): number => levels[frame]?.[band] ?? 0;
  const change = (frame: number, band: number): number => level(frame, band) - level(frame - 1, band);
  const means = pool(level, 0);
  const features = new Float64Array(COUNT);
  const pools = [
    means,
    pool((frame, band) => (level(frame, band) - (means[band] ?? 0)) ** 2, 0).map(Math.sqrt),
    pool((frame, band) => Math.abs(change(frame, band)), 1),
    pool((frame, band) => Math.max(0, change(frame, band)) ** 2, 1).map(Math.sqrt),
    pool((frame, band) => Math.abs(level(frame, band) - level(frame - SLOW, band)), SLOW),
  ];
  pools.forEach((values, index) => {
    features.set(values, index * BANDS);
  });
  features.set(rhythm(levels), POOLS * BANDS);
  return features;
}

/** Log-mel levels at unit root mean square: [T][BANDS]. */
function logMel(audio: Audio): readonly Float64Array[] {
  const [samples = new Float32Array()] = mixDown(resample(audio, SAMPLE_RATE)).channels;
  if (samples.length < LEAST_SAMPLES) {
    throw new AudioError({
      asked: "judge a sound",
      found: `${samples.length} samples at 32 kHz`,
      todo: `Give ${LEAST_SAMPLES} at least, which is 0.22 s`,
    });
  }
  const level = Math.sqrt(samples.reduce((sum, sample) => sum + sample ** 2, 0) / samples.length) + QUIET;
  const filters = melFilters({ bands: BANDS, size: SIZE, sampleRate: SAMPLE_RATE, lowest: 30 });
  const factor = (SIZE / 4) ** -2; // the window is divided by a quarter of its size
  const levels: Float64Array[] = [];
  for (const power of powerSpectra(
    samples.map((sample) => sample / level),
    { size: SIZE, hop: STEP, centred: false },
  )) {
    levels.push(
      Float64Array.from(filters, ({ first, weights }) => {
        let sum = 0;
        for (let index = 0; index < weights.length; index++) sum += (weights[index] ?? 0) * (power[first + index] ?? 0);
        return Math.log(sum * factor + FLOOR);
      }),
    );
  }
  return levels;
}

/** How each group of bands swells and fades: the square root of its share of modulation in each range of rates. */
function rhythm(levels: readonly Float64Array[]): Float64Array {
  const frames = levels.length;
  const shares = new Float64Array(GROUPS * (EDGES.length - 1));
  const width = BANDS / GROUPS;
  for (let group = 0; group < GROUPS; group++) {
    const course = levels.map((level) =>
      level.subarray(group * width, (group + 1) * width).reduce((sum, value) => sum + value / width, 0),
    );
    const mean = course.reduce((sum, value) => sum + value, 0) / frames;
    const windowed = course.map(
      (value, frame) => (value - mean) * (0.5 - 0.5 * Math.cos((2 * Math.PI * frame) / frames)),
    );
    const ranges = EDGES.slice(1).map(() => 0);
    for (let bin = 0; bin <= frames / 2; bin++) {
      const rate = (bin * FRAME_RATE) / frames;
      const range = EDGES.findLastIndex((edge) => rate >= edge);
      if (range < 0 || range >= ranges.length) continue;
      ranges[range] = (ranges[range] ?? 0) + powerAt(windowed, bin);
    }
    const total = ranges.reduce((sum, power) => sum + power, 0) + QUIET;
    shares.set(
      ranges.map((power) => Math.sqrt(power / total)),
      group * ranges.length,
    );
  }
  return shares;
}

/** Squared magnitude of one bin of the discrete Fourier transform, of any length. */
function powerAt(values: readonly number[], bin: number): number {
  let [real, imaginary] = [0, 0];
  values.forEach((value, index) => {
    const angle = (2 * Math.PI * ((bin * index) % values.length)) / values.length;
    real += value * Math.cos(angle);
    imaginary -= value * Math.sin(angle);
  });
  return real ** 2 + imaginary ** 2;
}

/** W x + b. */
function affine(weight: Float32Array, bias: Float32Array, x: Float64Array): Float64Array {
  return Float64Array.from(bias, (start, row) => {
    let sum = start;
    for (let index = 0; index < x.length; index++) sum += (weight[row * x.length + index] ?? 0) * (x[index] ?? 0);
    return sum;
  });
}

function probabilitiesOf(classifier: Classifier, features: Float64Array): Readonly<Record<string, number>> {
  const logits = judgeLogits(classifier, features);
  const highest = logits.reduce((most, value) => Math.max(most, value), -Infinity);
  const weights = logits.map((value) => Math.exp(value - highest));
  const total = weights.reduce((sum, value) => sum + value, 0);
  return Object.fromEntries(classifier.names.map((name, index) => [name, (weights[index] ?? 0) / total]));
}

function likeliest(probabilities: Readonly<Record<string, number>>): string {
  const [first] = Object.entries(probabilities).toSorted((a, b) => b[1] - a[1]);
  return first?.[0] ?? "";
}

function checkSizes(classifier: Classifier, path: string, task: JudgeTask): void {
  const { names, firstBias, ...rest } = classifier;
  const hidden = firstBias.length;
  const wanted = {
    centre: COUNT,
    scale: COUNT,
    firstWeight: hidden * COUNT,
    secondWeight: names.length * hidden,
    secondBias: names.length,
  };
  for (const part of ["centre", "scale", "firstWeight", "secondWeight", "secondBias"] as const) {
    if (rest[part].length === wanted[part]) continue;
    throw damaged(path, `${rest[part].length} values in ${part} of "${task}", not ${wanted[part]}`);
  }
}

function isNames(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === "string");
}

function damaged(path: string, found: string): CheckpointError {
  return new CheckpointError({ asked: `read the judge ${path}`, found, todo: "Get weights/judge again" });
}
