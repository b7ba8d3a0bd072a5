import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Command } from "commander";

import { measureEffect } from "../experiments/effect.js";
import { judgeAudio, loadJudge } from "../experiments/judge.js";
import { writeRandomCheckpoint, TINY_SHAPE } from "../model/random-checkpoint.js";
import { MusicGen, type HookedGenerateOptions, type Generation } from "../musicgen.js";
import { readSteering } from "../steering/files.js";
import { locateSteering, steeringNames } from "../steering/named.js";
import { steer, type Steering } from "../steering/steering.js";
import { saveClips } from "./clips.js";
import { backendOption, jsonOption } from "./options.js";
import { duration, printResult, ProgressLine } from "./output.js";

const PROMPTS = ["a slow melody", "bright electronic dance music with a synth lead"];
const SECONDS = 5;
const STEERED = "flute"; // the name of a spec in the checkpoint's folder of vectors

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
  const trained = existsSync(join(embedded, "config.json"));
  const directory = trained ? embedded : join(output, "random-checkpoint");
  if (!trained) await writeRandomCheckpoint(directory, TINY_SHAPE, 0);

  const model = await MusicGen.load(directory, { backend });
  const progress = new ProgressLine(json !== true);
  const clips: { prompt: string; file: string; elapsedMs: number }[] = [];
  let effect: SteeredDemo | undefined;
  try {
    const make = async (
      index: number,
      request: HookedGenerateOptions & { readonly text: string },
    ): Promise<Generation> => {
      const started = performance.now();
      const generation = await model.generate({
        ...request,
        seconds: SECONDS,
        onProgress: ({ stage, done, total }) => {
          progress.update(`clip ${index + 1}, ${stage}`, done, total);
        },
      });
      const name = request.steering === undefined ? `demo-${index + 1}` : `demo-${index + 1}-${STEERED}`;
      const [file = ""] = await saveClips(generation, join(output, `${name}.wav`));
      clips.push({ prompt: request.text, file, elapsedMs: Math.round(performance.now() - started) });
      return generation;
    };
    for (const [index, text] of PROMPTS.entries()) {
      const clean = await make(index, { text, seed: index });
      if (index > 0 || !(await steeringNames(directory)).includes(STEERED)) continue;
      const { spec, vectors } = await readSteering(await locateSteering(STEERED, directory));
      const steering = steer(model, spec, vectors);
      const steered = await make(index, { text, seed: index, steering });
      effect = await measureDemo(model, steering, text, clean, steered);
    }
  } finally {
    progress.finish();
    await model.dispose();
  }
  printResult(json === true, { trained, backend: model.backend, model: model.fingerprint, clips, steered: effect }, [
    ...clips.map(
      ({ prompt, file, elapsedMs }) => `wrote ${file} (${SECONDS} s in ${duration(elapsedMs)}): "${prompt}"`,
    ),
    ...(effect ? effectLines(effect) : []),
    trained
      ? `made with the embedded checkpoint on ${model.backend}`
      : `made with random weights on ${model.backend}: these clips are noise; they prove that every part runs`,
  ]);
}

/** What steering did to the first clip. */
interface SteeredDemo {
  readonly tokenChange: number; // share of the codes
  readonly centroid: readonly [number, number]; // Hz, before and after
  readonly melodyKept: number; // chroma similarity
  readonly judged: readonly [number, number]; // how sure the judge is of the target, before and after
}

async function measureDemo(
  model: MusicGen,
  steering: Steering,
  text: string,
  clean: Generation,
  steered: Generation,
): Promise<SteeredDemo> {
  const { guidance, promptFrames } = clean.settings;
  const measured = await measureEffect({ model, steering, text, guidance, promptFrames, clean, steered });
  const judge = await loadJudge();
  const sureOfTarget = ({ audio }: Generation): number =>
    judgeAudio(judge, audio).probabilities.instrument[STEERED] ?? 0;
  return {
    tokenChange: measured.tokenChange,
    centroid: [measured.cleanSound.centroid ?? 0, measured.sound.centroid ?? 0],
    melodyKept: measured.content ?? 0,
    judged: [sureOfTarget(clean), sureOfTarget(steered)],
  };
}

function effectLines({ tokenChange, centroid, melodyKept, judged }: SteeredDemo): readonly string[] {
  const percent = (share: number): string => `${Math.round(100 * share)} %`;
  return [
    `steered towards "${STEERED}": ${percent(tokenChange)} of the codes changed, chroma similarity ${melodyKept.toFixed(2)}, ` +
      `spectral centroid ${centroid[0].toFixed(0)} → ${centroid[1].toFixed(0)} Hz`,
    `an independent judge hears a ${STEERED} with ${percent(judged[0])} before, ${percent(judged[1])} after`,
  ];
}
