import { Command } from "commander";

import { openCheckpoint, type Checkpoint } from "../checkpoint/checkpoint.js";
import { readMusicGenConfig, type MusicGenConfig } from "../model/checkpoint.js";
import { jsonOption, modelDirectory } from "./options.js";
import { bytes, printResult } from "./output.js";

/** `tonearm inspect`: what a checkpoint is made of, without loading it. */
export function inspectCommand(): Command {
  return new Command("inspect")
    .description("show a checkpoint's shapes, sizes and identity")
    .argument("[model]", "checkpoint directory (default: the embedded one)")
    .addOption(jsonOption())
    .action(run);
}

async function run(given: string | undefined, { json }: { readonly json?: boolean }): Promise<void> {
  const directory = modelDirectory(given);
  const config = await readMusicGenConfig(directory);
  const checkpoint = await openCheckpoint(directory);
  try {
    const networks = {
      text: measure(checkpoint, ["text_encoder."]),
      decoder: measure(checkpoint, ["decoder.", "enc_to_dec_proj."]),
      codec: measure(checkpoint, ["audio_encoder."]),
    };
    const fingerprint = await checkpoint.fingerprint();
    const files = checkpoint.files.map(({ path }) => path);
    printResult(json === true, { directory, fingerprint, files, config, networks }, [
      `${directory}: MusicGen, ${config.decoder.audioChannels === 2 ? "stereo" : "mono"}`,
      `fingerprint ${fingerprint}`,
      ...describe(config, networks),
    ]);
  } finally {
    await checkpoint.close();
  }
}

interface Measured {
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
  readonly dtypes: readonly string[];
}

function measure({ tensors }: Checkpoint, prefixes: readonly string[]): Measured {
  const own = [...tensors.values()].filter(({ name }) => prefixes.some((prefix) => name.startsWith(prefix)));
  return {
    tensors: own.length,
    parameters: own.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0),
    bytes: own.reduce((sum, { start, end }) => sum + end - start, 0),
    dtypes: [...new Set(own.map(({ dtype }) => dtype))],
  };
}

function describe(config: MusicGenConfig, networks: Record<"text" | "decoder" | "codec", Measured>): string[] {
  const { text, decoder, codec, generation } = config;
  const size = ({ parameters, bytes: count, dtypes }: Measured): string =>
    `${parameters.toLocaleString("en")} parameters, ${bytes(count)} ${dtypes.join("+")}`;
  return [
    `text     T5, ${text.layers} layers, width ${text.width}, ${text.heads} heads: ${size(networks.text)}`,
    `decoder  ${decoder.layers} layers, width ${decoder.width}, ${decoder.heads} heads, ` +
      `${decoder.codebooks} codebooks of ${decoder.codebookSize}: ${size(networks.decoder)}`,
    `codec    ${codec.sampleRate} Hz, ${codec.frameRate} frames a second, ` +
      `${codec.codebooks} codebooks of ${codec.codebookSize}: ${size(networks.codec)}`,
    `trained on clips up to ${generation.maxFrames / codec.frameRate} s, guidance ${generation.guidance}`,
  ];
}
