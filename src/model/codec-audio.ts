import * as tf from "@tensorflow/tfjs-core";

import { toChannels, type Audio } from "../audio/audio.js";
import { resample, resampledLength } from "../audio/resample.js";
import type { EncodecConfig } from "../encodec/config.js";
import { decodeCodes, encodeWave } from "../encodec/encodec.js";
import type { EncodecWeights } from "../encodec/weights.js";
import { UsageError } from "../errors.js";
import type { Taps } from "../runtime/announce.js";
import { Owner } from "../runtime/owner.js";
import type { Codes } from "./delay.js";
import { locate, type PassStop } from "./pass.js";

/**
 * Between sound and codes. The codec itself is mono: a stereo model codes its two channels one by one and lets their
 * codebooks alternate, left 0, right 0, left 1, right 1, …
 */

/** A codec ready to run. */
export interface Codec {
  readonly weights: EncodecWeights;
  readonly config: EncodecConfig;
}

/**
 * How many frames audio prompts will take, before they are encoded.
 *
 * @throws {UsageError} if they differ: the clips of one call run in step.
 */
export function promptFrames(prompts: readonly Audio[], { sampleRate, hop }: EncodecConfig): number {
  const frames = prompts.map((prompt) => Math.ceil(resampledLength(prompt, sampleRate) / hop));
  const [first = 0] = frames;
  if (frames.every((count) => count === first)) return first;
  throw new UsageError({
    asked: `continue ${prompts.length} audio prompts at once`,
    found: `prompts of ${frames.join(", ")} frames`,
    todo: "Give prompts of one length, or generate them one by one",
  });
}

/** How a decoder's codes map to codec passes. */
export interface ChannelLayout {
  readonly codebooks: number; // K, of all channels
  readonly audioChannels: number;
}

/**
 * Encodes a sound: resampled to the codec's rate, mixed to the model's channels. One codec pass for each channel.
 *
 * @param item the clip it belongs to, for the context of its stops
 * @returns codes of ⌈N / hop⌉ frames
 */
export async function* audioToCodes(
  codec: Codec,
  layout: ChannelLayout,
  audio: Audio,
  item: number,
  taps: Taps,
): AsyncGenerator<PassStop, Codes, void> {
  const { channels } = toChannels(resample(audio, codec.config.sampleRate), layout.audioChannels);
  const perChannel: Codes[] = [];
  for (const [channel, samples] of channels.entries()) {
    const owner = new Owner();
    try {
      const wave = owner.own(tf.tensor2d(samples, [1, samples.length]));
      const walk = encodeWave(codec.weights, codec.config, wave, taps);
      const codes = owner.own(yield* locate(walk, { phase: "encode", item, channel })); // [1, C, F]
      const [, codebooks, frames] = codes.shape;
      perChannel.push({ values: Int32Array.from(await codes.data()), codebooks, frames });
    } finally {
      owner.dispose();
    }
  }
  return interleave(perChannel, layout.codebooks);
}

/**
 * Decodes codes to sound, one codec pass for each channel.
 *
 * @param item the clip they belong to, for the context of its stops
 * @returns F · hop samples at the codec's rate; no frames, no samples
 */
export async function* codesToAudio(
  codec: Codec,
  { audioChannels }: ChannelLayout,
  codes: Codes,
  item: number,
  taps: Taps,
): AsyncGenerator<PassStop, Audio, void> {
  const { sampleRate } = codec.config;
  if (codes.frames === 0)
    return { sampleRate, channels: Array.from({ length: audioChannels }, () => new Float32Array()) };
  const channels: Float32Array[] = [];
  for (const [channel, { values, codebooks, frames }] of deinterleave(codes, audioChannels).entries()) {
    const owner = new Owner();
    try {
      const ids = owner.own(tf.tensor3d(values, [1, codebooks, frames], "int32"));
      const walk = decodeCodes(codec.weights, codec.config, ids, taps);
      const wave = owner.own(yield* locate(walk, { phase: "decode-audio", item, channel })); // [1, N]
      channels.push(Float32Array.from(await wave.data()));
    } finally {
      owner.dispose();
    }
  }
  return { sampleRate, channels };
}

/** Codes of single channels, [C, F] each, as one [K, F] whose rows alternate between them. */
function interleave(perChannel: readonly Codes[], codebooks: number): Codes {
  const frames = perChannel[0]?.frames ?? 0;
  const values = new Int32Array(codebooks * frames);
  perChannel.forEach((codes, channel) => {
    for (let k = channel, own = 0; k < codebooks; k += perChannel.length, own++) {
      values.set(codes.values.subarray(own * frames, (own + 1) * frames), k * frames);
    }
  });
  return { values, codebooks, frames };
}

/** Codes of single channels, [C, F] each, out of one [K, F] whose rows alternate between them. */
export function deinterleave({ values, codebooks, frames }: Codes, audioChannels: number): readonly Codes[] {
  return Array.from({ length: audioChannels }, (_, channel) => {
    const own = codebooks / audioChannels;
    const rows = new Int32Array(own * frames);
    for (let k = 0; k < own; k++) {
      const source = (k * audioChannels + channel) * frames;
      rows.set(values.subarray(source, source + frames), k * frames);
    }
    return { values: rows, codebooks: own, frames };
  });
}
