import { openCheckpoint, type Checkpoint } from "../checkpoint/checkpoint.js";
import type { WeightScope } from "../checkpoint/scope.js";
import { CheckpointError, UsageError } from "../errors.js";
import { loadEncodec, type EncodecWeights } from "../encodec/weights.js";
import type { CacheStorage } from "../runtime/attention.js";
import { disposeTree } from "../runtime/owner.js";
import { EXACT_FORM, type Linear, type LinearForm } from "../runtime/linear.js";
import { loadT5, type T5Weights } from "../text/t5.js";
import type { MusicGenConfig } from "./checkpoint.js";
import { loadDecoder } from "./decoder-weights.js";
import type { Decoder } from "./generation.js";
import type { Residency } from "./memory-plan.js";

/** A decoder and what brings its conditions to its width. */
export interface LoadedDecoder extends Decoder {
  readonly textProjection: Linear | undefined; // of text states
  readonly melodyProjection: Linear | undefined; // of chroma
}

/** How the decoder is kept, and multiplied with. */
export interface DecoderForm extends LinearForm {
  readonly cacheStorage: CacheStorage; // of its keys and values while it generates
}

const EXACT_DECODER: DecoderForm = { ...EXACT_FORM, cacheStorage: "f32" };

/** All three networks. */
export interface Loaded {
  readonly text: T5Weights;
  readonly decoder: LoadedDecoder;
  readonly codec: EncodecWeights;
}

const PREFIXES: Readonly<Record<keyof Loaded, readonly string[]>> = {
  text: ["text_encoder"],
  decoder: ["decoder", "enc_to_dec_proj", "audio_enc_to_dec_proj"],
  codec: ["audio_encoder"],
};

/** The networks of one checkpoint directory, loaded when they are first needed. */
export class Networks {
  readonly directory: string;
  readonly config: MusicGenConfig;
  readonly residency: Residency;
  readonly form: DecoderForm;
  readonly #loaded = new Map<keyof Loaded, Promise<Loaded[keyof Loaded]>>();
  #present: Loaded | undefined;

  /**
   * @param checkpoint used for its names only, and may be closed afterwards
   * @param form of the decoder; what it leaves out is exact
   * @throws {CheckpointError} if it holds tensors that belong to none of the networks.
   */
  constructor(checkpoint: Checkpoint, config: MusicGenConfig, residency: Residency, form: Partial<DecoderForm> = {}) {
    requireKnownNames(checkpoint);
    this.directory = checkpoint.directory;
    this.config = config;
    this.residency = residency;
    this.form = { ...EXACT_DECODER, ...form };
  }

  /** The text encoder. It stays the networks' own, as do the others. @throws {CheckpointError} */
  text(): Promise<T5Weights> {
    return this.#load("text", (scope) => loadT5(scope.scope("text_encoder"), this.config.text));
  }

  /** The decoder and the projection of the text states. @throws {CheckpointError} */
  decoder(): Promise<LoadedDecoder> {
    return this.#load("decoder", async (scope) => {
      const { decoder: config, text } = this.config;
      const { decoder: weights, ...rest } = await loadDecoder(scope, config, text.width, this.form);
      return { weights, config, cacheStorage: this.form.cacheStorage, ...rest };
    });
  }

  /** The codec. @throws {CheckpointError} */
  codec(): Promise<EncodecWeights> {
    return this.#load("codec", (scope) => loadEncodec(scope.scope("audio_encoder"), this.config.codec));
  }

  /** Reads all weights now. Only for networks that stay together. */
  async loadAll(): Promise<void> {
    this.#present = { text: await this.text(), decoder: await this.decoder(), codec: await this.codec() };
  }

  /**
   * All networks at once, without waiting.
   *
   * @throws {UsageError} if {@link loadAll} was not called.
   */
  loaded(): Loaded {
    if (this.#present) return this.#present;
    throw new UsageError({
      asked: "step through the model without waiting",
      found: this.residency === "staged" ? "networks that take turns in memory" : "networks that are loaded on demand",
      todo: "Use `for await … of` instead of `for … of`",
    });
  }

  /** Frees every network. */
  async dispose(): Promise<void> {
    this.#present = undefined;
    for (const name of [...this.#loaded.keys()]) await this.#free(name);
  }

  async #load<Name extends keyof Loaded>(
    name: Name,
    read: (scope: WeightScope) => Promise<Loaded[Name]>,
  ): Promise<Loaded[Name]> {
    const present = this.#loaded.get(name) as Promise<Loaded[Name]> | undefined;
    if (present) return present;
    if (this.residency === "staged") await this.dispose();
    const loading = this.#read(name, read);
    this.#loaded.set(name, loading);
    try {
      return await loading;
    } catch (error) {
      this.#loaded.delete(name);
      throw error;
    }
  }

  async #read<Name extends keyof Loaded>(
    name: Name,
    read: (scope: WeightScope) => Promise<Loaded[Name]>,
  ): Promise<Loaded[Name]> {
    const checkpoint = await openCheckpoint(this.directory);
    try {
      const weights = await read(checkpoint.scope());
      checkpoint.finish(...PREFIXES[name]);
      return weights;
    } finally {
      await checkpoint.close();
    }
  }

  async #free(name: keyof Loaded): Promise<void> {
    const loading = this.#loaded.get(name);
    this.#loaded.delete(name);
    disposeTree(await loading);
  }
}

/** Each network proves that it uses all tensors under its prefixes; this proves that there are no others. */
function requireKnownNames({ directory, tensors }: Checkpoint): void {
  const prefixes = Object.values(PREFIXES).flat();
  const strangers = [...tensors.keys()].filter((name) => !prefixes.some((prefix) => name.startsWith(`${prefix}.`)));
  if (strangers.length === 0) return;
  throw new CheckpointError({
    asked: `open the checkpoint ${directory}`,
    found: `${strangers.length} tensors that belong to no network of MusicGen: ${strangers.join(", ")}`,
    todo: `Every tensor's name must start with one of ${prefixes.join(", ")}`,
  });
}
