import { existsSync } from "node:fs";
import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { beforeAll, describe, expect, it } from "vitest";

import type { JsonObject } from "../../src/checkpoint/json.js";
import { CheckpointError, UsageError } from "../../src/errors.js";
import { findTokenizer, loadTokenizer, MAX_PROMPT_TOKENS, type Tokenizer } from "../../src/text/tokenizer.js";
import { fixtureDirectory, fixtureJson } from "../support/fixtures.js";
import { temporaryDirectory, temporaryFile } from "../support/temporary.js";

interface Case {
  readonly text: string;
  readonly ids: readonly number[];
}

/** Those whose ids differ, with the ids that came out. */
function differing(tokenizer: Tokenizer, cases: readonly Case[]): unknown[] {
  return cases
    .map(({ text, ids }) => ({ text, ids, got: [...tokenizer.encode(text)] }))
    .filter(({ ids, got }) => JSON.stringify(ids) !== JSON.stringify(got));
}

const fixtureFile = fixtureJson("tokenizer/tokenizer.json") as JsonObject;

/** A tokenizer from the fixture's file with some keys changed. */
async function changed(changes: JsonObject): Promise<Tokenizer> {
  const path = await temporaryFile("tokenizer.json", JSON.stringify({ ...fixtureFile, ...changes }));
  return loadTokenizer(join(path, ".."));
}

describe("the tokenizer", () => {
  it("gives the ids of transformers 5.18.0 for prompts of every script", async () => {
    const cases = fixtureJson("tokenizer/cases.json") as readonly Case[];
    expect(cases).toHaveLength(291);
    expect(differing(await loadTokenizer(fixtureDirectory("tokenizer")), cases)).toEqual([]);
  });

  it("gives the ids of Hugging Face's tokenizers for literal special tokens and unusual spaces", async () => {
    // Made by tools/reference/tokenizer_specials.py with tokenizers 0.23.3.
    const golden = fixtureJson("tokenizer/specials.json") as { added_tokens: unknown; cases: readonly Case[] };
    const tokenizer = await changed({ added_tokens: golden.added_tokens });
    expect(golden.cases.length).toBeGreaterThan(150);
    expect(differing(tokenizer, golden.cases)).toEqual([]);
  });

  it("gives the same ids however the file spells its steps", async () => {
    const cases = fixtureJson("tokenizer/cases.json") as readonly Case[];
    const [precompiled] = (fixtureFile["normalizer"] as { normalizers: readonly unknown[] }).normalizers;
    const metaspace = { type: "Metaspace", replacement: "▁" };
    const of2023 = await changed({
      normalizer: precompiled,
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [{ type: "WhitespaceSplit" }, { ...metaspace, str_rep: "▁", add_prefix_space: true }],
      },
    });
    const stripping = await changed({
      normalizer: {
        type: "Sequence",
        normalizers: [
          precompiled,
          { type: "Strip", strip_left: false, strip_right: true },
          { type: "Replace", pattern: { Regex: " {2,}" }, content: "▁" },
        ],
      },
      pre_tokenizer: { ...metaspace, prepend_scheme: "always", split: true },
    });
    expect(differing(of2023, cases)).toEqual([]);
    expect(differing(stripping, cases)).toEqual([]);
  });

  it("takes text as it is written where the file has no character map", async () => {
    const mapless = await changed({ normalizer: { type: "Sequence", normalizers: [] } });
    const tokenizer = await loadTokenizer(fixtureDirectory("tokenizer"));
    expect(mapless.encode("self model")).toEqual(tokenizer.encode("self model"));
    expect(mapless.encode("ﬁne")).not.toEqual(mapless.encode("fine"));
    expect(tokenizer.encode("ﬁne")).toEqual(tokenizer.encode("fine"));
  });

  it("makes [1] of an empty prompt and of spaces", async () => {
    const tokenizer = await loadTokenizer(fixtureDirectory("tokenizer"));
    for (const text of ["", " ", "\n\t\u00a0"]) expect(tokenizer.encode(text)).toEqual(Int32Array.of(1));
  });

  it("takes half a surrogate pair for an unknown character", async () => {
    const tokenizer = await loadTokenizer(fixtureDirectory("tokenizer"));
    expect(tokenizer.encode("a \ud83c b")).toEqual(tokenizer.encode("a \ufffd b"));
  });

  it("pads batches on the right with 0", async () => {
    const tokenizer = await loadTokenizer(fixtureDirectory("tokenizer"));
    const batch = tokenizer.encodeBatch(["if self", "", "if"]);
    const [both, empty, one] = ["if self", "", "if"].map((text) => [...tokenizer.encode(text)]);
    if (!both || !empty || !one) throw new Error("three prompts");
    const padded = (ids: number[]): number[] => [...ids, ...Array<number>(both.length - ids.length).fill(0)];
    expect(batch).toMatchObject({ batch: 3, length: both.length });
    expect([...batch.ids]).toEqual([...both, ...padded(empty), ...padded(one)]);
    expect([...batch.mask]).toEqual([both, empty, one].flatMap((ids) => padded(ids.map(() => 1))));
    expect(() => tokenizer.encodeBatch([])).toThrow(UsageError);
  });

  it("refuses a prompt beyond the limit with numbers, and takes one at the limit", async () => {
    const tokenizer = await loadTokenizer(fixtureDirectory("tokenizer"));
    const words = (count: number): string => Array<string>(count).fill("if").join(" "); // one token a word
    expect(tokenizer.encode(words(MAX_PROMPT_TOKENS - 1))).toHaveLength(MAX_PROMPT_TOKENS);
    expect(() => tokenizer.encode(words(MAX_PROMPT_TOKENS))).toThrow(UsageError);
    expect(() => tokenizer.encodeBatch(["if", words(MAX_PROMPT_TOKENS)])).toThrow(
      /1535 characters: 513 tokens, over the limit of 512/,
    );
  });
});

const REAL = fileURLToPath(new URL("../../../shared/assets/t5", import.meta.url));
const realIsHere = existsSync(join(REAL, "tokenizer.json"));

describe.skipIf(!realIsHere)(
  `T5's own tokenizer${realIsHere ? "" : " [skipped: its tokenizer.json is not part of the repository]"}`,
  () => {
    let tokenizer: Tokenizer;
    beforeAll(async () => {
      tokenizer = await loadTokenizer(REAL);
    });

    it("gives SentencePiece's ids, except where a prompt spells a special token", () => {
      // From spiece.model by SentencePiece itself, which knows no special tokens in text; Hugging Face cuts them out.
      const golden = fixtureJson("golden/t5_tokens_sentencepiece.json") as Readonly<Record<string, readonly number[]>>;
      const cases = Object.entries(golden).map(([text, ids]) => ({ text, ids }));
      expect(differing(tokenizer, cases)).toEqual([
        {
          text: "<extra_id_0> piano </s>",
          ids: golden["<extra_id_0> piano </s>"],
          got: [32099, 8355, 1, 1], // as tokenizers 0.23.3
        },
      ]);
    });

    it("splits at U+0085 as transformers 5.18.0 does, though its file alone would not", () => {
      expect([...tokenizer.encode("\u2027\u{e002e}N\u0085 (live)\u1f62")]).toEqual([3, 2, 567, 41, 7591, 61, 2, 1]);
    });
  },
);

describe("a tokenizer.json that can't be used is refused", () => {
  it("when it is missing, where findTokenizer finds none", async () => {
    const directory = await temporaryDirectory();
    expect(await findTokenizer(directory)).toBe(undefined);
    await expect(loadTokenizer(directory)).rejects.toThrow(/no tokenizer\.json.*spiece\.model/);
    await expect(loadTokenizer(join(directory, "none"))).rejects.toBeInstanceOf(CheckpointError);
  });

  it("when it is cut off anywhere", async () => {
    const directory = await temporaryDirectory();
    const text = JSON.stringify({ ...fixtureFile, model: { type: "Unigram", unk_id: 0, vocab: [["a", -1]] } });
    for (let length = 0; length < text.length; length += Math.ceil(text.length / 60)) {
      await writeFile(join(directory, "tokenizer.json"), text.slice(0, length));
      await expect(loadTokenizer(directory), `${length} characters`).rejects.toBeInstanceOf(CheckpointError);
    }
  });

  const special = {
    id: 1,
    content: "</s>",
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  };
  const end = { SpecialToken: { id: "</s>", type_id: 0 } };
  const processor = fixtureFile["post_processor"];

  it.each<[string, JsonObject, RegExp]>([
    ["another model", { model: { type: "BPE", vocab: {}, merges: [] } }, /model\.type.*"BPE"/],
    ["a vocabulary without scores", { model: { type: "Unigram", unk_id: 0, vocab: ["a"] } }, /model\.vocab/],
    ["a score that is no number", { model: { type: "Unigram", unk_id: 0, vocab: [["a", null]] } }, /model\.vocab/],
    ["no vocabulary", { model: { type: "Unigram", unk_id: 0, vocab: [] } }, /0 pieces/],
    [
      "byte fallback",
      { model: { type: "Unigram", unk_id: 0, vocab: [["a", 0]], byte_fallback: true } },
      /byte_fallback/,
    ],
    ["another normaliser", { normalizer: { type: "Lowercase" } }, /normalizer\.type.*"Lowercase"/],
    ["no normaliser", { normalizer: null }, /normalizer/],
    ["a damaged map", { normalizer: { type: "Precompiled", precompiled_charsmap: "AAAA" } }, /precompiled_charsmap/],
    ["another splitter", { pre_tokenizer: { type: "Digits" } }, /pre_tokenizer\.type.*"Digits"/],
    [
      "no ▁ in front",
      { pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "never" } },
      /prepend_scheme.*"never"/,
    ],
    ["a special token in normalised text", { added_tokens: [{ ...special, normalized: true }] }, /0\.normalized/],
    ["a special token of nothing", { added_tokens: [{ ...special, content: "" }] }, /added_tokens\.0\.content/],
    ["no end token", { post_processor: { ...(processor as JsonObject), single: [] } }, /post_processor\.single/],
    [
      "an end token without ids",
      { post_processor: { type: "TemplateProcessing", single: [{ Sequence: {} }, end], special_tokens: {} } },
      /special_tokens\.<\/s>/,
    ],
    ["an unknown key", { subword: {} }, /does not know: subword/],
    ["another version", { version: "2.0" }, /version.*"2\.0"/],
  ])("for %s", async (_, changes, message) => {
    const error: unknown = await changed(changes).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(message);
    expect(String(error)).toContain("tokenizer.json");
  });

  it("but files beside it do not matter", async () => {
    const directory = await temporaryDirectory();
    await cp(join(fixtureDirectory("tokenizer"), "tokenizer.json"), join(directory, "tokenizer.json"));
    await writeFile(join(directory, "tokenizer_config.json"), "{ not JSON");
    expect((await loadTokenizer(directory)).encode("")).toEqual(Int32Array.of(1));
  });
});
