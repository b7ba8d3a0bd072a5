import { readFileSync } from "node:fs";

import { isJsonObject } from "../json.js";

/** Which files of a repository make up a checkpoint. */

/** The weights of a checkpoint: its own files, and the index that names further ones. */
export interface WeightFiles {
  readonly files: readonly string[];
  readonly index: string | undefined;
}

const OPTIONAL = ["generation_config.json", "tokenizer.json", "preprocessor_config.json"];

const HUGGING_FACE = [
  { file: "model.safetensors", index: "model.safetensors.index.json" },
  { file: "pytorch_model.bin", index: "pytorch_model.bin.index.json" },
];

/** audiocraft's two files, which state their own configuration. */
const AUDIOCRAFT = ["state_dict.bin", "compression_state_dict.bin"];

/**
 * The best form of the weights that is there: safetensors before `.bin`, Hugging Face's names before audiocraft's.
 *
 * @returns undefined if there are none
 */
export function chooseWeights(present: readonly string[]): WeightFiles | undefined {
  for (const { file, index } of HUGGING_FACE) {
    if (present.includes(file)) return { files: [file], index: undefined };
    if (present.includes(index)) return { files: [index], index };
  }
  return AUDIOCRAFT.every((file) => present.includes(file)) ? { files: AUDIOCRAFT, index: undefined } : undefined;
}

/** What belongs to the weights: configuration and tokenizer. Without config.json audiocraft's files are the only ones. */
export function chooseSettings(present: readonly string[], { files }: WeightFiles): readonly string[] {
  if (files === AUDIOCRAFT) return [];
  return ["config.json", ...OPTIONAL.filter((file) => present.includes(file))];
}

/** The shards that an index names; undefined where it is no index, or names anything but plain files beside it. */
export function readShards(indexPath: string): readonly string[] | undefined {
  try {
    const index: unknown = JSON.parse(readFileSync(indexPath, "utf8"));
    const map = isJsonObject(index) ? index["weight_map"] : undefined;
    const shards = isJsonObject(map) ? [...new Set(Object.values(map))] : [];
    const names = shards.filter(
      (shard) => typeof shard === "string" && /^[\w-][\w.-]*\.(safetensors|bin)$/.test(shard),
    );
    return names.length === shards.length && names.length > 0 ? (names as readonly string[]).toSorted() : undefined;
  } catch {
    return undefined;
  }
}
