import { Command, Option } from "commander";

import { joinInterventions } from "../activations/intervention.js";
import { readWav } from "../audio/wav.js";
import { UsageError } from "../errors.js";
import type { Generation } from "../musicgen.js";
import { MusicGen } from "../musicgen.js";
import { WEIGHT_STORAGES, type WeightStorage } from "../runtime/linear.js";
import { readSteering, type SteeringFiles } from "../steering/files.js";
import { withStrength } from "../steering/spec.js";
import { steer } from "../steering/steering.js";
import { checkWritable, saveClips } from "./clips.js";
import { backendOption, jsonOption, modelDirectory, modelOption, parseNumber } from "./options.js";
import { duration, printResult, ProgressLine } from "./output.js";

interface Options {
  readonly output: string;
  readonly codes?: string;
  readonly model?: string;
  readonly backend?: string;
  readonly weights?: WeightStorage;
  readonly json?: boolean;
  readonly seconds?: number;
  readonly frames?: number;
  readonly negative?: string;
  readonly guidance?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly greedy?: boolean;
  readonly seed?: number;
  readonly count?: number;
  readonly promptAudio?: string;
  readonly steer?: readonly string[];
  readonly strength?: number;
}

/** `tonearm generate`: text to music. */
export function generateCommand(): Command {
  return new Command("generate")
    .description("generate music from a text")
    .argument("[text]", "what the music should be; without it the model plays unconditionally")
    .requiredOption("-o, --output <file.wav>", "where the clip goes; with --count, numbers are put before .wav")
    .option("--codes <file.safetensors>", "also write the codes: int32 [count, codebooks, frames]")
    .option("--seconds <s>", "length of the clip, the audio prompt included (default: 10)", parseNumber("--seconds"))
    .option("--frames <f>", "length in codec frames instead (50 a second)", parseNumber("--frames"))
    .option("--negative <text>", "what the music should not be")
    .option(
      "--guidance <g>",
      "how strongly the text is followed; 1 turns guidance off (default: 3)",
      parseNumber("--guidance"),
    )
    .option("--temperature <t>", "above 1 wilder, below 1 tamer (default: 1)", parseNumber("--temperature"))
    .option("--top-k <k>", "draw from the k most likely tokens; 0: from all (default: 250)", parseNumber("--top-k"))
    .option(
      "--top-p <p>",
      "draw from the most likely tokens that reach this probability (default: 1)",
      parseNumber("--top-p"),
    )
    .option("--greedy", "always take the most likely token; for tests, the music gets stuck in loops")
    .option(
      "--seed <n>",
      "the same seed gives the same clip (default: a random one, which is reported)",
      parseNumber("--seed"),
    )
    .option("--count <n>", "how many clips (default: 1)", parseNumber("--count"))
    .option("--prompt-audio <in.wav>", "a sound to continue")
    .option("--steer <spec.json...>", "steer its activations as these specs say (`tonearm steer-spec` makes one)")
    .option("--strength <s>", "instead of every strength of the specs", parseNumber("--strength"))
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(
      new Option(
        "--weights <storage>",
        "how the native backend stores the decoder (default: in 16 bits where that is exact); int8 and int4 are not exact",
      ).choices(WEIGHT_STORAGES.filter((storage) => storage !== "exact")),
    )
    .addOption(jsonOption())
    .action(run);
}

async function run(text: string | undefined, options: Options): Promise<void> {
  const started = performance.now();
  const outputs = [options.output, ...(options.codes === undefined ? [] : [options.codes])];
  await checkWritable(outputs);
  const promptAudio = options.promptAudio === undefined ? undefined : await readWav(options.promptAudio);
  const specs = await readSpecs(options);
  const model = await MusicGen.load(modelDirectory(options.model), {
    backend: options.backend,
    weights: options.weights,
  });
  const progress = new ProgressLine(options.json !== true);
  const interrupt = new AbortController();
  const stop = (): void => interrupt.abort();
  process.once("SIGINT", stop); // a second Ctrl-C ends the process at once
  try {
    const steering = joinInterventions(specs.map(({ spec, vectors }) => steer(model, spec, vectors)));
    const generation = await model.generate({
      ...options,
      text,
      promptAudio,
      ...(specs.length > 0 ? { steering } : {}),
      signal: interrupt.signal,
      onProgress: ({ stage, done, total }) => progress.update(stage, done, total),
    });
    progress.finish();
    const files = await saveClips(generation, options.output, options.codes);
    report(generation, files, performance.now() - started, options);
  } finally {
    process.removeListener("SIGINT", stop);
    progress.finish();
    await model.dispose();
  }
}

async function readSpecs({ steer: files = [], strength }: Options): Promise<readonly SteeringFiles[]> {
  if (strength !== undefined && files.length === 0) {
    throw new UsageError({
      asked: `--strength ${strength}`,
      found: "no steering that it could be the strength of",
      todo: "Give a spec with --steer",
    });
  }
  const read = await Promise.all(files.map(readSteering));
  return strength === undefined ? read : read.map((one) => ({ ...one, spec: withStrength(one.spec, strength) }));
}

function report(generation: Generation, files: readonly string[], elapsed: number, options: Options): void {
  const { interrupted, settings, audio } = generation;
  const seconds = (audio.channels[0]?.length ?? 0) / audio.sampleRate;
  const lines = files.map((file) => `wrote ${file}`);
  lines.push(
    `${generation.clips.length} × ${seconds.toFixed(2)} s in ${duration(elapsed)} on ${settings.backend}, seed ${settings.seed}`,
  );
  if (interrupted) lines.push("interrupted: the clip holds what was complete");
  printResult(options.json === true, { files, seconds, elapsedMs: Math.round(elapsed), interrupted, settings }, lines);
  if (interrupted) process.exitCode = 130;
}
