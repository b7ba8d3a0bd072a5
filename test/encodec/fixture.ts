import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";

import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { ConfigBlock, readConfig } from "../../src/checkpoint/config.js";
import { isJsonObject } from "../../src/checkpoint/json.js";
import { writeSafetensors, type NamedTensor } from "../../src/checkpoint/safetensors.js";
import { readEncodecConfig, type EncodecConfig } from "../../src/encodec/config.js";
import { loadEncodec, type EncodecWeights } from "../../src/encodec/weights.js";
import { fixtureDirectory, fixtureJson, type GoldenTensor } from "../support/fixtures.js";

/** A codec ready to run. */
export interface LoadedCodec {
  readonly config: EncodecConfig;
  readonly weights: EncodecWeights;
}

/** The codec of a fixture checkpoint; every tensor of it must be used. */
export async function loadFixtureCodec(name: string): Promise<LoadedCodec> {
  const directory = fixtureDirectory(name);
  const config = readEncodecConfig((await readConfig(join(directory, "config.json"))).block("audio_encoder"));
  return { config, weights: await loadFrom(directory, config, "audio_encoder") };
}

/** Loads a codec from the tensors under `path` of a checkpoint directory, all of which it must use. */
export async function loadFrom(directory: string, config: EncodecConfig, ...path: string[]): Promise<EncodecWeights> {
  const checkpoint = await openCheckpoint(directory);
  try {
    const weights = await loadEncodec(checkpoint.scope(...path), config);
    checkpoint.finish(...path);
    return weights;
  } finally {
    await checkpoint.close();
  }
}

/** Loads a codec from tensors in memory, by way of a file. */
export async function loadFromTensors(
  tensors: readonly NamedTensor[],
  config: EncodecConfig,
  ...path: string[]
): Promise<EncodecWeights> {
  const directory = await mkdtemp(join(tmpdir(), "tonearm-codec-"));
  try {
    await writeSafetensors(join(directory, "model.safetensors"), tensors);
    return await loadFrom(directory, config, ...path);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Every tensor of a fixture checkpoint. */
export async function fixtureTensors(name: string): Promise<NamedTensor[]> {
  const checkpoint = await openCheckpoint(fixtureDirectory(name));
  try {
    const tensors: NamedTensor[] = [];
    for (const [tensor, { shape, file }] of checkpoint.tensors) {
      tensors.push({ name: tensor, shape, dtype: "F32", values: await file.floats(tensor) });
    }
    return tensors;
  } finally {
    await checkpoint.close();
  }
}

/** What the reference makes of one clip of {@link clipWave}. */
export interface GoldenClip {
  readonly samples: number;
  readonly latent: GoldenTensor; // [1, F, D]
  readonly codes: GoldenTensor; // [1, K, F]
  readonly margin: number; // of the closest choice between two codebook entries, in squared distance
  readonly audio: GoldenTensor; // [1, F·hop]
  readonly layers?: Readonly<Record<string, GoldenTensor>>;
}

/** test/fixtures/encodec.json, made by tools/reference/encodec_clips.py with transformers 5.18.0. */
export interface GoldenClips {
  readonly mono: readonly GoldenClip[];
  readonly odd: {
    readonly config: unknown;
    readonly weights: Readonly<Record<string, readonly number[]>>;
    readonly clip: GoldenClip;
    readonly decoded: { readonly codes: GoldenTensor; readonly audio: GoldenTensor };
  };
}

/** The clips of test/fixtures/encodec.json. */
export const goldenClips = fixtureJson("encodec.json") as GoldenClips;

/** The waveform of a golden clip: a sine over a saw, [1, N]. */
export function clipWave(samples: number): tf.Tensor2D {
  const wave = Float32Array.from({ length: samples }, (_, index) => Math.sin(0.3 * index) / 2 + (index % 7) / 20);
  return tf.tensor2d(wave, [1, samples]);
}

/** A codec of a geometry that no fixture has; its weights follow the formula of tools/reference/encodec_clips.py. */
export async function loadOddCodec(): Promise<LoadedCodec> {
  const config = readEncodecConfig(blockOf(goldenClips.odd.config));
  const tensors = Object.entries(goldenClips.odd.weights)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, shape], number): NamedTensor => {
      const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
      values.forEach((_, i) => (values[i] = Math.sin(0.11 * i * i + 0.7 * i + 1.3 * number)));
      return { name, shape, dtype: "F32", values };
    });
  return { config, weights: await loadFromTensors(tensors, config) };
}

/** A config block of a JSON value. */
export function blockOf(value: unknown): ConfigBlock {
  if (!isJsonObject(value)) throw new Error("not an object");
  return new ConfigBlock(value, "config.json");
}

/** The `audio_encoder` block of a fixture with some keys changed. */
export async function changedBlock(changes: Readonly<Record<string, unknown>>): Promise<ConfigBlock> {
  const config: unknown = JSON.parse(await readFile(join(fixtureDirectory("mono"), "config.json"), "utf8"));
  const block = isJsonObject(config) ? config["audio_encoder"] : undefined;
  return blockOf({ ...(isJsonObject(block) ? block : {}), ...changes });
}
