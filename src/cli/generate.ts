import { Command, Option } from "commander";

import { joinInterventions } from "../activations/intervention.js";
import { mixStems } from "../audio/audio.js";
import { NORMALIZATIONS } from "../audio/normalize.js";
import { readWav } from "../audio/wav.js";
import { UsageError } from "../errors.js";
import type { TimedText } from "../model/timed-text.js";
import type { Progress } from "../model/request.js";
import { MusicGen, type GenerationSettings } from "../musicgen.js";
import { CACHE_STORAGES, type CacheStorage } from "../runtime/attention.js";
import { WEIGHT_STORAGES, type Precision, type WeightStorage } from "../runtime/linear.js";
import { readSteering, type SteeringFiles } from "../steering/files.js";
import { locateSteering } from "../steering/named.js";
import { withStrength } from "../steering/spec.js";
import { steer } from "../steering/steering.js";
import { checkWritable, saveClips, writeCodes } from "./clips.js";
import { finish, planFinish, type Finished, type FinishOptions } from "./finish.js";
import { listenForInterrupt } from "./interrupt.js";
import {
  backendOption,
  computeOption,
  jsonOption,
  modelDirectory,
  modelOption,
  parseNumber,
  parseNumbers,
} from "./options.js";
import { duration, printResult, ProgressLine } from "./output.js";
import { PCM_FORMATS, STDOUT, writeStream, type Streamed } from "./stream.js";

interface Options extends FinishOptions {
  readonly output: string;
  readonly codes?: string;
  readonly model?: string;
  readonly backend?: string;
  readonly weights?: WeightStorage;
  readonly cache?: CacheStorage;
  readonly compute?: Precision;
  readonly json?: boolean;
  readonly negative?: string;
  readonly guidance?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly greedy?: boolean;
  readonly seed?: number | readonly number[];
  readonly count?: number;
  readonly promptAudio?: string;
  readonly promptSeconds?: number;
  readonly melody?: readonly string[];
  readonly stride?: number;
  readonly stream?: boolean;
  readonly pcm?: keyof typeof PCM_FORMATS;
  readonly textAt?: readonly string[];
  readonly steer?: readonly string[];
  readonly strength?: number;
}

/** `tonearm generate`: text to music. */
export function generateCommand(): Command {
  return new Command("generate")
    .description("generate music from a text")
    .argument("[text]", "what the music should be; without it the model plays unconditionally")
    .requiredOption(
      "-o, --output <file.wav>",
      "where the clip goes; with --count, numbers are put before .wav; - with --stream: the standard output",
    )
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
      "the same seed gives the same clip; several, as in 5,9,2: a clip of each (default: a random one, which is reported)",
      parseNumbers("--seed"),
    )
    .option("--count <n>", "how many clips (default: 1)", parseNumber("--count"))
    .option("--prompt-audio <in.wav>", "a sound to continue")
    .option("--prompt-seconds <s>", "continue from only so much of its end", parseNumber("--prompt-seconds"))
    .option("--melody <in.wav...>", "a melody to follow (melody models); several files are summed, as stems")
    .option(
      "--stride <s>",
      "clips above 30 s are made in windows that begin so far apart (default: 18)",
      parseNumber("--stride"),
    )
    .option("--stream", "write the sound while it is generated")
    .addOption(
      new Option("--pcm <format>", "with --stream: bare samples, no WAV header").choices(Object.keys(PCM_FORMATS)),
    )
    .option("--loop", "cut a seamless loop of about --seconds, where the music repeats itself")
    .option("--loudness <lufs>", "bring the clip to this loudness, for example -14", parseNumber("--loudness"))
    .addOption(
      new Option(
        "--normalize <how>",
        "bring the clip to a level: -14 LUFS, a peak of -1 dB, -18 dB RMS; or only clip",
      ).choices(NORMALIZATIONS),
    )
    .option("--compress", "with --loudness: bend what comes near full scale instead of cutting it")
    .option("--text-at <seconds text...>", "what it should be from then on, such as --text-at 8 electronic; repeatable")
    .option(
      "--steer <spec.json...>",
      "steer its activations as these specs say, or by names that the model comes with, such as trumpet",
    )
    .option("--strength <s>", "instead of every strength of the specs", parseNumber("--strength"))
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(
      new Option(
        "--weights <storage>",
        "how the native backend stores the decoder (default: in 16 bits where that is exact); int8 and int4 are not exact",
      ).choices(WEIGHT_STORAGES.filter((storage) => storage !== "exact")),
    )
    .addOption(
      new Option(
        "--cache <storage>",
        "how the native backend keeps keys and values (default: f32); f16 takes half the memory and is not exact",
      ).choices(CACHE_STORAGES),
    )
    .addOption(computeOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(text: string | undefined, options: Options): Promise<void> {
  const started = performance.now();
  const { seconds } = planFinish(options);
  requireStreamable(options);
  const outputs = [options.output, ...(options.codes === undefined ? [] : [options.codes])];
  await checkWritable(outputs.filter((path) => path !== STDOUT));
  const melody = options.melody && mixStems(await Promise.all(options.melody.map((file) => readWav(file))));
  const promptAudio = options.promptAudio === undefined ? undefined : await readWav(options.promptAudio);
  const specs = await readSpecs(options);
  const model = await MusicGen.load(modelDirectory(options.model), {
    backend: options.backend,
    weights: options.weights,
    cache: options.cache,
    compute: options.compute,
    // One request uses its networks one after another (the codec twice with an audio prompt): none needs to wait in memory. A stream
    // goes back and forth between them.
    ...(options.stream === true ? {} : { residency: "staged" as const }),
  });
  const progress = new ProgressLine(options.json !== true);
  const interrupt = listenForInterrupt();
  try {
    const steering = joinInterventions(specs.map(({ spec, vectors }) => steer(model, spec, vectors)));
    const request = {
      ...options,
      seconds,
      text: textOverTime(text, options.textAt),
      promptAudio,
      melody,
      ...(specs.length > 0 ? { steering } : {}),
      signal: interrupt.signal,
      onProgress: ({ stage, done, total }: Progress) => progress.update(stage, done, total),
    };
    if (options.stream === true) {
      const stream = model.stream(request);
      const streamed = await writeStream(stream, options.output, stream.settings.count, options.pcm);
      progress.finish();
      if (options.codes !== undefined && streamed.end) {
        await writeCodes(
          options.codes,
          streamed.end.codes.map((codes) => ({ codes })),
          stream.settings.model,
        );
      }
      reportStream(stream.settings, streamed, performance.now() - started, options);
      return;
    }
    const finished = finish(await model.generate(request), options);
    progress.finish();
    const { generation, metadata } = finished;
    const files = await saveClips(generation, options.output, options.codes, metadata);
    report(finished, files, performance.now() - started, options);
  } finally {
    interrupt.release();
    progress.finish();
    await model.dispose();
  }
}

/** The text, and those of `--text-at` that take its place: "8", "electronic", "16", "rock". */
function textOverTime(text: string | undefined, pairs: readonly string[] = []): string | TimedText | undefined {
  if (pairs.length === 0) return text;
  if (pairs.length % 2 > 0) {
    throw new UsageError({
      asked: `--text-at ${pairs.join(" ")}`,
      found: `${pairs.length} words, where seconds and texts come in pairs`,
      todo: 'Give --text-at SECONDS "TEXT", after the clip\'s own text',
    });
  }
  const later = pairs.flatMap((seconds, index) =>
    index % 2 > 0 ? [] : [{ from: parseNumber("--text-at")(seconds), text: pairs[index + 1] ?? "" }],
  );
  return text === undefined ? later : [{ text }, ...later];
}

async function readSpecs({ steer: files = [], strength, model }: Options): Promise<readonly SteeringFiles[]> {
  if (strength !== undefined && files.length === 0) {
    throw new UsageError({
      asked: `--strength ${strength}`,
      found: "no steering that it could be the strength of",
      todo: "Give a spec with --steer",
    });
  }
  const paths = files.map((file) => locateSteering(file, modelDirectory(model)));
  const read = await Promise.all(paths.map(async (path) => readSteering(await path)));
  return strength === undefined ? read : read.map((one) => ({ ...one, spec: withStrength(one.spec, strength) }));
}

function requireStreamable({ output, stream, pcm }: Options): void {
  if (stream === true || (output !== STDOUT && pcm === undefined)) return;
  throw new UsageError({
    asked: pcm === undefined ? "write to the standard output" : `--pcm ${pcm}`,
    found: "no --stream",
    todo: "Add --stream",
  });
}

/** What a stream came to: on stderr where stdout has the sound. */
function reportStream(
  settings: GenerationSettings,
  { files, seconds, clipped, end, firstBlockMs }: Streamed,
  elapsed: number,
  { json, output }: Options,
): void {
  const interrupted = end?.interrupted === true;
  const lines = files.map((file) => `wrote ${file}`);
  lines.push(
    `${settings.count} × ${seconds.toFixed(2)} s in ${duration(elapsed)} on ${settings.backend}, ` +
      `the first after ${duration(firstBlockMs ?? elapsed)}, seed ${[settings.seed].flat().join(", ")}`,
  );
  if (clipped > 0) lines.push(`${clipped} samples beyond full scale were cut off`);
  if (interrupted) lines.push("interrupted: it holds what was complete");
  if (!end) lines.push("the reader closed the pipe");
  const result = { files, seconds, elapsedMs: Math.round(elapsed), firstBlockMs, clipped, interrupted, settings };
  printResult(json === true, result, lines, output === STDOUT ? process.stderr : process.stdout);
  if (interrupted) process.exitCode = 130;
}

function report(
  { generation, lines: notes }: Finished,
  files: readonly string[],
  elapsed: number,
  options: Options,
): void {
  const { interrupted, settings, audio } = generation;
  const seconds = (audio.channels[0]?.length ?? 0) / audio.sampleRate;
  const lines = files.map((file) => `wrote ${file}`);
  lines.push(
    `${generation.clips.length} × ${seconds.toFixed(2)} s in ${duration(elapsed)} on ${settings.backend}, seed ${[settings.seed].flat().join(", ")}`,
  );
  lines.push(...notes);
  if (interrupted) lines.push("interrupted: the clip holds what was complete");
  printResult(options.json === true, { files, seconds, elapsedMs: Math.round(elapsed), interrupted, settings }, lines);
  if (interrupted) process.exitCode = 130;
}
