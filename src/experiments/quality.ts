import { chroma, chromaSimilarity } from "../audio/chroma.js";
import type { MusicGen } from "../musicgen.js";
import type { Interval } from "../probes/metrics.js";
import { CONCEPTS, faultsOf, TEXT_COUNT, textFor, type ClipJudge, type Fault } from "./concepts.js";
import { meanOf, shareOf, type Share } from "./intervals.js";
import type { JudgeTask } from "./judge.js";
import type { LabelledClip } from "./material.js";

/** How good a checkpoint is: whether it plays what it is asked for, whether its clips have faults, what its codec keeps. */

/** What to measure. */
export interface QualityOptions {
  readonly judge: ClipJudge;
  /** Ways to ask for each class, 1 to 6. */
  readonly prompts: number;
  readonly seeds: number; // clips of each text
  readonly seconds: number; // length of a clip
  readonly seed?: number | undefined;
  readonly guidance?: number | undefined;
  /** Labelled sound for the codec; without it the codec isn't measured. */
  readonly material?: readonly LabelledClip[] | undefined;
  readonly onProgress?: ((stage: string, done: number, total: number) => void) | undefined;
}

/** How often the judge hears what was asked for. */
export interface TextControl {
  readonly task: JudgeTask;
  readonly chance: number;
  readonly all: Share;
  readonly classes: readonly { readonly name: string; readonly right: Share; readonly heard: Record<string, number> }[];
}

/** What the codec keeps of labelled sound. */
export interface CodecQuality {
  readonly clips: number;
  /** Chroma similarity of each clip to its reconstruction; and to the reconstruction of another piece, for comparison. */
  readonly chroma: Interval | undefined;
  readonly otherPiece: Interval | undefined;
  readonly judged: readonly {
    readonly task: JudgeTask;
    readonly originals: Share;
    readonly reconstructions: Share;
    readonly kept: number; // reconstructions' share by the originals'
  }[];
}

/** What was found. */
export interface Quality {
  readonly model: string;
  readonly settings: {
    readonly prompts: number;
    readonly seeds: number;
    readonly seconds: number;
    readonly seed: number;
  };
  readonly control: readonly TextControl[];
  readonly faults: Readonly<Record<Fault, Share>>;
  /** Null: no labelled sound was given, and the originals that it needs don't come with the package. */
  readonly codec: CodecQuality | null;
}

const TASKS: readonly JudgeTask[] = ["instrument", "genre"];

/**
 * Generates `prompts` × `seeds` clips of each of the twelve classes, has them judged and looked through for faults, and sends
 * labelled sound through the codec if there is some. Intervals are of 95 %: Wilson's for shares, bootstrap for means.
 */
export async function measureQuality(model: MusicGen, options: QualityOptions): Promise<Quality> {
  const { judge, seeds, seconds, seed = 0, guidance, material, onProgress } = options;
  const prompts = Math.max(1, Math.min(TEXT_COUNT, Math.floor(options.prompts)));
  const total = TASKS.reduce((sum, task) => sum + CONCEPTS[task].length, 0);
  const control: TextControl[] = [];
  const faults: (readonly Fault[])[] = [];
  let done = 0;
  for (const task of TASKS) {
    const classes: TextControl["classes"][number][] = [];
    for (const name of CONCEPTS[task]) {
      onProgress?.("clips of each class", done++, total);
      const heard: Record<string, number> = {};
      for (let n = 0; n < prompts; n++) {
        const text = textFor(task, name, n);
        const { clips } = await model.generate({ text, seconds, count: seeds, seed: seed + n * seeds, guidance });
        for (const { audio, codes } of clips) {
          const { [task]: found } = judge(audio);
          heard[found] = (heard[found] ?? 0) + 1;
          faults.push(faultsOf(audio, codes, model.config.codec.frameRate));
        }
      }
      classes.push({ name, heard, right: shareOf(heard[name] ?? 0, prompts * seeds) });
    }
    const hits = classes.reduce((sum, { right }) => sum + right.hits, 0);
    const trials = classes.reduce((sum, { right }) => sum + right.trials, 0);
    control.push({ task, chance: 1 / CONCEPTS[task].length, all: shareOf(hits, trials), classes });
  }
  const count = (fault: Fault): Share => shareOf(faults.filter((found) => found.includes(fault)).length, faults.length);
  return {
    model: model.fingerprint,
    settings: { prompts, seeds, seconds, seed },
    control,
    faults: { silence: count("silence"), clipping: count("clipping"), stuck: count("stuck") },
    codec: material ? await measureCodec(model, judge, material, onProgress) : null,
  };
}

async function measureCodec(
  model: MusicGen,
  judge: ClipJudge,
  material: readonly LabelledClip[],
  onProgress: QualityOptions["onProgress"],
): Promise<CodecQuality> {
  const kept: number[] = [];
  const strange: number[] = [];
  const hits = { instrument: { before: 0, after: 0, clips: 0 }, genre: { before: 0, after: 0, clips: 0 } };
  let other: { readonly piece: string; readonly chroma: ReturnType<typeof chroma> } | undefined;
  for (const [index, clip] of material.entries()) {
    onProgress?.("clips through the codec", index, material.length);
    const original = await clip.read();
    const rebuilt = await model.decodeCodes(await model.encodeAudio(original));
    const [before, after] = [chroma(original), chroma(rebuilt)];
    const same = chromaSimilarity(before, after);
    if (same !== null) kept.push(same);
    const stranger = other && other.piece !== clip.piece ? chromaSimilarity(before, other.chroma) : null;
    if (stranger !== null) strange.push(stranger);
    other = { piece: clip.piece, chroma: after };
    const [first, second] = [judge(original), judge(rebuilt)];
    for (const task of TASKS) {
      const name = clip.classes[task];
      if (name === undefined) continue;
      hits[task].clips++;
      if (first[task] === name) hits[task].before++;
      if (second[task] === name) hits[task].after++;
    }
  }
  return {
    clips: material.length,
    chroma: meanOf(kept),
    otherPiece: meanOf(strange),
    judged: TASKS.filter((task) => hits[task].clips > 0).map((task) => {
      const { before, after, clips } = hits[task];
      const [originals, reconstructions] = [shareOf(before, clips), shareOf(after, clips)];
      return { task, originals, reconstructions, kept: reconstructions.value / originals.value };
    }),
  };
}

/** The same as lines for people. */
export function qualityLines({ control, faults, codec, settings }: Quality): readonly string[] {
  const { prompts, seeds, seconds } = settings;
  return [
    `${prompts} texts × ${seeds} seeds of each class, ${seconds} s each; intervals of 95 %`,
    ...control.flatMap(({ task, all, chance, classes }) => [
      `${task} as asked: ${showShare(all)}, chance ${showPercent(chance)}`,
      ...classes.map(({ name, right, heard }) => `  ${name.padEnd(17)}${showShare(right)}${confusions(name, heard)}`),
    ]),
    ...Object.entries(faults).map(([fault, share]) => `${fault}: ${showShare(share)}`),
    ...(codec ? codecLines(codec) : [CODEC_LEFT_OUT]),
  ];
}

const CODEC_LEFT_OUT =
  "codec: left out, since it takes labelled sound, which doesn't come with the package: give a folder with --audio";

function codecLines({ clips, chroma: kept, otherPiece, judged }: CodecQuality): readonly string[] {
  return [
    `codec, ${clips} clips: chroma similarity ${showMean(kept)} to the original; to another piece ${showMean(otherPiece)}`,
    ...judged.map(
      ({ task, originals, reconstructions, kept: part }) =>
        `  ${task} recognised: originals ${showShare(originals)}, reconstructions ${showShare(reconstructions)}: ${showPercent(part)} kept`,
    ),
  ];
}

function confusions(name: string, heard: Readonly<Record<string, number>>): string {
  const others = Object.entries(heard)
    .filter(([other]) => other !== name)
    .toSorted((a, b) => b[1] - a[1]);
  return others.length === 0 ? "" : `  heard as ${others.map(([other, count]) => `${other} ${count}`).join(", ")}`;
}

/** "75.0 % [50.5, 89.8] (12 of 16)" */
export function showShare({ value, low, high, hits, trials }: Share): string {
  if (trials === 0) return "– (no clip)";
  return `${showPercent(value)} [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}] (${hits} of ${trials})`;
}

/** "0.912 [0.900, 0.923]" */
export function showMean(mean: Interval | undefined): string {
  return mean ? `${mean.value.toFixed(3)} [${mean.low.toFixed(3)}, ${mean.high.toFixed(3)}]` : "–";
}

function showPercent(value: number): string {
  return `${(100 * value).toFixed(1)} %`;
}
