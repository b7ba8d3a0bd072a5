import { resampledLength } from "../audio/resample.js";
import type { MusicGenConfig } from "../model/checkpoint.js";
import { delayPattern, sequenceLength } from "../model/delay.js";
import type { ForwardPlan } from "../model/forward.js";
import { rowCount } from "../model/guidance.js";
import type { PipelineInput, TextTokens } from "../model/pipeline.js";
import type { TokenBatch } from "../text/tokenizer.js";
import { fixedLetters, type Site } from "./catalogue.js";

/** The sizes of a run that its shapes follow from; what a run doesn't have is 0. */
export interface RunSizes {
  readonly items: number; // B
  readonly rows: number; // R
  readonly readingRows: number; // Rc: rows that read a text
  readonly positions: number; // T, of the whole run
  readonly logitPositions: number; // positions that logits are made for
  readonly texts: number; // through the text encoder
  readonly tokens: number; // S
  readonly encodedSamples: number; // N of a channel that the codec encodes
  readonly encodedChannels: number; // its passes: sounds × channels
  readonly decodedSamples: number; // N of a channel that it decodes
  readonly decodedChannels: number;
}

/**
 * The shape of a site's tensor over a whole run: one pass, or all passes of a generation one after another along their
 * positions, and of the codec along their first axis.
 *
 * @returns undefined where the run doesn't come by that site
 */
export function siteShape(site: Site, config: MusicGenConfig, sizes: RunSizes): readonly number[] | undefined {
  const letters = { ...fixedLetters(config, site.network), ...runLetters(site, sizes) };
  const pass = site.shape.map((letter) => sizeOf(letter, letters));
  const shape = site.network === "codec" ? [codecRun(site, sizes).channels, ...pass.slice(1)] : pass;
  const passedBy = site.network !== "decoder" || sizes.readingRows > 0 || !READS_TEXT.test(site.site);
  return passedBy && !shape.includes(0) ? shape : undefined;
}

/** Sites that are announced only where some row reads a text. */
const READS_TEXT = /\.(ln2|cross_attn)\.|_cross(_attn_out)?$/;

function runLetters(site: Site, sizes: RunSizes): Readonly<Record<string, number>> {
  if (site.network === "text") return { B: sizes.texts, S: sizes.tokens };
  if (site.network === "codec") return { N: codecRun(site, sizes).samples };
  const positions = /^hook_(guided_)?logits$/.test(site.site) ? sizes.logitPositions : sizes.positions;
  return {
    ...{ B: sizes.items, R: sizes.rows, Rc: sizes.readingRows, S: sizes.readingRows > 0 ? sizes.tokens : 0 },
    ...{ T: positions, "T'": sizes.positions },
  };
}

/** Which of the codec's two directions a site lies in. */
function codecRun({ site }: Site, sizes: RunSizes): { readonly samples: number; readonly channels: number } {
  return /^codec\.(decoder\.|hook_quantized)/.test(site)
    ? { samples: sizes.decodedSamples, channels: sizes.decodedChannels }
    : { samples: sizes.encodedSamples, channels: sizes.encodedChannels };
}

function sizeOf(letter: string, letters: Readonly<Record<string, number>>): number {
  const known = letters[letter];
  if (known !== undefined) return known;
  const perHop = /^N\/(\d+)$/.exec(letter);
  if (perHop) return Math.ceil((letters["N"] ?? 0) / Number(perHop[1]));
  const number = Number(letter);
  if (Number.isInteger(number)) return number;
  throw new RangeError(`the letter ${letter} of a shape stands for nothing`);
}

/** Bytes of a float32 tensor. */
export function byteSize(shape: readonly number[]): number {
  return 4 * shape.reduce((product, size) => product * size, 1);
}

/** The sizes of a teacher-forced pass. */
export function forwardSizes(
  { clips, rows }: Pick<ForwardPlan, "clips" | "rows">,
  { texts, laterTexts }: TextTokens,
  { decoder, melody }: MusicGenConfig,
): RunSizes {
  const pattern = delayPattern(decoder.codebooks, decoder.audioChannels, decoder.codebookSize);
  const columns = sequenceLength(clips[0]?.frames ?? 0, pattern);
  return {
    items: 0, // nothing is guided
    rows: rowCount(rows),
    readingRows: texts ? rows.batch : 0,
    positions: columns + prefixPositions(melody, texts),
    logitPositions: columns,
    texts: texts?.batch ?? 0,
    tokens: Math.max(texts?.length ?? 0, ...laterTexts.map((later) => later.texts.length)),
    encodedSamples: 0,
    encodedChannels: 0,
    decodedSamples: 0,
    decodedChannels: 0,
  };
}

/** How many positions a melody model reads before the BOS column. */
export function prefixPositions(
  melody: MusicGenConfig["melody"],
  ...texts: readonly (TokenBatch | undefined)[]
): number {
  return melody ? melody.rows + Math.max(1, ...texts.map((batch) => batch?.length ?? 1)) : 0;
}

/** The sizes of a generation in one window. */
export function generationSizes(
  { request, rows, texts, laterTexts, negatives, prompts }: PipelineInput,
  { decoder, codec, melody }: MusicGenConfig,
): RunSizes {
  const pattern = delayPattern(decoder.codebooks, decoder.audioChannels, decoder.codebookSize);
  const [prompt] = prompts;
  const encodedSamples = prompt ? resampledLength(prompt, codec.sampleRate) : 0;
  const columns = sequenceLength(request.frames, pattern) - 1; // nothing follows the last column
  return {
    items: rows.batch,
    rows: rowCount(rows),
    readingRows: (texts ? rows.batch : 0) + (negatives ? rows.batch : 0),
    positions: columns + prefixPositions(melody, texts, negatives),
    logitPositions: columns - Math.ceil(encodedSamples / codec.hop),
    texts: (texts?.batch ?? 0) + (negatives?.batch ?? 0),
    tokens: Math.max(
      ...[texts, ...laterTexts.map((later) => later.texts), negatives].map((batch) => batch?.length ?? 0),
    ),
    encodedSamples,
    encodedChannels: prompts.length * decoder.audioChannels,
    decodedSamples: request.frames * codec.hop,
    decodedChannels: rows.batch * decoder.audioChannels,
  };
}
