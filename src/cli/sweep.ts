import { Command } from "commander";

import { readWav } from "../audio/wav.js";
import { UsageError } from "../errors.js";
import { sweepSteering, type SteeringSweepRow } from "../experiments/sweep.js";
import { MusicGen } from "../musicgen.js";
import { readSteering } from "../steering/files.js";
import { backendOption, jsonOption, modelDirectory, modelOption, parseNumber } from "./options.js";
import { printResult, ProgressLine } from "./output.js";

interface Options {
  readonly output: string;
  readonly steer: string;
  readonly strengths: readonly number[];
  readonly layers: readonly number[];
  readonly control: boolean;
  readonly seconds?: number;
  readonly frames?: number;
  readonly guidance?: number;
  readonly seed: number;
  readonly promptAudio?: string;
  readonly model?: string;
  readonly backend?: string;
  readonly json?: boolean;
}

/** `tonearm sweep`: one clip at every strength and layer, measured against the clip without steering. */
export function sweepCommand(): Command {
  return new Command("sweep")
    .description("steer one clip at every strength and layer; write clips, a table and a report")
    .argument("[text]", "what the music should be")
    .requiredOption("--steer <spec.json>", "the spec, whose sites are moved to each layer in turn")
    .requiredOption("--strengths <list>", "such as 0.1,0.3,0.5", parseNumbers("--strengths"))
    .requiredOption("--layers <list>", "such as 6,12,18, from 0", parseNumbers("--layers"))
    .requiredOption("-o, --output <folder>", "where everything goes")
    .option("--no-control", "leave out the random directions of the same norm")
    .option("--seconds <s>", "length of a clip (default: 10)", parseNumber("--seconds"))
    .option("--frames <f>", "length in codec frames instead", parseNumber("--frames"))
    .option("--guidance <g>", "how strongly the text is followed (default: 3)", parseNumber("--guidance"))
    .option("--seed <n>", "of all clips", parseNumber("--seed"), 0)
    .option("--prompt-audio <in.wav>", "a sound to continue")
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(text: string | undefined, options: Options): Promise<void> {
  const { output, steer: file, strengths, layers, control, json, promptAudio: promptFile, ...generate } = options;
  const { spec, vectors } = await readSteering(file);
  const promptAudio = promptFile === undefined ? undefined : await readWav(promptFile);
  const model = await MusicGen.load(modelDirectory(options.model), { backend: options.backend });
  const progress = new ProgressLine(json !== true);
  try {
    const found = await sweepSteering(model, output, {
      spec,
      vectors,
      strengths,
      layers,
      control,
      generate: { ...generate, text, promptAudio },
      onProgress: (done, total) => progress.update("clips", done, total),
    });
    progress.finish();
    const lines = [
      HEAD,
      ...found.rows.map(line),
      `wrote ${found.files.length} files to ${output}; open report.html there`,
    ];
    printResult(json === true, { folder: output, ...found }, lines);
  } finally {
    progress.finish();
    await model.dispose();
  }
}

const HEAD = ["layer", "strength", "direction", "tokens changed", "KL", "norm", "melody kept", "centroid"].join("\t");

function line({ layer, strength, direction, effect }: SteeringSweepRow): string {
  const { tokenChange, divergence, normRatio, content, sound } = effect;
  const numbers = [tokenChange, divergence, normRatio, content, sound.centroid];
  return [
    layer,
    strength,
    direction,
    ...numbers.map((value) => (value === null ? "–" : Number(value.toPrecision(3)))),
  ].join("\t");
}

function parseNumbers(name: string): (text: string) => readonly number[] {
  return (text) => {
    if (text.trim() === "")
      throw new UsageError({ asked: `${name} ""`, found: "no number", todo: "Give a list: 1,2,3" });
    return text.split(",").map(parseNumber(name));
  };
}
