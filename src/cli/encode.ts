import { Command } from "commander";

import { readWav } from "../audio/wav.js";
import { MusicGen } from "../musicgen.js";
import { checkWritable, writeCodes } from "./clips.js";
import { backendOption, jsonOption, modelDirectory, modelOption } from "./options.js";
import { printResult } from "./output.js";

interface Options {
  readonly output: string;
  readonly model?: string;
  readonly backend?: string;
  readonly json?: boolean;
}

/** `tonearm encode`: sound to codes. */
export function encodeCommand(): Command {
  return new Command("encode")
    .description("encode a sound with the model's codec")
    .argument("<in.wav>", "any WAV: it is resampled and mixed to what the model needs")
    .requiredOption("-o, --output <file.safetensors>", "where the codes go: int32 [1, codebooks, frames]")
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(input: string, { output, model: directory, backend, json }: Options): Promise<void> {
  await checkWritable([output]);
  const audio = await readWav(input);
  const model = await MusicGen.load(modelDirectory(directory), { backend });
  try {
    const codes = await model.encodeAudio(audio);
    await writeCodes(output, [{ codes }], model.fingerprint);
    const { codebooks, frames } = codes;
    printResult(json === true, { file: output, codebooks, frames, backend: model.backend }, [
      `wrote ${output}: ${frames} frames of ${codebooks} codebooks`,
    ]);
  } finally {
    await model.dispose();
  }
}
