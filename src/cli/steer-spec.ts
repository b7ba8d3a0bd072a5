import { writeFile } from "node:fs/promises";

import { Command } from "commander";

import { readMusicGenConfig } from "../model/checkpoint.js";
import { PRESET_NAMES, presetSpec } from "../steering/presets.js";
import { checkWritable } from "./clips.js";
import { jsonOption, modelDirectory, modelOption, parseNumber } from "./options.js";
import { printResult } from "./output.js";

interface Options {
  readonly vectors: string;
  readonly concept: string;
  readonly minus?: string;
  readonly strength?: number;
  readonly output?: string;
  readonly model?: string;
  readonly json?: boolean;
}

/** `tonearm steer-spec`: a preset as a steering spec, complete and ready to be edited. */
export function steerSpecCommand(): Command {
  return new Command("steer-spec")
    .description("print a steering preset as a spec that says everything, to be edited")
    .argument("<preset>", PRESET_NAMES.join(", "))
    .requiredOption("--vectors <file>", "vectors of `tonearm probe`, relative to the spec's folder")
    .requiredOption("--concept <name>", "what to steer towards: a class of the vectors")
    .option("--minus <name>", "what to steer away from")
    .option("--strength <s>", "instead of the preset's own", parseNumber("--strength"))
    .option("-o, --output <spec.json>", "where the spec goes (default: stdout)")
    .addOption(modelOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(preset: string, { output, json, model, ...options }: Options): Promise<void> {
  const spec = presetSpec(preset, await readMusicGenConfig(modelDirectory(model)), options);
  const text = JSON.stringify(spec, null, 2);
  if (output === undefined) {
    printResult(json === true, spec, [text]);
    return;
  }
  await checkWritable([output]);
  await writeFile(output, `${text}\n`);
  printResult(json === true, { file: output, spec }, [`wrote ${output}`]);
}
