import * as tf from "@tensorflow/tfjs-core";

import { mixDown, peak, sampleCount, type Audio } from "../audio/audio.js";
import { chroma, CLASSES } from "../audio/chroma.js";
import { resample } from "../audio/resample.js";
import { UsageError } from "../errors.js";
import { linear } from "../runtime/linear.js";
import type { MusicGenConfig } from "./checkpoint.js";
import { rowCount, type Rows } from "./guidance.js";
import type { LoadedDecoder } from "./networks.js";
import { projectTexts, type EncodedTexts } from "./text-states.js";

/**
 * How a melody model is conditioned (Copet et al. 2023): not by cross-attention but by positions before the BOS column,
 * which only the first pass reads: first the chroma of a melody, then the text. Shapes: B clips, R rows (batch × guidance
 * roles), M rows of chroma, S text tokens, D width.
 */

/**
 * A melody: a sound whose pitch is followed, its channels mixed; or its chroma. As in the reference only the strongest
 * pitch class counts, several times a second: give the sound without drums and bass where you can.
 */
export type Melody = Audio | Chromagram;

/** How strong each pitch class is over time. */
export interface Chromagram {
  readonly chroma: Float32Array; // [frames, 12], C first; the model was trained on frames of one 1 and eleven 0
}

/** Positions before the BOS column. */
export interface PrefixLength {
  readonly melody: number; // M
  readonly text: number; // S
}

/** Conditions that are read as a prefix. */
export interface Prefix {
  readonly embeddings: tf.Tensor3D; // [R, M + S, D]
  readonly length: PrefixLength;
}

const SECONDS_PER_ROW = 4096 / 32_000; // the hop of the chroma
const SILENCE = 1e-4; // of full scale: −80 dB

/**
 * Checks melodies and brings sounds to one channel at the model's rate.
 *
 * A sound shorter than 16,384 samples is padded with silence on both sides, and one that is shorter or longer than the
 * model's rows of chroma is repeated or cut, as in the reference.
 *
 * @returns one for all clips, or one for each
 * @throws {UsageError} if the model reads no melodies, or a melody is silent: the model would take it for none;
 *   {@link AudioError} if a sound can't be used.
 */
export function readMelodies(melody: Melody | readonly Melody[], config: MusicGenConfig): readonly Melody[] {
  const refuse = (found: string, todo: string): UsageError => new UsageError({ asked: "follow a melody", found, todo });
  if (!config.melody) {
    throw refuse("a model that reads none", "Use a melody model, such as facebook/musicgen-melody, or leave it out");
  }
  return [melody].flat().map((one: Melody) => {
    if ("chroma" in one) return checkChromagram(one);
    const sound = mixDown(resample(one, config.codec.sampleRate));
    if (peak(sound) > SILENCE) return sound;
    throw refuse("a silent one, which the model takes for none", "Give a sound that can be heard, or leave it out");
  });
}

function checkChromagram(melody: Chromagram): Chromagram {
  const { chroma: values } = melody;
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (values.length > 0 && values.length % CLASSES === 0 && bad < 0) return melody;
  throw new UsageError({
    asked: "follow a melody given as chroma",
    found: bad < 0 ? `${values.length} values` : `${values[bad]} at position ${bad}`,
    todo: `Give [frames, ${CLASSES}] finite numbers, at least one frame`,
  });
}

/**
 * The stretch of a melody that a window of a long clip reads, the melody beginning anew where it ends, as in audiocraft.
 *
 * @param start seconds into the clip
 * @param seconds length of a window
 */
export function melodyWindow(melody: Melody, start: number, seconds: number): Melody {
  if ("chroma" in melody) {
    const frames = melody.chroma.length / CLASSES;
    const first = Math.round(start / SECONDS_PER_ROW);
    const length = Math.ceil(seconds / SECONDS_PER_ROW);
    const turned = new Float32Array(length * CLASSES);
    for (let row = 0; row < length; row++) {
      const from = ((first + row) % frames) * CLASSES;
      turned.set(melody.chroma.subarray(from, from + CLASSES), row * CLASSES);
    }
    return { chroma: turned };
  }
  const { sampleRate, channels } = melody;
  const [first, length] = [Math.floor(start * sampleRate), Math.floor(seconds * sampleRate)];
  const turn = (samples: Float32Array): Float32Array =>
    Float32Array.from({ length }, (_, n) => samples[(first + n) % sampleCount(melody)] ?? 0);
  return { sampleRate, channels: channels.map(turn) };
}

/**
 * The rows of chroma that a model reads of a melody: 1 for the strongest pitch class of a frame, repeated from the start or
 * cut to the model's length. Without a melody, and for silence, it is C throughout: what the model learnt to take for none.
 *
 * @returns [rows, 12]
 */
export function chromaRows(melody: Melody | undefined, rows: number): Float32Array {
  const values = new Float32Array(rows * CLASSES);
  if (melody && "chroma" in melody) return values.map((_, index) => melody.chroma[index % melody.chroma.length] ?? 0);
  const strongest = melody ? chroma(melody).strongest : Int32Array.of(0);
  for (let row = 0; row < rows; row++) values[row * CLASSES + (strongest[row % strongest.length] ?? 0)] = 1;
  return values;
}

/**
 * The embeddings before the BOS column: those of the melody, then those of the text, zero where there is no text and where
 * it is padded. The rows of every role but `cond` have no melody. Without texts there is one text position, of zeros.
 *
 * @param melodies none, one for all clips, or one for each
 * @returns owned by the caller; nothing for models that read their text by cross-attention.
 */
export function melodyPrefix(
  decoder: LoadedDecoder,
  modelRows: number,
  encoded: EncodedTexts | undefined,
  melodies: readonly Melody[],
  rows: Rows,
): Prefix {
  const { width } = decoder.config;
  const distinct = [undefined, ...melodies].map((melody) => chromaRows(melody, modelRows));
  const melodyOfRow = rows.roles.flatMap((role) =>
    Array.from({ length: rows.batch }, (_, item) => {
      if (role !== "cond" || melodies.length === 0) return 0;
      return melodies.length === 1 ? 1 : 1 + item;
    }),
  );
  const tokens = encoded?.states.shape[1] ?? 1;
  const embeddings = tf.tidy(() => {
    const values = Float32Array.from(distinct.flatMap((one) => [...one]));
    const classes = tf.tensor3d(values, [distinct.length, modelRows, CLASSES]); // [1 + melodies, M, 12]
    const projected = decoder.melodyProjection ? linear(classes, decoder.melodyProjection) : classes; // [·, M, D]
    const melody = tf.gather<tf.Tensor3D>(projected, melodyOfRow); // [R, M, D]
    const silent = tf.zeros<tf.Rank.R3>([1, tokens, width]); // [1, S, D]
    const texts = encoded ? tf.concat([projectTexts(decoder.textProjection, encoded), silent]) : silent; // [N + 1, S, D]
    const none = texts.shape[0] - 1;
    const textOfRow = Array.from({ length: rowCount(rows) }, (_, row) => encoded?.textOfRow[row] ?? none);
    return tf.concat([melody, tf.gather<tf.Tensor3D>(texts, textOfRow)], 1); // [R, M + S, D]
  });
  return { embeddings, length: { melody: modelRows, text: tokens } };
}
