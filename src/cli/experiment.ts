import { Command } from "commander";

import { readLabelledAudio } from "../experiments/material.js";
import { judgeAudio, loadJudge } from "../experiments/judge.js";
import { measureQuality, qualityLines } from "../experiments/quality.js";
import { MusicGen } from "../musicgen.js";
import { backendOption, jsonOption, modelDirectory, modelOption, parseNumber } from "./options.js";
import { printResult, ProgressLine } from "./output.js";

interface Shared {
  readonly model?: string;
  readonly backend?: string;
  readonly json?: boolean;
  readonly audio?: string;
  readonly judge?: string;
  readonly seconds: number;
  readonly seed: number;
}

interface QualityOptions extends Shared {
  readonly prompts: number;
  readonly seeds: number;
  readonly guidance?: number;
}

const AUDIO = "labelled WAV files with a manifest.jsonl: id, audio, instrument or genre, piece, split";

/** `tonearm experiment`: measurements of a checkpoint and of steering, by an independent judge. */
export function experimentCommand(): Command {
  return new Command("experiment")
    .description("measure a checkpoint, and steering, by an independent judge of instruments and genres")
    .addCommand(qualityCommand());
}

function qualityCommand(): Command {
  return shared("quality", "does it play what it is asked for, are its clips sound, what does its codec keep")
    .option("--prompts <n>", "ways to ask for each class, 1 to 6", parseNumber("--prompts"), 3)
    .option("--seeds <n>", "clips of each text", parseNumber("--seeds"), 4)
    .option("--seconds <s>", "length of a clip", parseNumber("--seconds"), 8)
    .option("--guidance <g>", "how strongly the text is followed (default: 3)", parseNumber("--guidance"))
    .action(runQuality);
}

function shared(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option("--audio <folder>", AUDIO)
    .option("--judge <folder>", "weights of the judge (default: those that come with the package)")
    .option("--seed <n>", "that all others follow from", parseNumber("--seed"), 0)
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(jsonOption());
}

async function runQuality({ audio, judge: folder, json, ...options }: QualityOptions): Promise<void> {
  const material = audio === undefined ? undefined : await readLabelledAudio(audio);
  const judge = await loadJudge(folder);
  const model = await MusicGen.load(modelDirectory(options.model), { backend: options.backend });
  const progress = new ProgressLine(json !== true);
  try {
    const quality = await measureQuality(model, {
      ...options,
      material,
      judge: (sound) => judgeAudio(judge, sound),
      onProgress: (stage, done, total) => progress.update(stage, done, total),
    });
    progress.finish();
    printResult(json === true, quality, qualityLines(quality));
  } finally {
    progress.finish();
    await model.dispose();
  }
}
