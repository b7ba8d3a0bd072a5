import { access } from "node:fs/promises";
import { join } from "node:path";

import { isAudiocraft, readAudiocraftConfig } from "../checkpoint/audiocraft/open.js";
import { readConfig, type ConfigBlock } from "../checkpoint/config.js";
import { readEncodecConfig, type EncodecConfig } from "../encodec/config.js";
import { CheckpointError } from "../errors.js";
import { readT5Config, type T5Config } from "../text/config.js";
import { CLASSES } from "../audio/chroma.js";
import { readDecoderConfig, readGenerationDefaults, type DecoderConfig, type GenerationDefaults } from "./config.js";

/** The shapes of all three networks of a checkpoint and its generation defaults. */
export interface MusicGenConfig {
  readonly text: T5Config;
  readonly decoder: DecoderConfig;
  readonly codec: EncodecConfig;
  readonly generation: GenerationDefaults;
  readonly melody: MelodyConfig | undefined; // undefined: the model reads no melody
}

/** How a melody model reads a melody. */
export interface MelodyConfig {
  readonly rows: number; // positions that its chroma takes, before those of the text
}

/** What every released melody model has: 30 s of chroma. */
const MELODY_ROWS = 235;

/**
 * Reads config.json and generation_config.json of a checkpoint directory, or the configuration in audiocraft's files.
 *
 * @throws {CheckpointError} if a file is damaged, a key is unknown, or the networks don't fit each other.
 */
export async function readMusicGenConfig(directory: string): Promise<MusicGenConfig> {
  const { root, generation: generationBlock } = await readBlocks(directory);
  const kind = root.expect("model_type", "musicgen", "musicgen_melody");
  root.ignoreGeneric();
  root.ignore("initializer_factor", "sampling_rate");
  const text = readT5Config(root.block("text_encoder"));
  const decoder = readDecoderConfig(root.block("decoder"));
  const codec = readEncodecConfig(root.block("audio_encoder"));
  const melody = kind === "musicgen_melody" ? readMelodyConfig(root) : undefined;
  root.finish();

  if (decoder.crossAttention !== (melody === undefined)) {
    throw new CheckpointError({
      asked: `use the networks of ${root.file} together`,
      found: `a ${kind} whose decoder ${decoder.crossAttention ? "has" : "lacks"} cross-attention`,
      todo: "Fetch the file again: it is damaged",
    });
  }
  const perChannel = decoder.codebooks / decoder.audioChannels;
  if (codec.codebookSize !== decoder.codebookSize || codec.codebooks !== perChannel) {
    throw new CheckpointError({
      asked: `use the networks of ${root.file} together`,
      found:
        `the decoder writes ${perChannel} codebooks of ${decoder.codebookSize} entries a channel, ` +
        `the codec has ${codec.codebooks} of ${codec.codebookSize}`,
      todo: "Fetch the file again: it is damaged",
    });
  }
  return { text, decoder, codec, generation: readGenerationDefaults(generationBlock, decoder.codebookSize), melody };
}

/** The two files, or what audiocraft's files say in their stead. */
async function readBlocks(
  directory: string,
): Promise<{ readonly root: ConfigBlock; readonly generation: ConfigBlock | undefined }> {
  if (isAudiocraft(directory)) return readAudiocraftConfig(directory);
  const generationFile = join(directory, "generation_config.json");
  return {
    root: await readConfig(join(directory, "config.json")),
    generation: (await exists(generationFile)) ? await readConfig(generationFile) : undefined,
  };
}

function readMelodyConfig(root: ConfigBlock): MelodyConfig {
  root.expect("num_chroma", CLASSES, undefined);
  return { rows: root.integer("chroma_length", { min: 1, default: MELODY_ROWS }) };
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
