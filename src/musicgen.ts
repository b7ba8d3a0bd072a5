import type * as tf from "@tensorflow/tfjs-core";

import type { Audio } from "./audio/audio.js";
import { openCheckpoint } from "./checkpoint/checkpoint.js";
import { UsageError } from "./errors.js";
import { readMusicGenConfig, type MusicGenConfig } from "./model/checkpoint.js";
import { audioToCodes, codesToAudio, promptFrames, type Codec } from "./model/codec-audio.js";
import { checkCodes } from "./model/codes.js";
import { readTexts, type EncodedTexts } from "./model/conditioning.js";
import { disposeMemory, runDecoder, type TextMemory } from "./model/decoder.js";
import { delayCodes, delayPattern, sequenceLength, type Codes } from "./model/delay.js";
import { generateCodes, type GeneratedCodes } from "./model/generation.js";
import { rowCount, type Rows } from "./model/guidance.js";
import { memoryBudget, planResidency, requireMemory, type Residency } from "./model/memory-plan.js";
import { Networks, type LoadedDecoder } from "./model/networks.js";
import {
  planRows,
  resolveRequest,
  type GenerateOptions,
  type ResolvedRequest,
  type TextInput,
} from "./model/request.js";
import { complete, NO_TAPS } from "./runtime/announce.js";
import { useBackend, type BackendName } from "./runtime/backend.js";
import { uniformStream } from "./runtime/random.js";
import { encodeText } from "./text/t5.js";
import { findTokenizer, type TokenBatch, type Tokenizer } from "./text/tokenizer.js";
import { joinTokens } from "./text/tokens.js";
import { VERSION } from "./version.js";

/** One generated clip. */
export interface Clip {
  readonly item: number; // from 0
  readonly audio: Audio;
  readonly codes: Codes;
}

/** Everything needed to make a clip again; written into its metadata. */
export interface GenerationSettings {
  readonly tonearm: string; // version
  readonly model: string; // fingerprint of the weights
  readonly backend: BackendName;
  readonly text: string | readonly string[] | null; // null also where token ids were given
  readonly negative: string | readonly string[] | null;
  readonly frames: number;
  readonly promptFrames: number;
  readonly count: number;
  readonly seed: number;
  readonly guidance: number;
  readonly greedy: boolean;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
}

/** What `generate` returns: plain host data, nothing to dispose. */
export interface Generation {
  readonly clips: readonly Clip[];
  readonly audio: Audio; // the first clip's
  readonly codes: Codes; // the first clip's
  readonly seed: number;
  readonly interrupted: boolean; // whether the signal ended it: then clips hold what was complete
  readonly settings: GenerationSettings;
}

/** How a model is loaded. */
export interface LoadOptions {
  /** The tensor backend; without it the best one that is usable. */
  readonly backend?: string | undefined;
  /** Whether the networks share the memory or take turns; without it whichever fits. */
  readonly residency?: Residency | undefined;
}

/** What `forward` runs over. */
export interface ForwardOptions {
  /** Null: no text at all. */
  readonly text: TextInput | null;
  /** The codes of each item, all of one length. `forward` lays them out along the delay pattern. */
  readonly codes: Codes | readonly Codes[];
}

/**
 * A MusicGen checkpoint, ready to generate and to be looked into.
 *
 * ```ts
 * const model = await MusicGen.load("weights/demo");
 * const { audio } = await model.generate({ text: "slow jazz trio", seconds: 10 });
 * await writeWav("jazz.wav", audio);
 * await model.dispose();
 * ```
 */
export class MusicGen {
  readonly config: MusicGenConfig;
  readonly backend: BackendName;
  readonly fingerprint: string; // identity of the weights, for provenance
  readonly #networks: Networks;
  readonly #tokenizer: Tokenizer | undefined;

  private constructor(
    config: MusicGenConfig,
    backend: BackendName,
    fingerprint: string,
    networks: Networks,
    tokenizer: Tokenizer | undefined,
  ) {
    this.config = config;
    this.backend = backend;
    this.fingerprint = fingerprint;
    this.#networks = networks;
    this.#tokenizer = tokenizer;
  }

  /**
   * Opens a checkpoint directory in the Hugging Face layout. Weights are read when they are first needed.
   *
   * @throws {CheckpointError} if it is not a complete MusicGen checkpoint; {@link BackendError} if the backend can't be
   *   used; {@link MemoryError} if a network doesn't fit the backend.
   */
  static async load(directory: string, { backend, residency }: LoadOptions = {}): Promise<MusicGen> {
    const config = await readMusicGenConfig(directory);
    const tokenizer = await findTokenizer(directory);
    const checkpoint = await openCheckpoint(directory);
    try {
      const chosen = await useBackend(backend);
      const networks = new Networks(checkpoint, config, residency ?? planResidency(config, memoryBudget(chosen)));
      return new MusicGen(config, chosen, await checkpoint.fingerprint(), networks, tokenizer);
    } finally {
      await checkpoint.close();
    }
  }

  /** Samples per second of all audio in and out. */
  get sampleRate(): number {
    return this.config.codec.sampleRate;
  }

  /** Frees all weights. */
  async dispose(): Promise<void> {
    await this.#networks.dispose();
  }

  /**
   * Generates clips: text → states → codes → sound. Leaves no tensors behind, also when it throws or is interrupted.
   *
   * @throws {UsageError} for options out of range, {@link MemoryError} for what doesn't fit, before any work starts.
   */
  async generate(options: GenerateOptions): Promise<Generation> {
    const { text, negative, onProgress } = options;
    if (negative !== undefined && text === undefined) {
      throw new UsageError({
        asked: "a negative text without a text",
        found: "guidance has nothing to steer towards",
        todo: "Give a text as well",
      });
    }
    const texts = text === undefined ? undefined : this.#tokenize(text);
    const negatives = negative === undefined ? undefined : this.#tokenize(negative);
    const prompts = options.promptAudio === undefined ? [] : [options.promptAudio].flat();
    const promptLength = promptFrames(prompts, this.config.codec);
    const request = resolveRequest(options, this.config, promptLength);
    const rows = planRows(request, texts !== undefined, negatives !== undefined);
    requireMemory(this.config, memoryBudget(this.backend), this.#networks.residency, {
      rows: rowCount(rows),
      positions: request.frames + this.config.decoder.codebooks,
      prefill: promptLength + 1,
      frames: request.frames,
    });

    onProgress?.({ stage: "text", done: 0, total: 1 });
    const encoded = await this.#encodeTexts(rows, texts, negatives);
    try {
      const prompt = await this.#encodePrompts(prompts, request.count, options);
      const generated = await this.#generateCodes(request, rows, encoded, prompt, options);
      const clips = await this.#decodeClips(generated, request, options);
      const [first] = clips;
      if (first === undefined) throw new RangeError("a generation has at least one clip");
      const settings: GenerationSettings = {
        tonearm: VERSION,
        model: this.fingerprint,
        backend: this.backend,
        text: asWritten(text),
        negative: asWritten(negative),
        frames: request.frames,
        promptFrames: promptLength,
        count: request.count,
        seed: request.seed,
        guidance: rows.roles.length === 1 ? 1 : request.guidance,
        ...request.sampling,
      };
      const { audio, codes } = first;
      return { clips, audio, codes, seed: request.seed, interrupted: generated.interrupted, settings };
    } finally {
      encoded?.states.dispose();
    }
  }

  /**
   * Logits of a teacher-forced pass: what the model expects after each position of given codes.
   *
   * @returns [B, K, T, V] with T = F + 1 + max delay positions, position 0 being the BOS column; owned by the caller.
   * @throws {UsageError} if codes don't fit the model or their number doesn't fit the texts'.
   */
  async forward({ text, codes }: ForwardOptions): Promise<tf.Tensor4D> {
    const clips = [codes].flat();
    const { decoder: config } = this.config;
    const frames = checkCodes(clips, config);
    const texts = text === null ? undefined : this.#tokenize(text);
    const rows: Rows = { batch: clips.length, roles: [texts ? "cond" : "null"] };
    const encoded = await this.#encodeTexts(rows, texts, undefined);
    let memory: TextMemory | undefined;
    try {
      const decoder = await this.#networks.decoder();
      memory = encoded && readTexts(decoder, decoder.textProjection, encoded);
      const pattern = delayPattern(config.codebooks, config.audioChannels, config.codebookSize);
      const positions = sequenceLength(frames, pattern);
      const ids = new Int32Array(clips.length * config.codebooks * positions);
      clips.forEach((clip, item) => ids.set(delayCodes(clip, pattern), item * config.codebooks * positions));
      const { logits } = complete(
        runDecoder(
          decoder.weights,
          config,
          { ids, batch: clips.length, positions, rows: clips.length },
          { state: undefined, memory, logits: "all", positionTable: decoder.positionTable },
          NO_TAPS,
        ),
      );
      return logits;
    } finally {
      if (memory) disposeMemory(memory);
      encoded?.states.dispose();
    }
  }

  /** Encodes a sound with the codec: resampled and mixed to the model's channels. @returns ⌈samples / hop⌉ frames. */
  async encodeAudio(audio: Audio): Promise<Codes> {
    return audioToCodes(await this.#codec(), this.config.decoder, audio);
  }

  /**
   * Decodes codes to sound.
   *
   * @throws {UsageError} if the codes don't fit the model.
   */
  async decodeCodes(codes: Codes): Promise<Audio> {
    checkCodes([codes], this.config.decoder);
    return codesToAudio(await this.#codec(), this.config.decoder, codes);
  }

  async #codec(): Promise<Codec> {
    return { weights: await this.#networks.codec(), config: this.config.codec };
  }

  #tokenize(text: TextInput): TokenBatch {
    if (typeof text === "object" && "ids" in text) return text;
    if (this.#tokenizer) return this.#tokenizer.encodeBatch([text].flat());
    throw new UsageError({
      asked: `read the text ${JSON.stringify(text)}`,
      found: `no tokenizer.json in ${this.#networks.directory}`,
      todo: "Add the checkpoint's tokenizer.json, or give token ids instead of a text",
    });
  }

  /** One pass of the text encoder over all texts. The states are owned by the caller. */
  async #encodeTexts(
    { batch }: Rows,
    texts: TokenBatch | undefined,
    negatives: TokenBatch | undefined,
  ): Promise<EncodedTexts | undefined> {
    if (!texts) return undefined;
    const groups = negatives ? [texts, negatives] : [texts];
    const { tokens, starts } = joinTokens(groups);
    const textOfRow = groups.flatMap((group, index) =>
      Array.from({ length: batch }, (_, item) => (starts[index] ?? 0) + (group.batch === 1 ? 0 : item)),
    );
    const weights = await this.#networks.text();
    const states = complete(encodeText(weights, this.config.text, tokens, NO_TAPS)); // [N, S, Dt]
    return { states, mask: tokens.mask, textOfRow };
  }

  /** The codes that each clip continues, or undefined without a prompt. */
  async #encodePrompts(
    prompts: readonly Audio[],
    count: number,
    { onProgress }: GenerateOptions,
  ): Promise<readonly Codes[] | undefined> {
    const encoded: Codes[] = [];
    for (const [done, prompt] of prompts.entries()) {
      onProgress?.({ stage: "prompt", done, total: prompts.length });
      encoded.push(await this.encodeAudio(prompt));
    }
    const [only] = encoded;
    if (only === undefined) return undefined;
    return encoded.length === 1 ? Array.from({ length: count }, () => only) : encoded;
  }

  async #generateCodes(
    { frames, count, seed, guidance, sampling }: ResolvedRequest,
    rows: Rows,
    encoded: EncodedTexts | undefined,
    prompt: readonly Codes[] | undefined,
    { onProgress, signal }: GenerateOptions,
  ): Promise<GeneratedCodes> {
    const decoder: LoadedDecoder = await this.#networks.decoder();
    const memory = encoded && readTexts(decoder, decoder.textProjection, encoded);
    try {
      const walk = generateCodes(
        decoder,
        {
          frames,
          prompt,
          rows,
          memory,
          guidance,
          sampling,
          uniforms: Array.from({ length: count }, (_, item) => uniformStream(seed, item)),
          frameRate: this.config.codec.frameRate,
        },
        {
          taps: NO_TAPS,
          onStep: (done, total) => onProgress?.({ stage: "tokens", done, total }),
          signal,
        },
      );
      for (;;) {
        const next = await walk.next();
        if (next.done) return next.value;
      }
    } finally {
      if (memory) disposeMemory(memory);
    }
  }

  async #decodeClips(
    { codes, interrupted }: GeneratedCodes,
    { samples }: ResolvedRequest,
    { onProgress }: GenerateOptions,
  ): Promise<readonly Clip[]> {
    const codec = await this.#codec();
    const clips: Clip[] = [];
    for (const [item, clip] of codes.entries()) {
      onProgress?.({ stage: "audio", done: item, total: codes.length });
      const { sampleRate, channels } = await codesToAudio(codec, this.config.decoder, clip);
      const exact = interrupted ? channels : channels.map((channel) => channel.subarray(0, samples));
      clips.push({ item, codes: clip, audio: { sampleRate, channels: exact } });
    }
    onProgress?.({ stage: "audio", done: codes.length, total: codes.length });
    return clips;
  }
}

function asWritten(text: TextInput | undefined): string | readonly string[] | null {
  return text === undefined || (typeof text === "object" && "ids" in text) ? null : text;
}
