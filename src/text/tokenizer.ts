import { access } from "node:fs/promises";
import { join } from "node:path";

import { audiocraftTextDirectory, isAudiocraft } from "../checkpoint/audiocraft/open.js";
import { readConfig, type ConfigBlock } from "../checkpoint/config.js";
import { CheckpointError, UsageError } from "../errors.js";
import { CharacterMap } from "./normalizer.js";
import { Unigram, type ScoredPiece } from "./unigram.js";

/**
 * The T5 tokenizer, with the ids that transformers 5.18.0 gives for the same tokenizer.json: special tokens are cut out
 * of the raw text, the rest is normalised and split at white space into words that begin with ▁, and each word is split
 * by the unigram model.
 *
 * Files of different years spell these steps differently (some strip and join spaces instead of splitting at them);
 * transformers 5.18.0 runs the steps above for all of them, and so does this. A step that is none of T5's is refused.
 */

/**
 * The longest prompt in tokens, `</s>` included: what T5 was trained on and transformers warns beyond. Longer prompts
 * would still run, but neither T5 nor MusicGen ever saw one.
 */
export const MAX_PROMPT_TOKENS = 512;

const FILE_NAME = "tokenizer.json";
const PAD_ID = 0;

/** Several prompts as the encoder takes them: row-major [batch, length], padded on the right. */
export interface TokenBatch {
  readonly ids: Int32Array; // [batch, length], 0 where padded
  readonly mask: Int32Array; // [batch, length], 1 for tokens, 0 for padding
  readonly batch: number; // B
  readonly length: number; // S: the longest prompt's tokens
}

/** A token that is found in raw text as it is written. */
interface SpecialToken {
  readonly id: number;
  readonly text: string;
  readonly takesSpaceBefore: boolean;
  readonly takesSpaceAfter: boolean;
}

/** What tokenizer.json holds. */
interface Parts {
  readonly specials: readonly SpecialToken[];
  readonly characterMap: CharacterMap | undefined; // undefined: text is taken as it is written
  readonly model: Unigram;
  readonly suffix: readonly number[]; // </s>
}

/** Turns prompts into T5 token ids. */
export class Tokenizer {
  readonly #parts: Parts;
  readonly #specials: ReadonlyMap<string, SpecialToken>;
  readonly #specialPattern: RegExp | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#specials = new Map(parts.specials.map((token) => [token.text, token]));
    const longestFirst = [...this.#specials.keys()].toSorted((a, b) => b.length - a.length);
    this.#specialPattern = longestFirst.length > 0 ? new RegExp(longestFirst.map(escape).join("|"), "gu") : undefined;
  }

  /**
   * The ids of one prompt with `</s>` (1) at its end; an empty prompt is `[1]`.
   *
   * @throws {UsageError} if there are more than {@link MAX_PROMPT_TOKENS}.
   */
  encode(text: string): Int32Array {
    const { suffix } = this.#parts;
    const ids = [...this.#sections(wellFormed(text)).flatMap((section) => this.#encodeSection(section)), ...suffix];
    if (ids.length > MAX_PROMPT_TOKENS) {
      throw new UsageError({
        asked: `encode a prompt of ${text.length} characters`,
        found: `${ids.length} tokens, over the limit of ${MAX_PROMPT_TOKENS}`,
        todo: "Shorten the prompt",
      });
    }
    return Int32Array.from(ids);
  }

  /**
   * Several prompts, padded on the right with 0 to the longest.
   *
   * @throws {UsageError} if there is no prompt, or one is too long.
   */
  encodeBatch(texts: readonly string[]): TokenBatch {
    if (texts.length === 0) {
      throw new UsageError({ asked: "encode prompts", found: "an empty list", todo: "Give at least one prompt" });
    }
    const rows = texts.map((text) => this.encode(text));
    const length = Math.max(...rows.map((row) => row.length));
    const ids = new Int32Array(rows.length * length).fill(PAD_ID);
    const mask = new Int32Array(rows.length * length);
    rows.forEach((row, index) => {
      ids.set(row, index * length);
      mask.fill(1, index * length, index * length + row.length);
    });
    return { ids, mask, batch: rows.length, length };
  }

  /** Cuts special tokens out of raw text, together with the space around them that they take. */
  #sections(text: string): readonly (string | SpecialToken)[] {
    if (this.#specialPattern === undefined) return [text];
    const sections: (string | SpecialToken)[] = [];
    let done = 0;
    for (const match of text.matchAll(this.#specialPattern)) {
      const token = this.#specials.get(match[0]);
      if (token === undefined || match.index < done) continue;
      const before = text.slice(done, match.index);
      const after = text.slice(match.index + token.text.length);
      sections.push(token.takesSpaceBefore ? trimEnd(before) : before, token);
      done = text.length - (token.takesSpaceAfter ? trimStart(after) : after).length;
    }
    return [...sections, text.slice(done)];
  }

  #encodeSection(section: string | SpecialToken): readonly number[] {
    if (typeof section !== "string") return [section.id];
    const { characterMap, model } = this.#parts;
    const normalized = characterMap ? characterMap.normalize(section) : section;
    const words = normalized.split(SPACES).filter((word) => word !== "");
    return words.flatMap(splitAtWordStarts).flatMap((word) => model.encode(word));
  }
}

const WORD_START = "▁"; // U+2581

/** Puts ▁ in front unless it is there, and divides so that each further ▁ begins a word: "a▁b" becomes "▁a", "▁b". */
function splitAtWordStarts(word: string): readonly string[] {
  const [beforeFirst = "", ...rest] = word.split(WORD_START);
  const words = beforeFirst === "" ? rest : [beforeFirst, ...rest];
  return words.map((part) => WORD_START + part);
}

/** JavaScript strings may hold half a surrogate pair; UTF-8, which the vocabulary is made of, may not. */
function wellFormed(text: string): string {
  return Buffer.from(text, "utf8").toString("utf8");
}

// Unicode's White_Space. JavaScript's \s lacks U+0085 and adds U+FEFF.
const SPACE = "[\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const SPACES = new RegExp(`${SPACE}+`, "u");
const LEADING_SPACES = new RegExp(`^${SPACE}+`, "u");

function trimStart(text: string): string {
  return text.replace(LEADING_SPACES, "");
}

/** Steps back by hand: a regular expression for trailing spaces takes quadratic time on long runs of spaces. */
function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && SPACES.test(text[end - 1] ?? "")) end--;
  return text.slice(0, end);
}

function escape(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

/**
 * Reads `tokenizer.json` of a checkpoint's directory. (`tokenizer_config.json` and `special_tokens_map.json` hold
 * nothing that changes an id.)
 *
 * @throws {CheckpointError} if it is missing, damaged, or not a T5 tokenizer.
 */
export async function loadTokenizer(directory: string): Promise<Tokenizer> {
  const tokenizer = await findTokenizer(directory);
  if (tokenizer) return tokenizer;
  throw new CheckpointError({
    asked: `load the tokenizer of ${directory}`,
    found: `no ${FILE_NAME}`,
    todo: "Fetch it from the model's repository, or make it from spiece.model with Python's transformers",
  });
}

/** As {@link loadTokenizer}, but undefined where the directory has no `tokenizer.json`: prompts can be given as ids. */
export async function findTokenizer(directory: string): Promise<Tokenizer | undefined> {
  const own = isAudiocraft(directory) ? await audiocraftTextDirectory(directory) : directory;
  const path = join(own ?? directory, FILE_NAME);
  const present = await access(path).then(
    () => true,
    () => false,
  );
  return present ? readTokenizer(path) : undefined;
}

async function readTokenizer(path: string): Promise<Tokenizer> {
  const file = await readConfig(path);
  file.expect("version", "1.0");
  file.ignore("truncation", "padding", "decoder"); // truncation and padding are ours, decoding isn't needed
  const parts: Parts = {
    specials: file.blocks("added_tokens").map(readSpecialToken),
    characterMap: readCharacterMap(file.block("normalizer")),
    model: readModel(file.block("model")),
    suffix: readSuffix(file.block("post_processor")),
  };
  checkSplitting(file.block("pre_tokenizer"));
  file.finish();
  return new Tokenizer(parts);
}

/** A component, or the parts of a `Sequence` of them. */
function components(block: ConfigBlock, parts: string): readonly ConfigBlock[] {
  return block.string("type") === "Sequence" ? block.blocks(parts) : [block];
}

function readSpecialToken(token: ConfigBlock): SpecialToken {
  token.expect("single_word", false);
  token.expect("normalized", false);
  token.ignore("special");
  return {
    id: token.integer("id", { min: 0 }),
    text: token.string("content"),
    takesSpaceBefore: token.boolean("lstrip"),
    takesSpaceAfter: token.boolean("rstrip"),
  };
}

/** @returns undefined where the file has none: small vocabularies of one's own need no map of all Unicode. */
function readCharacterMap(normalizer: ConfigBlock): CharacterMap | undefined {
  let map: CharacterMap | undefined;
  for (const part of components(normalizer, "normalizers")) {
    switch (part.string("type", ["Precompiled", "Strip", "Replace"])) {
      case "Precompiled":
        map = new CharacterMap(Buffer.from(part.string("precompiled_charsmap"), "base64"), part.file);
        break;
      case "Strip": // spaces at the end, which make no word
        part.expect("strip_left", false);
        part.expect("strip_right", true);
        break;
      case "Replace": // runs of spaces, which divide words as one does
        part.block("pattern").expect("Regex", " {2,}");
        part.expect("content", WORD_START);
    }
  }
  return map;
}

/** Makes sure that the file splits text as T5 does. */
function checkSplitting(splitter: ConfigBlock): void {
  for (const part of components(splitter, "pretokenizers")) {
    if (part.string("type", ["WhitespaceSplit", "Metaspace"]) === "WhitespaceSplit") continue;
    part.expect("replacement", WORD_START);
    part.expect("prepend_scheme", undefined, "always");
    part.expect("add_prefix_space", undefined, true); // the same in files of 2023
    part.expect("str_rep", undefined, WORD_START);
    part.expect("split", undefined, true);
  }
}

function readModel(model: ConfigBlock): Unigram {
  model.expect("type", "Unigram");
  model.expect("byte_fallback", undefined, false);
  const vocabulary = model.list("vocab", isScoredPiece, "a list of [piece, score]");
  return new Unigram(vocabulary, model.integer("unk_id", { min: 0 }), model.file);
}

function isScoredPiece(item: unknown): item is ScoredPiece {
  return Array.isArray(item) && item.length === 2 && typeof item[0] === "string" && Number.isFinite(item[1]);
}

/** The ids after every text, from the template "A </s>". */
function readSuffix(processor: ConfigBlock): readonly number[] {
  processor.expect("type", "TemplateProcessing");
  processor.ignore("pair");
  const [text, suffix, ...more] = processor.blocks("single");
  if (text === undefined || suffix === undefined || more.length > 0) {
    throw new CheckpointError({
      asked: `read post_processor.single of ${processor.file}`,
      found: "another template than a text and one special token",
      todo: "Use the tokenizer.json of a T5 or MusicGen repository",
    });
  }
  text.block("Sequence").ignore("id", "type_id");
  const token = suffix.block("SpecialToken");
  token.ignore("type_id");
  const definition = processor.block("special_tokens").block(token.string("id"));
  definition.ignore("id", "tokens");
  return definition.integers("ids", { min: 0 });
}
