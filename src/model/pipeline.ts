import type { Audio } from "../audio/audio.js";
import type { Taps } from "../runtime/announce.js";
import { uniformStream } from "../runtime/random.js";
import type { T5Config } from "../text/config.js";
import type { T5Weights } from "../text/t5.js";
import type { TokenBatch } from "../text/tokenizer.js";
import { joinTokens } from "../text/tokens.js";
import { audioToCodes, codesToAudio, type Codec } from "./codec-audio.js";
import type { Codes } from "./delay.js";
import { encodeTextStops } from "./forward.js";
import { isPassStop, type CompletedFrames, type GeneratedCodes } from "./generation.js";
import type { Rows } from "./guidance.js";
import { generateWindows } from "./long-form.js";
import type { Melody } from "./melody.js";
import type { Networks } from "./networks.js";
import type { PassStop } from "./pass.js";
import type { Progress, ResolvedRequest } from "./request.js";
import { disposeTexts, type EncodedTexts } from "./text-states.js";

/**
 * From prompt to sound: text → states → codes → waveform. Each network is asked for when its turn comes, so that they can
 * take turns in memory.
 */

/** A request with its inputs. */
export interface PipelineInput {
  readonly request: ResolvedRequest;
  readonly rows: Rows;
  readonly texts: TokenBatch | undefined; // one row for all clips, or for each
  readonly laterTexts: readonly LaterTokens[]; // that take their place, in order
  readonly negatives: TokenBatch | undefined;
  readonly prompts: readonly Audio[]; // none, one for all clips, or one for each
  readonly melodies: readonly Melody[]; // of a melody model: none, one for all clips, or one for each
}

/** Texts that take over at a position. */
export interface LaterTokens {
  readonly from: number;
  readonly texts: TokenBatch;
}

/** Who looks on. */
export interface PipelineObserver {
  readonly taps: Taps;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** One generated clip. */
export interface Clip {
  readonly item: number; // from 0
  readonly audio: Audio;
  readonly codes: Codes;
}

/** Runs a request. Leaves no tensors behind, also when it is ended early. */
export async function* generateClips(
  networks: Networks,
  input: PipelineInput,
  observer: PipelineObserver,
): AsyncGenerator<PassStop, { readonly clips: readonly Clip[]; readonly interrupted: boolean }, void> {
  observer.onProgress?.({ stage: "text", done: 0, total: 1 });
  const encoded = yield* encodeTexts(networks, input.rows.batch, input, observer.taps);
  try {
    const prompt = yield* encodePrompts(networks, input, observer);
    const generated = yield* passStops(runDecoderNetwork(networks, input, encoded, prompt, observer));
    const clips = yield* decodeClips(networks, input.request, generated, observer);
    return { clips, interrupted: generated.interrupted };
  } finally {
    if (encoded) disposeTexts(encoded);
  }
}

/**
 * One pass of the text encoder over all texts, and one more for those of each later time: so that a clip up to there is
 * to the last bit what it would be without them.
 *
 * @param batch B; row b reads text b, or the only one, and row B + b negative b
 * @returns undefined without texts; owned by the caller.
 */
export async function* encodeTexts(
  networks: Networks,
  batch: number,
  texts: TextTokens,
  taps: Taps,
): AsyncGenerator<PassStop, EncodedTexts | undefined, void> {
  if (!texts.texts) return undefined;
  return yield* textStops(await networks.text(), networks.config.text, batch, texts, taps);
}

/** The tokens of all texts of a run. */
export type TextTokens = Pick<PipelineInput, "texts" | "laterTexts" | "negatives">;

/** The same without waiting. */
export function* textStops(
  weights: T5Weights,
  config: T5Config,
  batch: number,
  { texts, laterTexts, negatives }: TextTokens,
  taps: Taps,
): Generator<PassStop, EncodedTexts | undefined, void> {
  if (!texts) return undefined;
  const encode = function* (own: TokenBatch): Generator<PassStop, EncodedTexts, void> {
    const { tokens, textOfRow } = assignTexts(batch, own, negatives);
    const states = yield* encodeTextStops(weights, config, tokens, taps); // [N, S, Dt]
    return { states, mask: tokens.mask, textOfRow };
  };
  const encoded: EncodedTexts[] = [];
  let finished = false;
  try {
    for (const own of [texts, ...laterTexts.map((later) => later.texts)]) encoded.push(yield* encode(own));
    finished = true;
  } finally {
    if (!finished) encoded.forEach(disposeTexts);
  }
  const [first, ...others] = encoded;
  return first && { ...first, later: others.map((one, index) => ({ from: laterTexts[index]?.from ?? 0, texts: one })) };
}

/** All texts as one batch, and which of them each row reads. */
function assignTexts(
  batch: number,
  texts: TokenBatch,
  negatives: TokenBatch | undefined,
): { readonly tokens: TokenBatch; readonly textOfRow: readonly number[] } {
  const groups = negatives ? [texts, negatives] : [texts];
  const { tokens, starts } = joinTokens(groups);
  const textOfRow = groups.flatMap((group, index) =>
    Array.from({ length: batch }, (_, item) => (starts[index] ?? 0) + (group.batch === 1 ? 0 : item)),
  );
  return { tokens, textOfRow };
}

/** The prompts' codes, one for each clip. */
export async function* encodePrompts(
  networks: Networks,
  { prompts, request }: PipelineInput,
  { taps, onProgress }: PipelineObserver,
): AsyncGenerator<PassStop, readonly Codes[] | undefined, void> {
  if (prompts.length === 0) return undefined;
  const codec: Codec = { weights: await networks.codec(), config: networks.config.codec };
  const encoded: Codes[] = [];
  for (const [item, prompt] of prompts.entries()) {
    onProgress?.({ stage: "prompt", done: item, total: prompts.length });
    encoded.push(yield* audioToCodes(codec, networks.config.decoder, prompt, item, taps));
  }
  const [only] = encoded;
  return encoded.length === 1 && only ? Array.from({ length: request.count }, () => only) : encoded;
}

/** The codes of all clips, in as many windows as they take. */
export async function* runDecoderNetwork(
  networks: Networks,
  { request, rows, melodies }: PipelineInput,
  encoded: EncodedTexts | undefined,
  prompt: readonly Codes[] | undefined,
  { taps, onProgress, signal }: PipelineObserver,
): AsyncGenerator<PassStop | CompletedFrames, GeneratedCodes, void> {
  const { frames, windows, count, seed, seeds, guidance, sampling } = request;
  const { codec, generation, melody } = networks.config;
  const { frameRate } = codec;
  const decoder = await networks.decoder();
  const uniforms = Array.from({ length: count }, (_, item) =>
    seeds ? uniformStream(seeds[item] ?? seed, 0) : uniformStream(seed, item),
  );
  const conditions = { encoded, melody, melodies, windowSeconds: generation.maxFrames / frameRate };
  const plan = { frames, windows, prompt, rows, ...conditions, guidance, sampling, uniforms, frameRate };
  const onStep = (done: number, total: number): void => onProgress?.({ stage: "tokens", done, total });
  return yield* generateWindows(decoder, plan, { taps, onStep, signal });
}

/** A walk without the frames that it completes. */
async function* passStops<Result>(
  walk: AsyncGenerator<PassStop | CompletedFrames, Result, void>,
): AsyncGenerator<PassStop, Result, void> {
  try {
    for (;;) {
      const next = await walk.next();
      if (next.done) return next.value;
      if (isPassStop(next.value)) yield next.value;
    }
  } finally {
    await walk.return(undefined as never); // no effect on a walk that has ended
  }
}

async function* decodeClips(
  networks: Networks,
  { samples }: ResolvedRequest,
  { codes, interrupted }: GeneratedCodes,
  { taps, onProgress }: PipelineObserver,
): AsyncGenerator<PassStop, readonly Clip[], void> {
  const codec: Codec = { weights: await networks.codec(), config: networks.config.codec };
  const clips: Clip[] = [];
  for (const [item, clip] of codes.entries()) {
    onProgress?.({ stage: "audio", done: item, total: codes.length });
    const { sampleRate, channels } = yield* codesToAudio(codec, networks.config.decoder, clip, item, taps);
    const exact = interrupted ? channels : channels.map((channel) => channel.slice(0, samples));
    clips.push({ item, codes: clip, audio: { sampleRate, channels: exact } });
  }
  onProgress?.({ stage: "audio", done: codes.length, total: codes.length });
  return clips;
}
