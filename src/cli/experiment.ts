import { Command } from "commander";

import { readLabelledAudio } from "../experiments/material.js";
import { judgeAudio, loadJudge } from "../experiments/judge.js";
import { measureQuality, qualityLines } from "../experiments/quality.js";
import { findings } from "../experiments/seed-findings.js";
import { writeSeedReport } from "../experiments/seed-report.js";
import { exportVectors } from "../experiments/seed-vectors.js";
import { runSeedExperiment } from "../experiments/seed.js";
import { MusicGen } from "../musicgen.js";
import { backendOption, jsonOption, modelDirectory, modelOption, parseNumber, parseNumbers } from "./options.js";
import { duration, printResult, ProgressLine } from "./output.js";

interface Shared {
  readonly model?: string;
  readonly backend?: string;
  readonly json?: boolean;
  readonly audio?: string;
  readonly judge?: string;
  readonly seed: number;
}

interface QualityOptions extends Shared {
  readonly prompts: number;
  readonly seeds: number;
  readonly seconds: number;
  readonly guidance?: number;
}

interface SeedOptions extends Shared {
  readonly output: string;
  readonly pairs?: number;
  readonly clips?: number;
  readonly fitClips?: number;
  readonly seconds?: number;
  readonly promptSeconds?: number;
  readonly strengths?: number | readonly number[];
  readonly guidance?: number;
  readonly temperature?: number;
  readonly steerSeconds?: number;
  readonly choiceClips?: number;
  readonly matrixClips?: number;
  readonly quick?: boolean;
  readonly vectors?: string;
}

const AUDIO = "labelled WAV files with a manifest.jsonl: id, audio, instrument or genre, piece, split";

/** `tonearm experiment`: measurements of a checkpoint and of steering, by an independent judge. */
export function experimentCommand(): Command {
  return new Command("experiment")
    .description("measure a checkpoint, and steering, by an independent judge of instruments and genres")
    .addCommand(qualityCommand())
    .addCommand(seedCommand());
}

function qualityCommand(): Command {
  return shared("quality", "does it play what it is asked for, are its clips sound, what does its codec keep")
    .option("--prompts <n>", "ways to ask for each class, 1 to 6", parseNumber("--prompts"), 3)
    .option("--seeds <n>", "clips of each text", parseNumber("--seeds"), 4)
    .option("--seconds <s>", "length of a clip", parseNumber("--seconds"), 8)
    .option("--guidance <g>", "how strongly the text is followed (default: 3)", parseNumber("--guidance"))
    .action(runQuality);
}

function seedCommand(): Command {
  return shared("seed", "the experiment of arXiv 2506.10225 with controls: probes, timbre and style transfer, fusion")
    .requiredOption("-o, --output <folder>", "where everything goes; run again to go on after an interruption")
    .option("--quick", "fewer of everything: a look, with wide intervals")
    .option("--pairs <n>", "of classes, for each task (default: 6)", parseNumber("--pairs"))
    .option("--clips <n>", "continued for each pair and condition (default: 16)", parseNumber("--clips"))
    .option("--fit-clips <n>", "of each class, to fit directions on (default: 40)", parseNumber("--fit-clips"))
    .option(
      "--choice-clips <n>",
      "of each pair, to choose place and strength on (default: 6)",
      parseNumber("--choice-clips"),
    )
    .option(
      "--matrix-clips <n>",
      "of each class, steered to every other one too, next to a random direction (default: 0)",
      parseNumber("--matrix-clips"),
    )
    .option("--seconds <s>", "of a continuation (default: 3.5)", parseNumber("--seconds"))
    .option("--prompt-seconds <s>", "that are continued (default: 4)", parseNumber("--prompt-seconds"))
    .option(
      "--strengths <list>",
      "to try, 1 being the distance between the classes (default: 0.3,0.6,1,1.5)",
      parseNumbers("--strengths"),
    )
    .option("--guidance <g>", "of continuations; 1 turns it off (default: 3)", parseNumber("--guidance"))
    .option("--temperature <t>", "of continuations (default: 1)", parseNumber("--temperature"))
    .option(
      "--steer-seconds <s>",
      "steered for, after the prompt (default: to the end)",
      parseNumber("--steer-seconds"),
    )
    .option(
      "--vectors <folder>",
      "write classes whose directions beat random ones there, as steering by name (MODEL/vectors)",
    )
    .action(runSeed);
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

async function runSeed({
  audio,
  judge: folder,
  json,
  output,
  strengths,
  vectors,
  ...options
}: SeedOptions): Promise<void> {
  const material = audio === undefined ? undefined : await readLabelledAudio(audio);
  const judge = await loadJudge(folder);
  const model = await MusicGen.load(modelDirectory(options.model), { backend: options.backend });
  const started = performance.now();
  try {
    const { result, stages } = await runSeedExperiment(model, output, {
      ...options,
      strengths: strengths === undefined ? undefined : [strengths].flat(),
      material,
      judge: (sound) => judgeAudio(judge, sound),
      onStage: (name) => {
        if (json !== true) process.stderr.write(`${name}\n`); // how many there will be depends on what is found
      },
    });
    const files = await writeSeedReport(output, result);
    const exported = vectors === undefined ? undefined : await exportVectors(result, output, vectors);
    const lines = findings(result);
    const { made, reused } = stages;
    const elapsedMs = Math.round(performance.now() - started);
    printResult(
      json === true,
      { folder: output, files, made, reused: reused.length, elapsedMs, exported, findings: lines },
      [
        ...lines,
        `${made.length} stages run, ${reused.length} from before, in ${duration(elapsedMs)}`,
        ...(exported
          ? [
              `steering by name: ${exported.length > 0 ? exported.join(", ") : "none, since no direction beat a random one"}`,
            ]
          : []),
        `wrote ${files.join(", ")} to ${output}; open report.html there`,
      ],
    );
  } finally {
    await model.dispose();
  }
}
