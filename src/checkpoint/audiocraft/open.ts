import { existsSync } from "node:fs";
import { join } from "node:path";

import { CheckpointError } from "../../errors.js";
import { ConfigBlock, readJsonFile } from "../config.js";
import { cachedSnapshot } from "../hub/cache.js";
import { isRepositoryName } from "../hub/repository.js";
import { hubSettings, type HubSettings } from "../hub/settings.js";
import type { JsonObject } from "../json.js";
import type { PickledDict } from "../pickle.js";
import { RenamedFile, type TensorView } from "../renamed-file.js";
import { TorchFile } from "../torch-file.js";
import type { WeightFile } from "../weight-file.js";
import { readCodecModel, readLanguageModel, type LanguageModel } from "./config.js";
import { codecViews, languageModelViews } from "./names.js";

/**
 * Checkpoints as audiocraft exports them: `state_dict.bin` with the language model, `compression_state_dict.bin` with the
 * codec or the name of a published one. The text encoder is in neither; it is a model of its own on the hub.
 *
 * A model that is only named is looked for in a folder of its last name beside the two files (`t5-base`,
 * `encodec_32khz`), then in the cache. A folder `encodec_32khz` also replaces the codec of `compression_state_dict.bin`.
 */

export const LANGUAGE_MODEL_FILE = "state_dict.bin";
const CODEC_FILE = "compression_state_dict.bin";
const STATE = "best_state";
const USUAL_CODEC = "facebook/encodec_32khz";

/** Whether a directory's files are those of audiocraft and of no other layout. */
export function isAudiocraft(directory: string): boolean {
  const others = ["config.json", "model.safetensors", "pytorch_model.bin"];
  return existsSync(join(directory, LANGUAGE_MODEL_FILE)) && !others.some((name) => existsSync(join(directory, name)));
}

/** Names on the hub of the models that audiocraft's files refer to and that are neither beside them nor in the cache. */
export async function missingModels(
  directory: string,
  settings: HubSettings = hubSettings(),
): Promise<readonly string[]> {
  const missing: string[] = [];
  const codec = await codecRepository(directory);
  if (codec !== undefined && findModel(directory, codec, settings) === undefined) missing.push(codec);
  const file = await TorchFile.open(join(directory, LANGUAGE_MODEL_FILE), STATE);
  try {
    const { textModel } = readLanguageModel(configText(file), file.path, 1);
    if (findModel(directory, textRepository(textModel), settings) === undefined)
      missing.push(textRepository(textModel));
  } finally {
    await file.close();
  }
  return missing;
}

/** config.json and generation_config.json as Hugging Face would write them for these files. */
export interface AudiocraftConfig {
  readonly root: ConfigBlock;
  readonly generation: ConfigBlock;
}

/**
 * Reads the configuration.
 *
 * @throws {CheckpointError} if a file or a model that it names is missing, or it is a variant that tonearm does not
 *   support; {@link PickleError} if a file holds more than tensors, dicts, lists and numbers.
 */
export async function readAudiocraftConfig(directory: string): Promise<AudiocraftConfig> {
  const codec = await readCodec(directory);
  const model = await readModel(directory, codec.frameRate);
  const text = await readJsonFile(join(requireModel(directory, textRepository(model.textModel)), "config.json"));
  const file = join(directory, LANGUAGE_MODEL_FILE);
  const root = { ...model.root, text_encoder: text, audio_encoder: codec.block, decoder: model.decoder };
  return { root: new ConfigBlock(root, file), generation: new ConfigBlock(model.generation, file) };
}

/** The directory with the text encoder's files, its tokenizer among them; undefined if there is none. */
export async function audiocraftTextDirectory(directory: string): Promise<string | undefined> {
  const { textModel } = await readModel(directory, 1);
  return findModel(directory, textRepository(textModel));
}

/**
 * Opens the weights, under Hugging Face's names.
 *
 * @param openOther opens the files of a directory in the Hugging Face layout
 * @returns files that the caller closes.
 * @throws as {@link readAudiocraftConfig}; {@link CheckpointError} naming tensors that are missing or unknown.
 */
export async function openAudiocraft(
  directory: string,
  openOther: (directory: string) => Promise<readonly WeightFile[]>,
): Promise<readonly WeightFile[]> {
  const files: WeightFile[] = [];
  try {
    const file = await TorchFile.open(join(directory, LANGUAGE_MODEL_FILE), STATE);
    files.push(file);
    const model = readLanguageModel(configText(file), file.path, 1);
    files[0] = new RenamedFile(file, languageModelViews(file.tensors, model, file.path));

    const codec = await codecRepository(directory);
    const codecFiles =
      codec === undefined
        ? [await TorchFile.open(join(directory, CODEC_FILE), STATE)]
        : await openOther(requireModel(directory, codec));
    for (const part of codecFiles) {
      files.push(part);
      const views = codec === undefined ? codecViews(part.tensors, part.path) : prefixed(part, "audio_encoder");
      files[files.length - 1] = new RenamedFile(part, views);
    }

    for (const part of await openOther(requireModel(directory, textRepository(model.textModel)))) {
      files.push(part);
      files[files.length - 1] = new RenamedFile(part, prefixed(part, "text_encoder", /^(shared|encoder)\./));
    }
    return files;
  } catch (error) {
    await Promise.all(files.map((file) => file.close()));
    throw error;
  }
}

/** All tensors of a file, or those whose names fit: a T5 has a decoder, too. */
function prefixed({ tensors }: WeightFile, prefix: string, wanted = /^/): ReadonlyMap<string, TensorView> {
  const names = [...tensors.keys()].filter((name) => wanted.test(name));
  return new Map(names.map((source) => [`${prefix}.${source}`, { source }]));
}

async function readModel(directory: string, frameRate: number): Promise<LanguageModel> {
  const file = await TorchFile.open(join(directory, LANGUAGE_MODEL_FILE), STATE);
  try {
    return readLanguageModel(configText(file), file.path, frameRate);
  } finally {
    await file.close();
  }
}

async function readCodec(directory: string): Promise<{ readonly block: JsonObject; readonly frameRate: number }> {
  const repository = await codecRepository(directory);
  if (repository === undefined) {
    const file = await TorchFile.open(join(directory, CODEC_FILE), STATE);
    try {
      return readCodecModel(configText(file), file.path);
    } finally {
      await file.close();
    }
  }
  const block = await readJsonFile(join(requireModel(directory, repository), "config.json"));
  const ratios = Array.isArray(block["upsampling_ratios"]) ? block["upsampling_ratios"].map(Number) : [8, 5, 4, 2];
  const hop = ratios.reduce((product, ratio) => product * ratio, 1);
  return { block, frameRate: Math.ceil(Number(block["sampling_rate"] ?? 24_000) / hop) };
}

/** The name of the published codec to use; undefined: the file holds one. */
async function codecRepository(directory: string): Promise<string | undefined> {
  if (existsSync(join(directory, lastName(USUAL_CODEC)))) return USUAL_CODEC;
  return pretrainedCodec(join(directory, CODEC_FILE));
}

/** The published codec that a file names instead of holding one. */
async function pretrainedCodec(path: string): Promise<string | undefined> {
  if (!existsSync(path)) {
    throw new CheckpointError({
      asked: `read ${path}`,
      found: "no such file",
      todo: `Put it beside ${LANGUAGE_MODEL_FILE}: it holds the codec`,
    });
  }
  const contents = await TorchFile.contents(path);
  const name = contents.entries.get("pretrained");
  if (name === undefined) return undefined;
  if (typeof name === "string" && isRepositoryName(name)) return name;
  throw new CheckpointError({
    asked: `read ${path}`,
    found: `a codec named ${JSON.stringify(name)}`,
    todo: `tonearm knows codecs by their names on the hub, such as ${USUAL_CODEC}`,
  });
}

function textRepository(name: string): string {
  return name.includes("/") ? name : `google-t5/${name}`;
}

function lastName(repository: string): string {
  return repository.slice(repository.lastIndexOf("/") + 1);
}

function findModel(directory: string, repository: string, settings = hubSettings()): string | undefined {
  const beside = join(directory, lastName(repository));
  if (existsSync(beside)) return beside;
  const names = [repository, lastName(repository)]; // T5's were first published without an owner
  return names.map((name) => cachedSnapshot({ name, revision: "main" }, settings)).find((found) => found !== undefined);
}

function requireModel(directory: string, repository: string): string {
  const found = findModel(directory, repository);
  if (found !== undefined) return found;
  throw new CheckpointError({
    asked: `read ${directory}`,
    found: `no ${repository}, which audiocraft's files refer to`,
    todo: `Run \`tonearm fetch ${repository}\`, or put its files into ${join(directory, lastName(repository))}`,
  });
}

function configText({ beside, path }: { readonly beside: PickledDict; readonly path: string }): string {
  const text = beside.entries.get("xp.cfg");
  if (typeof text === "string") return text;
  throw new CheckpointError({
    asked: `read ${path}`,
    found: "no configuration (xp.cfg) in it",
    todo: "Export it with audiocraft.utils.export, which writes one",
  });
}
