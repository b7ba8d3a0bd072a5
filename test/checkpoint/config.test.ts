import { describe, expect, it } from "vitest";

import { ConfigBlock, GENERIC_KEYS, readConfig } from "../../src/checkpoint/config.js";
import { readJsonFile, type JsonObject } from "../../src/checkpoint/json.js";
import { CheckpointError } from "../../src/errors.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { temporaryDirectory, temporaryFile } from "../support/temporary.js";

function blockOf(values: JsonObject): ConfigBlock {
  return new ConfigBlock(values, "config.json", "decoder");
}

function refusal(read: () => unknown): string {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(CheckpointError);
    return String(error);
  }
  throw new Error("nothing was refused");
}

describe("ConfigBlock", () => {
  it("reads values of each kind", () => {
    const block = blockOf({ n: 3, x: 0.5, list: [8, 5], rates: [2.2], mode: "reflect", on: false, inner: { n: 1 } });
    expect(block.integer("n", { min: 3, max: 3 })).toBe(3);
    expect(block.number("x")).toBe(0.5);
    expect(block.integers("list", { length: 2, min: 1 })).toEqual([8, 5]);
    expect(block.numbers("rates")).toEqual([2.2]);
    expect(block.string("mode", ["constant", "reflect"])).toBe("reflect");
    expect(block.boolean("on")).toBe(false);
    expect(block.block("inner").integer("n")).toBe(1);
    block.finish();
  });

  it("takes a default where the key is absent or null, and a value before the default", () => {
    const block = blockOf({ zero: 0, no: false, nothing: null });
    expect(block.integer("absent", { default: 7 })).toBe(7);
    expect(block.integer("nothing", { default: 7 })).toBe(7);
    expect(block.integer("zero", { default: 7 })).toBe(0);
    expect(block.boolean("no", { default: true })).toBe(false);
    expect(block.integers("absent", { default: [1] })).toEqual([1]);
    block.finish();
  });

  it.each<[string, (block: ConfigBlock) => unknown, RegExp]>([
    ["an absent key", (block) => block.integer("absent"), /decoder\.absent of config\.json: absent, expected a value/],
    ["an inherited name", (block) => block.string("toString"), /decoder\.toString of .*: absent/],
    ["null", (block) => block.integer("nothing"), /decoder\.nothing of .*: null, expected a value/],
    ["a fraction", (block) => block.integer("half"), /decoder\.half of .*: 0\.5, expected a whole number/],
    ["a text for a number", (block) => block.number("text"), /decoder\.text of .*: "a", expected a number/],
    ["a number below its least", (block) => block.integer("three", { min: 4 }), /: 3, expected 4 or more/],
    ["a number above its most", (block) => block.number("three", { max: 2 }), /: 3, expected 2 or less/],
    ["a number outside", (block) => block.number("three", { min: 0, max: 2 }), /: 3, expected 0 to 2/],
    ["a list with a fraction", (block) => block.integers("list"), /: \[1,0\.5\], expected a list of whole numbers/],
    ["a list of the wrong length", (block) => block.numbers("list", { length: 3 }), /: \[1,0\.5\], expected 3 numbers/],
    ["a list item outside", (block) => block.numbers("list", { min: 1 }), /: \[1,0\.5\], expected 1 or more/],
    ["a number for a list", (block) => block.integers("three"), /: 3, expected a list/],
    ["a text that is no choice", (block) => block.string("text", ["b", "c"]), /: "a", expected one of "b", "c"/],
    ["an empty text", (block) => block.string("empty"), /: "", expected a text/],
    ["a number for true or false", (block) => block.boolean("three"), /: 3, expected true or false/],
    ["a list for an object", (block) => block.block("list"), /decoder\.list of .*expected an object/],
    ["numbers for objects", (block) => block.blocks("list"), /decoder\.list of .*expected a list of objects/],
    ["a wrong value deep inside", (block) => block.block("inner").integer("x"), /decoder\.inner\.x of .*: "deep"/],
  ])("refuses %s with the key's path, the file, and what was expected", (_, read, message) => {
    const values = { nothing: null, half: 0.5, text: "a", three: 3, list: [1, 0.5], empty: "", inner: { x: "deep" } };
    expect(refusal(() => read(blockOf(values)))).toMatch(message);
  });

  it("expect accepts the listed values only; undefined among them lets the key be absent", () => {
    const block = blockOf({ act: "gelu", causal: true, norm: null });
    expect(block.expect("act", "relu", "gelu")).toBe("gelu");
    expect(block.expect("norm", null)).toBe(null);
    expect(block.expect("absent", undefined, "relu")).toBe(undefined);
    expect(refusal(() => block.expect("act", "relu"))).toMatch(/decoder\.act of config\.json: "gelu", expected "relu"/);
    expect(refusal(() => block.expect("causal", undefined, false))).toMatch(/: true, expected absent or false/);
    expect(refusal(() => block.expect("missing", "relu"))).toMatch(/: absent, expected "relu"/);
    expect(refusal(() => block.expect("norm", undefined, 1))).toMatch(/: null, expected absent or 1/);
  });

  it("finish names every key that was neither read nor ignored, in inner blocks too", () => {
    const block = new ConfigBlock(
      {
        known: 1,
        odd: 2,
        inner: { deep: 1, strange: 1 },
        items: [{ type: "x" }, { type: "x", more: 1 }],
        unread: { any: 1 },
      },
      "config.json",
    );
    block.integer("known");
    block.ignore("no such key");
    block.block("inner").integer("deep");
    for (const item of block.blocks("items")) item.string("type");
    const message = refusal(() => block.finish());
    expect(message).toContain("keys that tonearm does not know: odd, unread, inner.strange, items.1.more");
    block.ignore("odd", "unread");
    expect(refusal(() => block.finish())).toContain("inner.strange, items.1.more");
  });

  it("has looks without reading", () => {
    const block = blockOf({ present: null });
    expect(block.has("present")).toBe(true);
    expect(block.has("absent")).toBe(false);
    expect(refusal(() => block.finish())).toContain("a key that tonearm does not know: decoder.present");
  });

  it("ignoreGeneric covers a full dump of transformers' PretrainedConfig, but not pruned heads", () => {
    const dump = Object.fromEntries(GENERIC_KEYS.map((key) => [key, null]));
    const block = blockOf({ ...dump, pruned_heads: {} });
    block.ignoreGeneric();
    block.finish();
    expect(refusal(() => blockOf({ pruned_heads: { "0": [1] } }).ignoreGeneric())).toMatch(
      /pruned_heads.*\{"0":\[1\]\}/,
    );
  });

  it("knows every field that transformers 4.31.0 wrote of its own accord", () => {
    // PretrainedConfig.__init__ of transformers 4.31.0, read from its source.
    const fields =
      `return_dict output_hidden_states output_attentions torchscript torch_dtype use_bfloat16 tf_legacy_loss
      tie_word_embeddings is_encoder_decoder is_decoder cross_attention_hidden_size add_cross_attention
      tie_encoder_decoder max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
      temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
      encoder_no_repeat_ngram_size bad_words_ids num_return_sequences chunk_size_feed_forward output_scores
      return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
      exponential_decay_length_penalty suppress_tokens begin_suppress_tokens architectures finetuning_task id2label
      label2id tokenizer_class prefix bos_token_id pad_token_id eos_token_id sep_token_id decoder_start_token_id
      task_specific_params problem_type _name_or_path _commit_hash transformers_version`.split(/\s+/);
    expect(fields.filter((field) => !GENERIC_KEYS.includes(field))).toEqual([]);
    expect(new Set(GENERIC_KEYS).size).toBe(GENERIC_KEYS.length);
  });
});

describe("a JSON file", () => {
  it("is read as an object", async () => {
    expect(await readJsonFile(`${fixtureDirectory("mono")}/config.json`)).toMatchObject({ model_type: "musicgen" });
    expect((await readConfig(`${fixtureDirectory("mono")}/config.json`)).string("model_type")).toBe("musicgen");
  });

  it("is refused by name when it is missing, not JSON, or not an object", async () => {
    const missing = `${await temporaryDirectory()}/config.json`;
    await expect(readJsonFile(missing)).rejects.toThrow(/read .*config\.json: ENOENT/);
    for (const content of ["", "{", "{'a':1}", "{} {}", Buffer.of(0x7b, 0xff, 0x7d)]) {
      const path = await temporaryFile("config.json", content);
      const error: unknown = await readJsonFile(path).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(CheckpointError);
      expect(String(error)).toMatch(/config\.json: .*not JSON/);
    }
    for (const content of ["[]", "3", "null", '"text"']) {
      await expect(readJsonFile(await temporaryFile("config.json", content))).rejects.toThrow(/not an object/);
    }
  });
});
