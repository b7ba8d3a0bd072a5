import { mkdir, writeFile } from "node:fs/promises";
import { join, relative, resolve } from "node:path";

import { Command } from "commander";

import { readWav, writeWav } from "../audio/wav.js";
import { UsageError } from "../errors.js";
import { measureEffect } from "../experiments/effect.js";
import { genreFusion, styleTransfer, timbreTransfer, type FusionPart } from "../experiments/recipes.js";
import { MusicGen } from "../musicgen.js";
import { readNamedVectors } from "../steering/files.js";
import type { SteeringSpec } from "../steering/spec.js";
import { steer } from "../steering/steering.js";
import { backendOption, jsonOption, modelDirectory, modelOption, parseNumber } from "./options.js";
import { printResult, ProgressLine } from "./output.js";

const RECIPES = ["timbre-transfer", "style-transfer", "genre-fusion"] as const;

interface Options {
  readonly output: string;
  readonly vectors: string;
  readonly from?: string;
  readonly to?: string;
  readonly fuse?: string;
  readonly orthogonal?: boolean;
  readonly sites: string;
  readonly strength?: number;
  readonly fade?: number;
  readonly text?: string;
  readonly promptAudio?: string;
  readonly seconds?: number;
  readonly seed: number;
  readonly model?: string;
  readonly backend?: string;
  readonly json?: boolean;
}

/** `tonearm recipe`: an experiment from its inputs to two clips, with and without steering, and their measures. */
export function recipeCommand(): Command {
  return new Command("recipe")
    .description("run an experiment: a clip with steering, the same without, and how they differ")
    .argument("<name>", RECIPES.join(", "))
    .requiredOption("--vectors <file>", "vectors of `tonearm probe`")
    .requiredOption("--sites <site>", "where to steer, such as blocks.19.hook_resid_post")
    .requiredOption("-o, --output <folder>", "where spec, clips and measures go")
    .option("--from <concept>", "of a transfer: what the audio prompt is")
    .option("--to <concept>", "of a transfer: what the continuation should be")
    .option("--prompt-audio <in.wav>", "of a transfer: the sound to continue")
    .option("--fuse <weights>", "of a fusion: jazz=0.4,rock=0.2 or over time jazz=0.5>0,rock=0>0.5")
    .option("--orthogonal", "of a fusion: what genres share counts for the first one only")
    .option("--strength <s>", "of a transfer (default: 0.3)", parseNumber("--strength"))
    .option("--fade <s>", "of a transfer: seconds until the strength is reached", parseNumber("--fade"))
    .option("--text <text>", "what the music should be; without it the model plays unconditionally")
    .option("--seconds <s>", "length of the clips, the audio prompt included (default: 10)", parseNumber("--seconds"))
    .option("--seed <n>", "of both clips", parseNumber("--seed"), 0)
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(name: string, options: Options): Promise<void> {
  const { output, seed, seconds, text, json } = options;
  const promptAudio = options.promptAudio === undefined ? undefined : await readWav(options.promptAudio);
  const promptSeconds = promptAudio ? (promptAudio.channels[0]?.length ?? 0) / promptAudio.sampleRate : 0;
  const made = makeSpec(name, options, promptSeconds);
  const spec = text === undefined ? onAllRows(made) : made;
  const vectors = await readNamedVectors(spec, output);
  const model = await MusicGen.load(modelDirectory(options.model), { backend: options.backend });
  const progress = new ProgressLine(json !== true);
  try {
    const steering = steer(model, spec, vectors);
    const shared = { text, promptAudio, seconds, seed };
    const watch = (which: string) => ({
      onProgress: (at: { readonly stage: string; readonly done: number; readonly total: number }) =>
        progress.update(`${which}, ${at.stage}`, at.done, at.total),
    });
    const steered = await model.generate({ ...shared, steering, ...watch("steered") });
    const clean = await model.generate({ ...shared, ...watch("clean") });
    const { guidance, promptFrames } = clean.settings;
    const effect = await measureEffect({ model, steering, text: text ?? null, guidance, promptFrames, clean, steered });
    await mkdir(output, { recursive: true });
    await writeWav(join(output, "steered.wav"), steered.audio, { metadata: { ...steered.settings } });
    await writeWav(join(output, "clean.wav"), clean.audio, { metadata: { ...clean.settings } });
    await writeFile(join(output, "spec.json"), `${JSON.stringify(spec, null, 2)}\n`);
    await writeFile(join(output, "effect.json"), `${JSON.stringify(effect, null, 2)}\n`);
    progress.finish();
    printResult(json === true, { folder: output, effect }, [
      `wrote steered.wav, clean.wav, spec.json and effect.json to ${output}`,
      `${Math.round(100 * effect.tokenChange)} % of the codes changed, KL ${effect.divergence?.toPrecision(3) ?? "–"}, melody kept ${effect.content?.toPrecision(3) ?? "–"}`,
    ]);
  } finally {
    progress.finish();
    await model.dispose();
  }
}

function makeSpec(name: string, options: Options, promptSeconds: number): SteeringSpec {
  const { sites, output } = options;
  const vectors = relative(resolve(output), resolve(options.vectors)) || options.vectors; // as the spec beside the clips names it
  if (name === "genre-fusion") {
    const parts = parseWeights(options.fuse);
    return genreFusion({ vectors, parts, sites, orthogonal: options.orthogonal });
  }
  const recipe = { "timbre-transfer": timbreTransfer, "style-transfer": styleTransfer }[name];
  const { from, to, strength, fade } = options;
  if (recipe && from !== undefined && to !== undefined && promptSeconds > 0) {
    return recipe({ vectors, from, to, sites, strength, promptSeconds, fadeSeconds: fade });
  }
  throw new UsageError({
    asked: `run the recipe "${name}"`,
    found: recipe ? "not all of --from, --to and --prompt-audio" : "no recipe of that name",
    todo: recipe ? "A transfer needs all three" : `Choose one of ${RECIPES.join(", ")}`,
  });
}

/** Without a text there are no conditional rows to steer. */
function onAllRows(spec: SteeringSpec): SteeringSpec {
  const segments = spec.segments.map((segment) => ({
    ...segment,
    steer: segment.steer.map((intervention) => ({ ...intervention, rows: "all" as const })),
  }));
  return { ...spec, segments };
}

/** "jazz=0.5>0,rock=0>0.5" */
function parseWeights(text: string | undefined): readonly FusionPart[] {
  return (text ?? "").split(",").map((part) => {
    const match = /^([^=]+)=([^>]+)(?:>(.+))?$/.exec(part.trim());
    const [, concept = "", from = "", to = from] = match ?? [];
    const numbers = [Number(from), Number(to)];
    if (match && numbers.every(Number.isFinite)) return { concept, from: Number(from), to: Number(to) };
    throw new UsageError({
      asked: `--fuse ${text ?? ""}`,
      found: `"${part}", which is no weight`,
      todo: "Give concept=weight or concept=weight>weight, with commas between: jazz=0.5>0,rock=0>0.5",
    });
  });
}
