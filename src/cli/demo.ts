import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Command } from "commander";

import { writeRandomCheckpoint, TINY_SHAPE } from "../model/random-checkpoint.js";
import { MusicGen } from "../musicgen.js";
import { saveClips } from "./clips.js";
import { backendOption, jsonOption } from "./options.js";
import { duration, printResult, ProgressLine } from "./output.js";

const PROMPTS = ["a slow jazz trio with brushed drums", "bright electronic dance music with a synth lead"];
const SECONDS = 5;

/** `tonearm demo`: the first clips, with nothing to download. */
export function demoCommand(): Command {
  return new Command("demo")
    .description("make a first clip with the embedded checkpoint, or with random weights while there is none")
    .option("-o, --output <folder>", "where the clips go", "out")
    .addOption(backendOption())
    .addOption(jsonOption())
    .action(run);
}

interface Options {
  readonly output: string;
  readonly backend?: string;
  readonly json?: boolean;
}

async function run({ output, backend, json }: Options): Promise<void> {
  await mkdir(output, { recursive: true });
  const embedded = fileURLToPath(new URL("../../weights/demo", import.meta.url));
  const trained = existsSync(embedded);
  const directory = trained ? embedded : join(output, "random-checkpoint");
  if (!trained) await writeRandomCheckpoint(directory, TINY_SHAPE, 0);

  const model = await MusicGen.load(directory, { backend });
  const progress = new ProgressLine(json !== true);
  const clips: { prompt: string; file: string; elapsedMs: number }[] = [];
  try {
    for (const [index, prompt] of PROMPTS.entries()) {
      const started = performance.now();
      const generation = await model.generate({
        text: prompt,
        seconds: SECONDS,
        seed: index,
        onProgress: ({ stage, done, total }) =>
          progress.update(`clip ${index + 1} of ${PROMPTS.length}, ${stage}`, done, total),
      });
      const [file = ""] = await saveClips(generation, join(output, `demo-${index + 1}.wav`));
      clips.push({ prompt, file, elapsedMs: Math.round(performance.now() - started) });
    }
  } finally {
    progress.finish();
    await model.dispose();
  }
  printResult(json === true, { trained, backend: model.backend, model: model.fingerprint, clips }, [
    ...clips.map(
      ({ prompt, file, elapsedMs }) => `wrote ${file} (${SECONDS} s in ${duration(elapsedMs)}): "${prompt}"`,
    ),
    trained
      ? `made with the embedded checkpoint on ${model.backend}`
      : `made with random weights on ${model.backend}: these clips are noise; they prove that every part runs`,
  ]);
}
