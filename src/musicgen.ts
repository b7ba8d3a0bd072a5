import * as tf from "@tensorflow/tfjs-core";

import type { Activation } from "./activations/activation.js";
import { CacheCollector, type ActivationCache, type CacheOptions } from "./activations/cache.js";
import { siteCatalogue, type Site } from "./activations/catalogue.js";
import { driveHooks, PlacedHooks, type Hook, type HookCount } from "./activations/hooks.js";
import { withIntervention, type Intervention, type RunPlan } from "./activations/intervention.js";
import { selectSites, type SiteSelection } from "./activations/select.js";
import { forwardSizes, generationSizes, prefixPositions } from "./activations/shapes.js";
import { activations, activationsAsync, type ActivationWalk } from "./activations/walk.js";
import { lastSeconds, type Audio } from "./audio/audio.js";
import { openCheckpoint } from "./checkpoint/checkpoint.js";
import { locateModel } from "./checkpoint/hub/cache.js";
import { chooseStorage } from "./checkpoint/packed-file.js";
import { codecSites } from "./encodec/sites.js";
import { UsageError } from "./errors.js";
import { readMusicGenConfig, type MusicGenConfig } from "./model/checkpoint.js";
import { audioToCodes, codesToAudio, promptFrames } from "./model/codec-audio.js";
import { checkCodes } from "./model/codes.js";
import { unembed } from "./model/decoder.js";
import type { Codes } from "./model/delay.js";
import { forwardStops, type ForwardPlan } from "./model/forward.js";
import { rowCount } from "./model/guidance.js";
import { memoryBudget, planResidency, requireMemory } from "./model/memory-plan.js";
import { Networks } from "./model/networks.js";
import { readMelodies } from "./model/melody.js";
import type { PassStop } from "./model/pass.js";
import { encodeTexts, generateClips, textStops, type PipelineInput, type TextTokens } from "./model/pipeline.js";
import {
  planRows,
  resolveLength,
  resolveRequest,
  type GenerateOptions,
  type ResolvedRequest,
  type TextInput,
} from "./model/request.js";
import { isBlock, streamClips, type AudioBlock } from "./model/streaming.js";
import { disposeTexts } from "./model/text-states.js";
import { isTimed, placeTexts, withStretches, type TimedText } from "./model/timed-text.js";
import type {
  AudioStream,
  ForwardOptions,
  Generation,
  GenerationSettings,
  HookedGenerateOptions,
  LoadOptions,
  Numerics,
  StreamEnd,
  StreamOptions,
  Unembedding,
  WrittenText,
} from "./musicgen-types.js";
import { complete, completeAsync, NO_TAPS, type Taps } from "./runtime/announce.js";
import { requireCacheStorage } from "./runtime/attention.js";
import { requirePrecision } from "./runtime/linear.js";
import { useBackend, type BackendName } from "./runtime/backend.js";
import { findTokenizer, type TokenBatch, type Tokenizer } from "./text/tokenizer.js";
import { VERSION } from "./version.js";

export type * from "./musicgen-types.js";

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

  private constructor(backend: BackendName, fingerprint: string, networks: Networks, tokenizer: Tokenizer | undefined) {
    this.config = networks.config;
    this.backend = backend;
    this.fingerprint = fingerprint;
    this.#networks = networks;
    this.#tokenizer = tokenizer;
  }

  /**
   * Loads a checkpoint: a directory in the layout of Hugging Face or of audiocraft, or by its name on the hub a model that
   * was fetched (`fetchCheckpoint`, `tonearm fetch`).
   *
   * @throws {HubError} if a model of that name is not in the cache; {@link CheckpointError} if it is not a complete
   *   MusicGen checkpoint; {@link BackendError} if the backend can't be used; {@link UsageError} if it can't store weights,
   *   or keys and values, or compute, as asked; {@link MemoryError} if a network doesn't fit the backend.
   */
  static async load(model: string, options: LoadOptions = {}): Promise<MusicGen> {
    const { backend, residency, onDemand, weights, cache = "f32", compute = "f32" } = options;
    const directory = locateModel(model);
    const config = await readMusicGenConfig(directory);
    const tokenizer = await findTokenizer(directory);
    const checkpoint = await openCheckpoint(directory);
    try {
      const packed = chooseStorage(checkpoint.files, weights);
      const chosen = await useBackend(backend);
      requireCacheStorage(cache);
      requirePrecision(compute);
      const storage = chosen === "native" ? packed : weights; // elsewhere packed weights are unpacked
      const networks = new Networks(
        checkpoint,
        config,
        residency ?? planResidency(config, memoryBudget(chosen, storage, cache)),
        { ...(storage && { storage }), cacheStorage: cache, precision: compute },
      );
      const fingerprint = await checkpoint.fingerprint();
      if (networks.residency === "together" && !onDemand) await networks.loadAll();
      return new MusicGen(chosen, fingerprint, networks, tokenizer);
    } finally {
      await checkpoint.close();
    }
  }

  /** Samples per second of all audio in and out. */
  get sampleRate(): number {
    return this.config.codec.sampleRate;
  }

  /** How the decoder is kept and computed with, as asked for when it was loaded. */
  get numerics(): Numerics {
    const { storage, cacheStorage, precision } = this.#networks.form;
    return { weights: storage, cache: cacheStorage, compute: precision };
  }

  /** Every site that can be read or changed, with its shape. */
  sites(): readonly Site[] {
    return siteCatalogue(this.config);
  }

  /** Frees all weights. */
  async dispose(): Promise<void> {
    await this.#networks.dispose();
  }

  /**
   * Generates clips: text → states → codes → sound. Leaves no tensors behind, also when it throws or is interrupted.
   *
   * @throws {UsageError} for options out of range, {@link MemoryError} for what doesn't fit, {@link SiteError} for hooks
   *   on sites that don't exist: before any work starts.
   */
  async generate({ steering, ...options }: HookedGenerateOptions): Promise<Generation> {
    if (steering) return this.#generateSteered(options, steering);
    const hooks = new PlacedHooks(options.hooks ?? [], this.sites());
    const generation = await driveHooks(this.#generation(options, hooks), hooks);
    if (!generation.interrupted) hooks.requireFired();
    return { ...generation, hooks: hooks.counts };
  }

  /**
   * Generates clips and gives their sound while it is being made: `for await (const block of model.stream({ text })) …`.
   * The blocks of a clip are those of what `generate` makes of the same options, without a gap; nothing is computed that
   * wasn't asked for; and leaving the loop, or the signal, ends it and frees all it holds. With several clips, blocks of
   * all of them take turns. Each `for await` generates anew, the same. `onProgress` tells of stages up to the tokens.
   *
   * @returns at once; `settings` has the seed that was drawn.
   * @throws {UsageError} for options out of range, for hooks on sites of the codec's decoder, which works in pieces here,
   *   and for networks that take turns in memory; {@link MemoryError} and {@link SiteError} as `generate`.
   */
  stream({ steering, blockSeconds = 1, ...given }: StreamOptions): AudioStream {
    const seed = given.seed ?? Math.floor(Math.random() * 2 ** 32); // drawn once for all loops
    const options = { ...given, seed, text: this.#steeredText(given, steering) };
    const { input, promptLength } = this.#generationPlan(options);
    const hooks = (): PlacedHooks => new PlacedHooks(options.hooks ?? [], this.sites());
    const decoding = codecSites(this.config.codec).find(({ walk, site }) => walk === "decode" && hooks().wants(site));
    if (decoding || !(blockSeconds > 0 && Number.isFinite(blockSeconds))) {
      throw new UsageError({
        asked: decoding ? `run a hook at ${decoding.site} of a stream` : `blocks of ${blockSeconds} seconds`,
        found: decoding ? "sound that is decoded piece by piece" : "it must be a number above 0",
        todo: decoding ? "Use generate, or decodeCodes with hooks" : "Choose a number of seconds above 0",
      });
    }
    const { sampleRate } = this.config.codec;
    const settings = { ...this.#settings(options, input, promptLength), steering: steering?.record ?? null };
    const blockSamples = Math.max(1, Math.round(blockSeconds * sampleRate));
    return {
      settings,
      sampleRate,
      channels: this.config.decoder.audioChannels,
      samples: input.request.samples,
      [Symbol.asyncIterator]: () => this.#stream(options, input, promptLength, steering, blockSamples),
    };
  }

  async *#stream(
    { hooks = [], onProgress, signal }: HookedGenerateOptions,
    input: PipelineInput,
    promptLength: number,
    steering: Intervention | undefined,
    blockSamples: number,
  ): AsyncGenerator<AudioBlock, StreamEnd, void> {
    const run = steering?.begin(this.#runPlan(input, promptLength));
    try {
      const placed = new PlacedHooks([...(run?.hooks ?? []), ...hooks], this.sites());
      const walk = streamClips(this.#networks, input, { taps: placed, onProgress, signal }, blockSamples);
      try {
        for (;;) {
          const next = await walk.next();
          if (next.done) {
            if (!next.value.interrupted) placed.requireFired();
            return { ...next.value, hooks: placed.counts };
          }
          if (isBlock(next.value)) yield next.value;
          else await placed.run(next.value);
        }
      } finally {
        await walk.return(undefined as never); // no effect on a walk that has ended
      }
    } finally {
      run?.end();
    }
  }

  /**
   * Steps through a teacher-forced pass site by site: `for (const at of model.walk({ text, codes })) …`. Where networks
   * take turns in memory, use `for await`.
   *
   * @param sites which to stop at; all by default. What is not chosen is not computed.
   */
  walk(options: ForwardOptions, sites: SiteSelection = "**"): ActivationWalk {
    const taps = this.#taps(sites);
    return {
      [Symbol.iterator]: () => activations(this.#forwardNow(options, taps), (result) => result.dispose()),
      [Symbol.asyncIterator]: () => {
        const walk = activationsAsync(this.#forward(options, taps));
        return disposingResult(walk);
      },
    };
  }

  /**
   * Steps through a generation, prefill and every step: `for await (const at of model.walkGeneration({ text })) …`.
   *
   * @param sites which to stop at; all by default. What is not chosen is not computed.
   * @returns a walk whose result is the generation
   */
  walkGeneration(options: GenerateOptions, sites: SiteSelection = "**"): AsyncGenerator<Activation, Generation, void> {
    return activationsAsync(this.#generation(options, this.#taps(sites)));
  }

  /**
   * Logits of a teacher-forced pass: what the model expects after each position of given codes.
   *
   * @returns [R, K, T, V] with T = F + 1 + max delay positions, position 0 being the BOS column; with `stopAt` the
   *   residual stream [R, T, D] before that block, in a melody model behind what it reads of melody and text. Owned by the
   *   caller.
   * @throws {UsageError} if codes don't fit the model or their number doesn't fit the texts'.
   */
  async forward(options: ForwardOptions): Promise<tf.Tensor> {
    return completeAsync(this.#forward(options, NO_TAPS));
  }

  /** A teacher-forced pass with hooks. `logits` as from {@link forward}, owned by the caller. */
  async runWithHooks(
    options: ForwardOptions,
    hooks: readonly Hook[],
  ): Promise<{ readonly logits: tf.Tensor; readonly hooks: readonly HookCount[] }> {
    const placed = new PlacedHooks(hooks, this.sites());
    const logits = await driveHooks(this.#forward(options, placed), placed);
    try {
      placed.requireFired();
    } catch (error) {
      logits.dispose();
      throw error;
    }
    return { logits, hooks: placed.counts };
  }

  /**
   * A teacher-forced pass that keeps the activations of the chosen sites.
   *
   * @param hooks run before the cache looks: it holds what they left
   * @returns `logits` as from {@link forward}, and a cache; both owned by the caller.
   * @throws {MemoryError} before the pass, if the cache would exceed its budget.
   */
  async runWithCache(
    options: ForwardOptions,
    { sites, budgetBytes }: CacheOptions,
    hooks: readonly Hook[] = [],
  ): Promise<{ readonly logits: tf.Tensor; readonly cache: ActivationCache }> {
    const collector = new CacheCollector(this.config, sites);
    const { plan, texts } = this.#forwardPlan(options);
    collector.requireBudget(this.config, forwardSizes(plan, texts, this.config), budgetBytes);
    try {
      const { logits } = await this.runWithHooks(options, [...hooks, collector.hook]);
      return { logits, cache: collector.finish() };
    } finally {
      collector.dispose();
    }
  }

  /**
   * A generation that keeps the activations of the chosen sites: those of the passes that made the clip, hooks included.
   *
   * The passes of a generation are joined along their positions, so that the cache looks like that of a teacher-forced
   * pass over the same codes (whose last positions, after the last frame, a generation has no need of).
   *
   * @returns the generation, and a cache that is the caller's.
   * @throws {MemoryError} before any work, if the cache would exceed its budget.
   */
  async generateWithCache(
    options: HookedGenerateOptions,
    { sites, budgetBytes }: CacheOptions,
  ): Promise<Generation & { readonly cache: ActivationCache }> {
    const collector = new CacheCollector(this.config, sites);
    const { input } = this.#generationPlan({ ...options, text: this.#steeredText(options, options.steering) });
    if (input.request.windows.length > 1) {
      throw new UsageError({
        asked: `keep the activations of a clip in ${input.request.windows.length} windows`,
        found: "positions that several windows read, each with keys of its own",
        todo: "Ask for a clip of one window, or keep what you need with hooks, which are told the window",
      });
    }
    collector.requireBudget(this.config, generationSizes(input, this.config), budgetBytes);
    try {
      const generation = await this.generate({ ...options, hooks: [...(options.hooks ?? []), collector.hook] });
      return { ...generation, cache: collector.finish() };
    } finally {
      collector.dispose();
    }
  }

  /**
   * Encodes a sound with the codec: resampled and mixed to the model's channels.
   *
   * @param hooks on sites of the codec's encoder, latent and quantiser; one pass for each channel
   * @returns ⌈samples / hop⌉ frames
   */
  async encodeAudio(audio: Audio, hooks: readonly Hook[] = []): Promise<Codes> {
    const placed = new PlacedHooks(hooks, this.sites());
    const codec = { weights: await this.#networks.codec(), config: this.config.codec };
    const codes = await driveHooks(audioToCodes(codec, this.config.decoder, audio, 0, placed), placed);
    placed.requireFired();
    return codes;
  }

  /**
   * Decodes codes to sound.
   *
   * @param hooks on sites of the codec's decoder; one pass for each channel
   * @throws {UsageError} if the codes don't fit the model.
   */
  async decodeCodes(codes: Codes, hooks: readonly Hook[] = []): Promise<Audio> {
    checkCodes([codes], this.config.decoder);
    const placed = new PlacedHooks(hooks, this.sites());
    const codec = { weights: await this.#networks.codec(), config: this.config.codec };
    const audio = await driveHooks(codesToAudio(codec, this.config.decoder, codes, 0, placed), placed);
    placed.requireFired();
    return audio;
  }

  /**
   * The final layer norm and the heads, from any residual stream: the logit lens (nostalgebraist 2020).
   *
   * @param residual [R, T, D], stays the caller's
   * @returns logits [R, K, T, V], owned by the caller.
   * @throws {UsageError} if it is not of the model's width.
   */
  async unembed(residual: tf.Tensor): Promise<tf.Tensor4D> {
    const { width } = this.config.decoder;
    if (residual.shape.length !== 3 || residual.shape[2] !== width) {
      throw new UsageError({
        asked: "unembed a residual stream",
        found: `one of shape [${residual.shape.join(",")}]`,
        todo: `Give [rows, positions, ${width}]`,
      });
    }
    const { weights, config } = await this.#networks.decoder();
    return complete(unembed(weights, config, residual as tf.Tensor3D, residual.shape[1], NO_TAPS));
  }

  /** The weights of {@link unembed}, as copies that are the caller's; `disposeTree` or their own `dispose` frees them. */
  async unembedding(): Promise<Unembedding> {
    const { weights, config } = await this.#networks.decoder();
    const { lnFinal, heads } = weights;
    return {
      gain: tf.clone(lnFinal.gain),
      bias: tf.clone(lnFinal.bias),
      heads: tf.reshape(heads.weight, [config.width, config.codebooks, config.codebookSize]), // [D, K, V]
    };
  }

  #taps(selection: SiteSelection): Taps {
    const sites = selectSites(selection, this.sites());
    return { wants: (site) => sites.has(site) };
  }

  async #generateSteered(options: HookedGenerateOptions, steering: Intervention): Promise<Generation> {
    const text = this.#steeredText(options, steering);
    const { input, promptLength } = this.#generationPlan({ ...options, text });
    return withIntervention(steering, this.#runPlan(input, promptLength), async (hooks) => {
      const generation = await this.generate({ ...options, text, hooks: [...hooks, ...(options.hooks ?? [])] });
      return { ...generation, settings: { ...generation.settings, steering: steering.record } };
    });
  }

  /** The text of a run, with the texts that its steering puts into the place of it. */
  #steeredText(options: GenerateOptions, steering: Intervention | undefined): GenerateOptions["text"] {
    const { frameRate } = this.config.codec;
    const stretches = steering?.texts?.(frameRate) ?? [];
    if (stretches.length === 0) return options.text;
    return withStretches(options.text, stretches, resolveLength(options, this.config.codec).frames, frameRate);
  }

  #runPlan({ request, rows }: PipelineInput, promptFrames: number): RunPlan {
    return { frames: request.frames, promptFrames, frameRate: this.config.codec.frameRate, rows };
  }

  async *#generation(options: GenerateOptions, taps: Taps): AsyncGenerator<PassStop, Generation, void> {
    const { onProgress, signal } = options;
    const { input, promptLength } = this.#generationPlan(options);
    const { request } = input;
    const { clips, interrupted } = yield* generateClips(this.#networks, input, { taps, onProgress, signal });
    const [first] = clips;
    if (first === undefined) throw new RangeError("a generation has at least one clip");
    const settings = this.#settings(options, input, promptLength);
    const { audio, codes } = first;
    return { clips, audio, codes, seed: request.seed, interrupted, settings, hooks: [] };
  }

  #settings(
    options: GenerateOptions,
    { request, rows, melodies }: PipelineInput,
    promptLength: number,
  ): GenerationSettings {
    return {
      tonearm: VERSION,
      model: this.fingerprint,
      backend: this.backend,
      ...this.numerics,
      text: writtenText(options.text, request.frames, this.config.codec.frameRate),
      negative: asWritten(options.negative),
      frames: request.frames,
      promptFrames: promptLength,
      stride: strideOf(request, this.config.codec.frameRate),
      melody: melodies.length > 0,
      count: request.count,
      seed: request.seeds ?? request.seed,
      guidance: rows.roles.length === 1 ? 1 : request.guidance,
      ...request.sampling,
      steering: null,
    };
  }

  /** Checks a request and reads its texts, before any work. */
  #generationPlan(options: GenerateOptions): { readonly input: PipelineInput; readonly promptLength: number } {
    const { text, negative } = options;
    if (negative !== undefined && text === undefined) {
      throw new UsageError({
        asked: "a negative text without a text",
        found: "guidance has nothing to steer towards",
        todo: "Give a text as well",
      });
    }
    const { texts, laterTexts } = this.#readTexts(text, () => resolveLength(options, this.config.codec).frames);
    const negatives = negative === undefined ? undefined : this.#tokenize(negative);
    const prompts = readPrompts(options);
    const melodies = options.melody === undefined ? [] : readMelodies(options.melody, this.config);
    const promptLength = promptFrames(prompts, this.config.codec);
    const request = resolveRequest(options, this.config, promptLength);
    if (negatives && request.guidance === 1) {
      throw new UsageError({
        asked: "a negative text with guidance 1",
        found: "guidance 1 turns guidance off, and the negative text with it",
        todo: "Raise the guidance (3 is usual), or leave the negative text out",
      });
    }
    const rows = planRows(request, texts !== undefined || melodies.length > 0, negatives !== undefined);
    const prefix = prefixPositions(this.config.melody, texts, negatives);
    const { form, residency } = this.#networks;
    const { storage, cacheStorage } = form;
    requireMemory(this.config, memoryBudget(this.backend, storage, cacheStorage), residency, {
      rows: rowCount(rows),
      positions:
        prefix + Math.max(...request.windows.map(({ first, end }) => end - first)) + this.config.decoder.codebooks,
      prefill: prefix + Math.max(...request.windows.map(({ known }) => known)) + 1,
      frames: request.frames,
    });

    return { input: { request, rows, texts, laterTexts, negatives, prompts, melodies }, promptLength };
  }

  async *#forward(options: ForwardOptions, taps: Taps): AsyncGenerator<PassStop, tf.Tensor, void> {
    const { plan, texts } = this.#forwardPlan(options);
    const encoded = yield* encodeTexts(this.#networks, plan.rows.batch, texts, taps);
    try {
      return yield* forwardStops(await this.#networks.decoder(), encoded, plan, taps);
    } finally {
      if (encoded) disposeTexts(encoded);
    }
  }

  /** The same without waiting, for networks that are loaded. */
  *#forwardNow(options: ForwardOptions, taps: Taps): Generator<PassStop, tf.Tensor, void> {
    const { text, decoder } = this.#networks.loaded();
    const { plan, texts } = this.#forwardPlan(options);
    const encoded = yield* textStops(text, this.config.text, plan.rows.batch, texts, taps);
    try {
      return yield* forwardStops(decoder, encoded, plan, taps);
    } finally {
      if (encoded) disposeTexts(encoded);
    }
  }

  #forwardPlan({ text, melody, codes, rows, startAt, stopAt }: ForwardOptions): {
    readonly plan: ForwardPlan;
    readonly texts: TextTokens;
  } {
    const clips = [codes].flat();
    const melodies = melody === undefined ? [] : readMelodies(melody, this.config);
    const isConditioned = text !== null || melodies.length > 0;
    const roles = rows ?? (isConditioned ? ["cond"] : ["null"]);
    const hasCond = roles.includes("cond");
    if (roles.length === 0 || new Set(roles).size < roles.length || (hasCond && !isConditioned)) {
      throw new UsageError({
        asked: `run the rows ${JSON.stringify(roles)}`,
        found: isConditioned ? "rows missing or named twice" : "no text for the cond rows",
        todo: 'Give ["cond"], ["null"] or both, and a text where there is "cond"',
      });
    }
    const read = hasCond && text !== null ? text : undefined;
    const { texts, laterTexts } = this.#readTexts(read, () => clips[0]?.frames ?? 0);
    for (const [count, what] of [
      ...[texts, ...laterTexts.map((later) => later.texts)].map((batch) => [batch?.batch ?? 1, "texts"] as const),
      [Math.max(1, melodies.length), "melodies"],
    ] as const) {
      if (count === 1 || count === clips.length) continue;
      throw new UsageError({
        asked: `run ${clips.length} clips`,
        found: `${count} ${what}`,
        todo: "Give one for all clips, or one for each",
      });
    }
    const ordered = hasCond && roles.length === 2 ? (["cond", "null"] as const) : roles;
    const conditions = { frameRate: this.config.codec.frameRate, melody: this.config.melody, melodies };
    const plan = { clips, rows: { batch: clips.length, roles: ordered }, ...conditions, startAt, stopAt };
    return { plan, texts: { texts, laterTexts, negatives: undefined } };
  }

  /**
   * Tokens of a text, and of those that take its place over time.
   *
   * @param frames of the clip, asked only where the text changes
   */
  #readTexts(text: TextInput | TimedText | undefined, frames: () => number): Pick<TextTokens, "texts" | "laterTexts"> {
    if (text === undefined) return { texts: undefined, laterTexts: [] };
    if (!isTimed(text)) return { texts: this.#tokenize(text), laterTexts: [] };
    const [first, ...others] = placeTexts(text, frames(), this.config.codec.frameRate);
    if (this.config.melody && others.length > 0) {
      throw new UsageError({
        asked: "let the text change over time",
        found: "a melody model, which reads its text once, before the first frame",
        todo: "Use a model that reads the text by cross-attention, such as facebook/musicgen-small, or give one text",
      });
    }
    return {
      texts: first && this.#tokenize(first.text),
      laterTexts: others.map(({ from, text: later }) => ({ from, texts: this.#tokenize(later) })),
    };
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
}

/** The sounds to continue, of which only the end may be wanted. @throws {UsageError} */
function readPrompts({ promptAudio, promptSeconds: seconds }: GenerateOptions): readonly Audio[] {
  const prompts = promptAudio === undefined ? [] : [promptAudio].flat();
  if (seconds === undefined) return prompts;
  if (prompts.length > 0 && Number.isFinite(seconds) && seconds > 0)
    return prompts.map((one) => lastSeconds(one, seconds));
  throw new UsageError({
    asked: `continue from ${seconds} seconds of an audio prompt`,
    found: prompts.length > 0 ? "not a number above 0" : "no audio prompt",
    todo: prompts.length > 0 ? "Give seconds above 0" : "Give the sound to continue as well",
  });
}

async function* disposingResult(walk: AsyncGenerator<Activation, tf.Tensor, void>): AsyncGenerator<Activation, void> {
  const result = yield* walk;
  result.dispose();
}

function strideOf({ windows }: ResolvedRequest, frameRate: number): number | null {
  const [first, second] = windows;
  return first && second ? (second.first - first.first) / frameRate : null;
}

function asWritten(text: TextInput | undefined): WrittenText {
  return text === undefined || (typeof text === "object" && "ids" in text) ? null : text;
}

function writtenText(text: GenerateOptions["text"], frames: number, frameRate: number): GenerationSettings["text"] {
  if (text === undefined || !isTimed(text)) return asWritten(text);
  return placeTexts(text, frames, frameRate).map((one) => ({ fromFrame: one.from, text: asWritten(one.text) }));
}
