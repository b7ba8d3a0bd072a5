import type { Audio } from "./audio/audio.js";
import { UsageError } from "./errors.js";
import type { MusicGen } from "./musicgen.js";
import {
  PUBLISHED_TEXTS,
  PUBLISHED_TOLERANCE,
  PUBLISHED_VALUES,
  type ClipCase,
  type PublishedCase,
  type PublishedValues,
} from "./published-values.js";

/** One comparison. */
export interface VerifiedCase {
  readonly name: string;
  readonly passed: boolean;
  readonly largestDifference: number;
  readonly at: number; // index of the value that is furthest off, in units of what is allowed
  readonly expected: number; // there
  readonly found: number;
}

/** What a checkpoint was found to be. */
export interface Verification {
  readonly model: string; // whose published values they are
  readonly passed: boolean;
  readonly cases: readonly VerifiedCase[];
  readonly notRun: Readonly<Record<string, string>>; // and why
}

/**
 * Checks an official checkpoint against the values that were published for it: logits, greedy clips with and without
 * guidance, and a continuation, each within 1e-4. That covers tokenizer, text encoder, decoder, guidance, delay pattern
 * and codec in both directions, on the weights and the backend in use. It takes about as long as generating 5 s.
 *
 * Fine-tuned weights have the shape of their origin but other values: they fail.
 *
 * @param published those for the model's shape by default
 * @throws {UsageError} if no values were published for a model of this shape, or it has no tokenizer.
 */
export async function verifyCheckpoint(
  model: MusicGen,
  published: PublishedValues = publishedValues(model),
  onProgress?: (done: number, total: number) => void,
): Promise<Verification> {
  const clips = new Map<string, Audio>(); // several cases look at one clip
  const cases: VerifiedCase[] = [];
  for (const [index, expected] of published.cases.entries()) {
    onProgress?.(index, published.cases.length);
    cases.push(compare(expected, await valuesOf(model, expected, clips)));
  }
  onProgress?.(cases.length, published.cases.length);
  return { model: published.model, passed: cases.every(({ passed }) => passed), cases, notRun: published.notRun };
}

/**
 * The published values for a model of this shape.
 *
 * @throws {UsageError} if there are none.
 */
export function publishedValues({ config }: MusicGen): PublishedValues {
  const { layers, width, audioChannels } = config.decoder;
  const readsMelody = config.melody !== undefined;
  const found = PUBLISHED_VALUES.find(
    ({ shape }) =>
      shape.layers === layers &&
      shape.width === width &&
      shape.audioChannels === audioChannels &&
      shape.readsMelody === readsMelody,
  );
  if (found) return found;
  const kind = `${audioChannels === 2 ? "stereo" : "mono"}${readsMelody ? ", melody" : ""}`;
  throw new UsageError({
    asked: `verify a model of ${layers} layers of width ${width} (${kind})`,
    found: "no published values for one of this shape",
    todo: `There are some for ${PUBLISHED_VALUES.map(({ model }) => model).join(", ")}`,
  });
}

async function valuesOf(
  model: MusicGen,
  { run, from, values }: PublishedCase,
  clips: Map<string, Audio>,
): Promise<Float32Array> {
  if (run.kind === "logits") return (await bosLogits(model)).subarray(from, from + values.length);
  const { channel, ...clip } = run;
  const key = JSON.stringify(clip);
  const audio = clips.get(key) ?? (await greedyClip(model, run));
  clips.set(key, audio);
  const samples = audio.channels[channel] ?? new Float32Array();
  const first = from < 0 ? samples.length + from : from;
  return samples.subarray(first, first + values.length);
}

/** Logits of the first text's first codebook after the BOS column; what follows it has no influence. */
async function bosLogits(model: MusicGen): Promise<Float32Array> {
  const { codebooks, codebookSize } = model.config.decoder;
  const codes = PUBLISHED_TEXTS.map(() => ({ codebooks, frames: 1, values: new Int32Array(codebooks) }));
  const logits = await model.forward({ text: PUBLISHED_TEXTS, codes, rows: ["cond"] }); // [R, K, T, V]
  try {
    return ((await logits.data()) as Float32Array).slice(0, codebookSize);
  } finally {
    logits.dispose();
  }
}

async function greedyClip(model: MusicGen, { text, guidance, audio, frames }: ClipCase): Promise<Audio> {
  const generation = await model.generate({
    ...(text ? { text: PUBLISHED_TEXTS } : {}),
    ...(audio ? { promptAudio: promptSounds(model.config.decoder.audioChannels) } : {}),
    frames,
    guidance,
    greedy: true,
    seed: 0,
  });
  return generation.audio;
}

const RATE = 32_000;

/**
 * The sounds that the published continuations start from: 440 Hz, silent for every other eighth of a second; half a second
 * of it, and a whole one. The shorter is filled up with silence in front, as the released checkpoints' processor does.
 */
export function promptSounds(channels: number): readonly Audio[] {
  return [0.5, 1].map((seconds) => {
    const samples = new Float32Array(RATE);
    const count = seconds * RATE;
    for (let n = 0; n < count; n++) {
      const isOn = ((n / RATE) % 0.25) / 0.25 >= 0.5;
      samples[RATE - count + n] = isOn ? Math.cos((2 * Math.PI * 440 * n) / RATE) : 0;
    }
    return { sampleRate: RATE, channels: Array.from({ length: channels }, () => samples) };
  });
}

function compare({ name, values }: PublishedCase, found: Float32Array): VerifiedCase {
  const { absolute, relative } = PUBLISHED_TOLERANCE;
  let largestDifference = 0;
  let worst = { excess: -1, at: 0 };
  values.forEach((expected, at) => {
    const difference = Math.abs((found[at] ?? NaN) - expected);
    const share = difference / (absolute + relative * Math.abs(expected));
    const excess = Number.isNaN(share) ? Infinity : share;
    largestDifference = Math.max(largestDifference, Number.isNaN(difference) ? Infinity : difference);
    if (excess > worst.excess) worst = { excess, at };
  });
  const { at, excess } = worst;
  return {
    name,
    passed: excess <= 1 && found.length === values.length,
    largestDifference,
    at,
    expected: values[at] ?? NaN,
    found: found[at] ?? NaN,
  };
}
