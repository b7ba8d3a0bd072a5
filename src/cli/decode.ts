import { Command } from "commander";

import { writeWav } from "../audio/wav.js";
import { SafetensorsFile } from "../checkpoint/safetensors.js";
import { CheckpointError } from "../errors.js";
import type { Codes } from "../model/delay.js";
import { MusicGen } from "../musicgen.js";
import { checkWritable, numberedPath } from "./clips.js";
import { backendOption, jsonOption, modelDirectory, modelOption } from "./options.js";
import { printResult } from "./output.js";

interface Options {
  readonly output: string;
  readonly model?: string;
  readonly backend?: string;
  readonly json?: boolean;
}

/** `tonearm decode`: codes to sound. */
export function decodeCommand(): Command {
  return new Command("decode")
    .description("decode codes to sound")
    .argument("<codes.safetensors>", 'a file with a tensor "codes", int32 [count, codebooks, frames]')
    .requiredOption("-o, --output <file.wav>", "where the sound goes; for several clips, numbers are put before .wav")
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(input: string, { output, model: directory, backend, json }: Options): Promise<void> {
  await checkWritable([output]);
  const clips = await readCodes(input);
  const model = await MusicGen.load(modelDirectory(directory), { backend });
  try {
    const files: string[] = [];
    for (const [item, codes] of clips.entries()) {
      const path = numberedPath(output, item, clips.length);
      await writeWav(path, await model.decodeCodes(codes), { metadata: { decodedFrom: input, item } });
      files.push(path);
    }
    printResult(
      json === true,
      { files, backend: model.backend },
      files.map((file) => `wrote ${file}`),
    );
  } finally {
    await model.dispose();
  }
}

/** @throws {CheckpointError} if the file has no tensor "codes" of three dimensions. */
async function readCodes(path: string): Promise<readonly Codes[]> {
  const file = await SafetensorsFile.open(path);
  try {
    const entry = file.tensors.get("codes");
    const [count, codebooks, frames, ...more] = entry?.shape ?? [];
    if (count === undefined || codebooks === undefined || frames === undefined || more.length > 0) {
      throw new CheckpointError({
        asked: `read codes from ${path}`,
        found: entry ? `"codes" of shape [${entry.shape.join(",")}]` : `no tensor "codes"`,
        todo: "Give a file that `tonearm encode` or `tonearm generate --codes` wrote",
      });
    }
    const values = await file.integers("codes");
    const size = codebooks * frames;
    return Array.from({ length: count }, (_, item) => ({
      values: values.slice(item * size, (item + 1) * size),
      codebooks,
      frames,
    }));
  } finally {
    await file.close();
  }
}
