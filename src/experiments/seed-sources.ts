import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import type { Audio } from "../audio/audio.js";
import { writeWav } from "../audio/wav.js";
import type { Codes } from "../model/delay.js";
import type { MusicGen } from "../musicgen.js";
import { CONCEPTS, faultsOf, TEXT_COUNT, textFor, type ClipJudge } from "./concepts.js";
import type { JudgeTask } from "./judge.js";
import type { LabelledClip } from "./material.js";
import type { SeedSettings } from "./seed.js";
import type { Stages } from "./stages.js";

/**
 * Clips of known classes: those to fit directions on, and those to continue from. Without labelled sound the model makes
 * them itself from texts that name the class, and those stay that the judge confirms; the texts are not used again, so that
 * no word of a class reaches an activation.
 */

/** One clip of a class. */
export interface SourceClip {
  readonly id: string;
  readonly name: string; // its class
  readonly piece: string; // what it plays: clips of one piece are on one side of every split
  readonly sounding: readonly boolean[]; // for each window of WINDOW_SECONDS: whether there is anything to be heard
  readonly codes: { readonly values: readonly number[]; readonly codebooks: number; readonly frames: number };
}

/** The clips of a class. */
export interface ClassSources {
  readonly name: string;
  readonly fit: readonly SourceClip[];
  readonly test: readonly SourceClip[]; // each has prompts/<task>/<id>.wav
  readonly tried: number; // clips made or read
  readonly confirmed: number; // of them those that the judge hears as the class, without a fault
}

/** What a clip's sound and its activations are looked at by: shorter than a note, longer than a period of a low one. */
export const WINDOW_SECONDS = 0.16;

const AUDIBLE = 0.05; // of the loudest window: −26 dB

const BATCH = 16;
const ROUNDS = 4; // as many clips again as are wanted, before a class counts as one the model can't play

/** The clips of all classes of a task, one stage a class. */
export async function collectSources(
  model: MusicGen,
  stages: Stages,
  task: JudgeTask,
  settings: SeedSettings,
  judge: ClipJudge,
  material: readonly LabelledClip[] | undefined,
): Promise<readonly ClassSources[]> {
  const classes: ClassSources[] = [];
  for (const name of CONCEPTS[task]) {
    const make = material
      ? () => readClass(model, stages.folder, task, name, settings, material)
      : () => makeClass(model, stages.folder, task, name, settings, judge);
    classes.push(await stages.once(`sources/${task}/${fileName(name)}`, make));
  }
  return classes;
}

/** A class by texts that ask for it. */
async function makeClass(
  model: MusicGen,
  folder: string,
  task: JudgeTask,
  name: string,
  settings: SeedSettings,
  judge: ClipJudge,
): Promise<ClassSources> {
  const wanted = settings.fitClips + settings.clips;
  const kept: { readonly clip: SourceClip; readonly audio: Audio }[] = [];
  let tried = 0;
  for (let batch = 0; kept.length < wanted && tried < ROUNDS * wanted; batch++) {
    const count = Math.min(BATCH, wanted);
    const text = Array.from({ length: count }, (_, item) => textFor(task, name, (batch * count + item) % TEXT_COUNT));
    const { clips } = await model.generate({
      text,
      count,
      seconds: settings.sourceSeconds,
      seed: settings.seed + 1000 * (batch + 1),
    });
    tried += count;
    for (const { item, audio, codes } of clips) {
      if (judge(audio)[task] !== name || faultsOf(audio, codes, model.config.codec.frameRate).length > 0) continue;
      const id = `${fileName(name)}-${batch}-${item}`;
      kept.push({ clip: { id, name, piece: id, sounding: soundingWindows(audio), codes: plain(codes) }, audio });
    }
  }
  const test = kept.slice(0, settings.clips).slice(0, Math.floor(kept.length / 2));
  const fit = kept.slice(test.length, test.length + settings.fitClips);
  for (const { clip, audio } of test) await writePrompt(folder, task, clip.id, audio, settings);
  return { name, fit: fit.map(({ clip }) => clip), test: test.map(({ clip }) => clip), tried, confirmed: kept.length };
}

/** A class from labelled sound, whose labels are believed. */
async function readClass(
  model: MusicGen,
  folder: string,
  task: JudgeTask,
  name: string,
  settings: SeedSettings,
  material: readonly LabelledClip[],
): Promise<ClassSources> {
  const own = material.filter(({ classes }) => classes[task] === name);
  const sides = { fit: [] as LabelledClip[], test: [] as LabelledClip[] };
  for (const clip of own) sides[clip.split ?? dealt(clip.piece)].push(clip);
  const fit: SourceClip[] = [];
  for (const clip of sides.fit.slice(0, settings.fitClips)) fit.push(await sourceOf(model, clip, name, settings));
  const test: SourceClip[] = [];
  for (const clip of sides.test.slice(0, settings.clips)) {
    test.push(await sourceOf(model, clip, name, settings));
    await writePrompt(folder, task, fileName(clip.id), await clip.read(), settings);
  }
  return { name, fit, test, tried: own.length, confirmed: own.length };
}

async function sourceOf(
  model: MusicGen,
  clip: LabelledClip,
  name: string,
  { sourceSeconds }: SeedSettings,
): Promise<SourceClip> {
  const audio = firstSeconds(await clip.read(), sourceSeconds);
  const codes = await model.encodeAudio(audio);
  return { id: fileName(clip.id), name, piece: clip.piece, sounding: soundingWindows(audio), codes: plain(codes) };
}

/** Which windows are at least −26 dB of the loudest: not those between a xylophone's notes. */
export function soundingWindows({ sampleRate, channels: [samples = new Float32Array()] }: Audio): readonly boolean[] {
  const size = Math.round(WINDOW_SECONDS * sampleRate);
  const levels = Array.from({ length: Math.floor(samples.length / size) }, (_, window) => {
    const squares = samples.subarray(window * size, (window + 1) * size).reduce((sum, value) => sum + value ** 2, 0);
    return Math.sqrt(squares / size);
  });
  const loudest = Math.max(0, ...levels);
  return levels.map((level) => loudest > 0 && level >= AUDIBLE * loudest);
}

/** Half of the pieces, always the same ones. */
function dealt(piece: string): "fit" | "test" {
  let hash = 0;
  for (const character of piece) hash = (Math.imul(hash, 31) + (character.codePointAt(0) ?? 0)) | 0;
  return (hash ^ (hash >>> 7)) & 1 ? "test" : "fit";
}

async function writePrompt(
  folder: string,
  task: JudgeTask,
  id: string,
  audio: Audio,
  { promptSeconds }: SeedSettings,
): Promise<void> {
  await mkdir(join(folder, "prompts", task), { recursive: true });
  await writeWav(promptPath(folder, task, id), firstSeconds(audio, promptSeconds));
}

/** Where the beginning of a test clip lies, which is continued from. */
export function promptPath(folder: string, task: JudgeTask, id: string): string {
  return join(folder, "prompts", task, `${id}.wav`);
}

/** The beginning of a sound. Samples are not copied. */
export function firstSeconds({ sampleRate, channels }: Audio, seconds: number): Audio {
  return { sampleRate, channels: channels.map((channel) => channel.subarray(0, Math.round(seconds * sampleRate))) };
}

/** "acoustic guitar" → "acoustic-guitar" */
export function fileName(name: string): string {
  return name.replace(/[^\w.-]+/g, "-");
}

function plain({ values, codebooks, frames }: Codes): SourceClip["codes"] {
  return { values: Array.from(values), codebooks, frames };
}

/** As the model takes them. */
export function codesOf({ codes: { values, codebooks, frames } }: SourceClip): Codes {
  return { values: Int32Array.from(values), codebooks, frames };
}
