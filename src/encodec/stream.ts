import * as tf from "@tensorflow/tfjs-core";

import { UsageError } from "../errors.js";
import { complete, NO_TAPS } from "../runtime/announce.js";
import type { EncodecConfig } from "./config.js";
import { convolve } from "./convolution.js";
import { decoderLayout } from "./layout.js";
import { lstm, type LstmState } from "./lstm.js";
import { decoderContext, finalSamples, PIECE_FRAMES, rightReach } from "./pieces.js";
import { dequantize } from "./quantizer.js";
import { upsample } from "./seanet.js";
import type { EncodecWeights } from "./weights.js";

/**
 * Decoding while the codes are still being made. The LSTM goes on from its state, and of the convolutions before and after
 * it every piece is computed with the frames around it that it depends on; a sample is given out once no frame to come can
 * change it. So the samples are those of a decoding in one go, and come 2,402 samples (3.75 frames, 75 ms) behind the
 * frames in the official codec.
 */

/** A decoder that is fed frames and gives samples, for B waveforms that run in step. It owns tensors: `dispose` it. */
export class WaveStream {
  readonly #weights: EncodecWeights;
  readonly #config: EncodecConfig;
  readonly #batch: number;
  readonly #codes: number[][]; // B·C rows of the frames so far
  #ended = false;
  #memory: readonly LstmState[] | undefined; // after the last of the features
  #features: tf.Tensor3D | undefined; // [B, F', C]: what the convolutions after the LSTM still need
  #firstFeature = 0; // the frame of the first of them
  #lastFeature = 0; // the frame after the last of them
  #given = 0; // samples

  /**
   * @param weights stay the caller's
   * @param batch B
   */
  constructor(weights: EncodecWeights, config: EncodecConfig, batch: number) {
    this.#weights = weights;
    this.#config = config;
    this.#batch = batch;
    this.#codes = Array.from({ length: batch * config.codebooks }, () => []);
  }

  /** Frames that were fed. */
  get frames(): number {
    return this.#codes[0]?.length ?? 0;
  }

  /** Samples of each waveform that could be taken now. */
  get ready(): number {
    const final = this.#ended ? this.frames * this.#config.hop : finalSamples(this.#config, this.#knowable);
    return final - this.#given;
  }

  /**
   * Feeds frames.
   *
   * @param codes [B, K, F] row by row, each 0 … V − 1
   * @throws {UsageError} if they are not B·K·F, or the stream has been ended.
   */
  feed(codes: Int32Array, frames: number): void {
    if (this.#ended || codes.length !== this.#codes.length * frames) {
      throw new UsageError({
        asked: `feed ${frames} frames to a stream`,
        found: this.#ended ? "one that has ended" : `${codes.length} codes`,
        todo: `Give ${this.#batch} × ${this.#config.codebooks} codes a frame, before the end`,
      });
    }
    this.#codes.forEach((row, index) => {
      for (const code of codes.subarray(index * frames, (index + 1) * frames)) row.push(code);
    });
  }

  /** No frame will follow: all samples are final. */
  end(): void {
    this.#ended = true;
  }

  /**
   * Takes the next samples of every waveform.
   *
   * @param count at most {@link ready}
   * @returns B × [count]
   */
  async take(count: number): Promise<readonly Float32Array[]> {
    if (!(count >= 0 && count <= this.ready)) throw new RangeError(`${count} samples, of ${this.ready} that are ready`);
    const waves = Array.from({ length: this.#batch }, () => new Float32Array(count));
    const most = PIECE_FRAMES * this.#config.hop;
    for (let done = 0; done < count;) {
      const length = Math.min(most, count - done);
      const piece = this.#decode(length);
      try {
        const samples = await piece.data<"float32">();
        waves.forEach((wave, row) => wave.set(samples.subarray(row * length, (row + 1) * length), done));
      } finally {
        piece.dispose();
      }
      done += length;
    }
    return waves;
  }

  /** Frees what it holds. Safe to call twice. */
  dispose(): void {
    this.#features?.dispose();
    this.#features = undefined;
    tf.dispose(this.#memory?.flatMap(({ hidden, cell }) => [hidden, cell]) ?? []);
    this.#memory = undefined;
  }

  /** Up to which frame features can be known: the first convolution looks ahead. */
  get #knowable(): number {
    return this.#ended ? this.frames : Math.max(0, this.frames - rightReach(this.#config.kernel));
  }

  /** The next `length` samples. @returns [B, length], owned by the caller. */
  #decode(length: number): tf.Tensor2D {
    const { hop } = this.#config;
    this.#extendFeatures();
    const context = decoderContext(this.#config);
    const until = this.#given + length;
    const from = Math.max(0, Math.floor(this.#given / hop) - context);
    const to = Math.min(this.#lastFeature, Math.ceil(until / hop) + context);
    const piece = tf.tidy(() => {
      const features = this.#slice(from, to); // [B, to − from, C]
      const wave = complete(upsample(this.#weights.decoder, decoderLayout(this.#config), features, NO_TAPS)); // [B, N, 1]
      const own = tf.slice(wave, [0, this.#given - from * hop, 0], [this.#batch, length, 1]); // [B, length, 1]
      return tf.reshape<tf.Rank.R2>(own, [this.#batch, length]); // [B, length]
    });
    this.#given = until;
    this.#forget(Math.max(0, Math.floor(until / hop) - context));
    return piece;
  }

  /** Runs the first convolution and the LSTM over the frames that they can be run over by now. */
  #extendFeatures(): void {
    const { kernel } = this.#config;
    const [start, end] = [this.#lastFeature, this.#knowable];
    if (end <= start) return;
    const from = Math.max(0, start - (kernel - 1 - rightReach(kernel)));
    const to = Math.min(this.frames, end + rightReach(kernel));
    const { first, lstm: layers } = this.#weights.decoder;
    const fresh = tf.tidy(() => {
      const latent = dequantize(this.#weights.quantizer, this.#codesTensor(from, to)); // [B, to − from, D]
      const convolved = convolve(latent, first); // [B, to − from, C]
      const own = tf.slice(convolved, [0, start - from, 0], [this.#batch, end - start, convolved.shape[2]]); // [B, end − start, C]
      const { output, state } = lstm(layers, own, this.#memory);
      const added = tf.add<tf.Tensor3D>(output, own); // [B, end − start, C]
      const features = this.#features ? tf.concat([this.#features, added], 1) : added; // [B, F', C]
      return { features, state: state.map(({ hidden, cell }) => ({ hidden, cell })) };
    });
    this.dispose();
    this.#features = fresh.features;
    this.#memory = fresh.state;
    this.#lastFeature = end;
  }

  /** Features of frames `from` … `to − 1`. @returns a new tensor */
  #slice(from: number, to: number): tf.Tensor3D {
    if (!this.#features) throw new RangeError("samples were ready without a feature");
    const [batch, , width] = this.#features.shape;
    return tf.slice(this.#features, [0, from - this.#firstFeature, 0], [batch, to - from, width]); // [B, to − from, C]
  }

  /** Drops the features before a frame. */
  #forget(frame: number): void {
    if (frame <= this.#firstFeature) return;
    const kept = this.#slice(frame, this.#lastFeature); // [B, F', C]
    this.#features?.dispose();
    this.#features = kept;
    this.#firstFeature = frame;
  }

  /** @returns int32 [B, K, to − from] */
  #codesTensor(from: number, to: number): tf.Tensor3D {
    const values = Int32Array.from(this.#codes.flatMap((row) => row.slice(from, to)));
    return tf.tensor3d(values, [this.#batch, this.#config.codebooks, to - from], "int32");
  }
}
