import type { Audio } from "../audio/audio.js";
import type { Codes } from "../model/delay.js";
import type { JudgeTask, Judgement } from "./judge.js";

/** The concepts that the demo checkpoint was taught, and how they are asked for in words. */

/** Judges the sound of a clip: {@link judgeAudio} with its weights, or a stand-in for it. */
export type ClipJudge = (audio: Audio) => Judgement;

/** The classes of each task. */
export const CONCEPTS: Readonly<Record<JudgeTask, readonly string[]>> = {
  instrument: ["piano", "violin", "trumpet", "flute", "xylophone", "acoustic guitar", "distorted guitar", "synth lead"],
  genre: ["classical", "electronic", "rock", "jazz"],
};

/** A text of the same kind that names no class. */
export const NEUTRAL_TEXTS: Readonly<Record<JudgeTask, string>> = { instrument: "a melody", genre: "music" };

const TEXTS: Readonly<Record<JudgeTask, readonly ((name: string) => string)[]>> = {
  instrument: [
    (name) => `a solo ${name} melody`,
    (name) => `${name} alone`,
    (name) => `${withArticle(name)} playing a melody`,
    (name) => `solo ${name}`,
    (name) => `${name} melody, slow`,
    (name) => `a bright ${name} tune`,
  ],
  genre: [
    (name) => `${name} music`,
    (name) => `fast ${name} music`,
    (name) => `${name} track with piano`,
    (name) => `slow ${name} music with a flute melody`,
    (name) => `dark ${name} with violin`,
    (name) => `${name} with trumpet`,
  ],
};

/** How many ways there are to ask for a class. */
export const TEXT_COUNT = 6;

/** The n-th way to ask for a class in words, from 0. */
export function textFor(task: JudgeTask, name: string, n = 0): string {
  const texts = TEXTS[task];
  return texts[n % texts.length]?.(name) ?? name;
}

function withArticle(name: string): string {
  return `${/^[aeiou]/.test(name) ? "an" : "a"} ${name}`;
}

/** A text that asks for one class first and then for another one, in the words of the demo checkpoint's captions. */
export function textForChange(task: JudgeTask, from: string, to: string): string {
  return task === "instrument" ? `${withArticle(from)} melody, then ${withArticle(to)}` : `${from} music, then ${to}`;
}

/** What makes a generated clip useless, whatever it was meant to be. */
export type Fault = "silence" | "clipping" | "stuck";

const FRAME_SECONDS = 0.05;
const QUIET = 0.003; // −50 dB of full scale
const LOUD_SHARE = 0.2; // a xylophone is quiet between its notes: one real clip in eight for more than half of it
const CLIPPED_SHARE = 1e-3;
const STUCK_SECONDS = 1;

/**
 * The faults of a clip: more than four fifths of it below −50 dB; more than a thousandth of its samples at or beyond full scale; all
 * codebooks repeating one code for more than a second.
 *
 * @param frameRate codec frames a second
 */
export function faultsOf(audio: Audio, codes: Codes, frameRate: number): readonly Fault[] {
  const faults: Fault[] = [];
  const [samples = new Float32Array()] = audio.channels;
  const size = Math.round(FRAME_SECONDS * audio.sampleRate);
  let [loud, frames, clipped] = [0, 0, 0];
  for (let start = 0; start + size <= samples.length; start += size) {
    let squares = 0;
    for (const sample of samples.subarray(start, start + size)) squares += sample ** 2;
    frames++;
    if (Math.sqrt(squares / size) > QUIET) loud++;
  }
  for (const sample of samples) if (Math.abs(sample) >= 1) clipped++;
  if (loud < LOUD_SHARE * frames) faults.push("silence");
  if (clipped > CLIPPED_SHARE * samples.length) faults.push("clipping");
  if (longestRun(codes) > STUCK_SECONDS * frameRate) faults.push("stuck");
  return faults;
}

/** The most frames in a row whose codes are all the same. */
function longestRun({ values, codebooks, frames }: Codes): number {
  let [longest, run] = [0, 0];
  for (let frame = 0; frame < frames; frame++) {
    let same = frame > 0;
    for (let codebook = 0; codebook < codebooks && same; codebook++) {
      same = values[codebook * frames + frame] === values[codebook * frames + frame - 1];
    }
    run = same ? run + 1 : 1;
    longest = Math.max(longest, run);
  }
  return longest;
}
