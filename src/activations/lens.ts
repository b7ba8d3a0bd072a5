import * as tf from "@tensorflow/tfjs-core";

import type { Audio } from "../audio/audio.js";
import { SiteError, UsageError } from "../errors.js";
import { delayPattern, type Codes } from "../model/delay.js";
import { sampleToken, type SamplingOptions } from "../model/sampling.js";
import type { MusicGen } from "../musicgen.js";
import { uniformStream } from "../runtime/random.js";
import type { ActivationCache } from "./cache.js";
import type { Table } from "./heat-map.js";
import { accumulatedResidual } from "./residual.js";

/**
 * The logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"): what the model would say if it stopped at a
 * layer, as numbers and as sound. The logits themselves are `model.unembed(residual)`.
 */

/** How codes are chosen from logits. */
export interface LensOptions {
  /** Which row of the logits. Default: 0. */
  readonly row?: number | undefined;
  /** How many frames; default: all that the positions of a teacher-forced pass hold. */
  readonly frames?: number | undefined;
  /** How a token is drawn; by default the likeliest is taken. */
  readonly sampling?: SamplingOptions | undefined;
  /** Where drawing starts. Default: 0. */
  readonly seed?: number | undefined;
}

const LIKELIEST: SamplingOptions = { greedy: true, temperature: 1, topK: 0, topP: 1 };

/**
 * The codes that logits stand for, with the delay pattern undone: codebook k of frame f is what is expected after position
 * f + delay(k).
 *
 * @param logits [R, K, T, V], stays the caller's
 */
export async function lensCodes(
  model: Pick<MusicGen, "config">,
  logits: tf.Tensor,
  { row = 0, frames, sampling = LIKELIEST, seed = 0 }: LensOptions = {},
): Promise<Codes> {
  const { codebooks, codebookSize, audioChannels } = model.config.decoder;
  const { delays } = delayPattern(codebooks, audioChannels, codebookSize);
  const [rows = 0, , positions = 0] = logits.shape;
  const longest = positions - Math.max(...delays);
  const count = frames ?? longest - 1;
  if (logits.shape[1] !== codebooks || logits.shape[3] !== codebookSize || row < 0 || row >= rows) {
    throw new UsageError({
      asked: `read codes from row ${row} of logits [${logits.shape.join(",")}]`,
      found: `a model of ${codebooks} codebooks of ${codebookSize}`,
      todo: "Give logits [R, K, T, V] as model.unembed makes them, and one of their rows",
    });
  }
  if (!Number.isInteger(count) || count < 1 || count > longest) {
    throw new UsageError({
      asked: `${count} frames from ${positions} positions`,
      found: `they hold up to ${longest}, less the delay of the last codebook`,
      todo: `Give 1 … ${longest}`,
    });
  }
  const own = tf.tidy(() => tf.slice(logits, [row, 0, 0, 0], [1, codebooks, positions, codebookSize]));
  try {
    const values = (await own.data()) as Float32Array; // [K, T, V]
    const uniform = uniformStream(seed, row);
    const codes = new Int32Array(codebooks * count);
    for (let frame = 0; frame < count; frame++) {
      delays.forEach((delay, k) => {
        const start = (k * positions + frame + delay) * codebookSize;
        codes[k * count + frame] = sampleToken(values.subarray(start, start + codebookSize), sampling, uniform());
      });
    }
    return { values: codes, codebooks, frames: count };
  } finally {
    own.dispose();
  }
}

/**
 * The lens, heard: what one would hear if the model stopped at a layer. Every frame is what this layer expects after the
 * true past.
 *
 * @param residual [R, T, D] of any layer, as `cache["blocks.5.hook_resid_post"]`; stays the caller's
 */
export async function hearLens(
  model: Pick<MusicGen, "config" | "unembed" | "decodeCodes">,
  residual: tf.Tensor,
  options: LensOptions = {},
): Promise<Audio> {
  const logits = await model.unembed(residual);
  try {
    return await model.decodeCodes(await lensCodes(model, logits, options));
  } finally {
    logits.dispose();
  }
}

/**
 * How well each layer already knows what comes next: the log-probability, in nats, that the lens gives to the true codes
 * of a codebook, layer by position. NaN where the delay pattern has no frame next.
 *
 * @param cache with {@link accumulatedSites}, of a pass over `codes`
 * @param row of the cache
 */
export async function lensTable(
  model: Pick<MusicGen, "config" | "unembed">,
  cache: ActivationCache,
  { codes, codebook = 0, row = 0 }: { readonly codes: Codes; readonly codebook?: number; readonly row?: number },
): Promise<Table> {
  const { codebooks, codebookSize, audioChannels } = model.config.decoder;
  const delay = delayPattern(codebooks, audioChannels, codebookSize).delays[codebook];
  if (delay === undefined) {
    throw new UsageError({
      asked: `the lens for codebook ${codebook}`,
      found: `a model of ${codebooks} codebooks`,
      todo: `Give 0 … ${codebooks - 1}`,
    });
  }
  const { labels, values } = accumulatedResidual(cache);
  try {
    const [, rows, positions, width] = values.shape;
    if (row < 0 || row >= rows) {
      throw new SiteError({ asked: `row ${row}`, found: `a cache of ${rows} rows`, todo: `Give 0 … ${rows - 1}` });
    }
    const lines: number[][] = [];
    for (const [stage] of labels.entries()) {
      const residual = tf.tidy(() =>
        tf.reshape(tf.slice(values, [stage, row, 0, 0], [1, 1, positions, width]), [1, positions, width]),
      ); // [1, T, D]
      const logits = await model.unembed(residual); // [1, K, T, V]
      const scores = tf.tidy(() =>
        tf.logSoftmax(tf.squeeze(tf.slice(logits, [0, codebook, 0, 0], [1, 1, positions, codebookSize]), [0, 1])),
      ); // [T, V]
      const host = await scores.data();
      tf.dispose([residual, logits, scores]);
      lines.push(
        Array.from({ length: positions }, (_, position) => {
          const frame = position - delay;
          const known = frame >= 0 && frame < codes.frames ? codes.values[codebook * codes.frames + frame] : undefined;
          return known === undefined ? NaN : (host[position * codebookSize + known] ?? NaN);
        }),
      );
    }
    return {
      title: `log-probability of the codes of codebook ${codebook}, in nats`,
      rowTitle: "residual stream",
      columnTitle: "position",
      rows: labels,
      columns: Array.from({ length: positions }, (_, position) => `${position}`),
      values: lines,
    };
  } finally {
    values.dispose();
  }
}
