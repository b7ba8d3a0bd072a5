import { describe, expect, it } from "vitest";

import { ConfigBlock, GENERIC_KEYS } from "../../src/checkpoint/config.js";
import { isJsonObject } from "../../src/checkpoint/json.js";
import { CheckpointError } from "../../src/errors.js";
import { readT5Config } from "../../src/text/config.js";
import { fixtureJson } from "../support/fixtures.js";

function fixtureBlock(changes: Readonly<Record<string, unknown>> = {}): ConfigBlock {
  const config = fixtureJson("mono/config.json");
  const text = isJsonObject(config) ? config["text_encoder"] : undefined;
  return new ConfigBlock({ ...(isJsonObject(text) ? text : {}), ...changes }, "config.json", "text_encoder");
}

/** The published t5-base config of 2019 with what transformers 4.31 added when it was saved inside MusicGen's. */
const T5_BASE_2023 = {
  ...Object.fromEntries(GENERIC_KEYS.map((key) => [key, null])),
  architectures: ["T5ForConditionalGeneration"],
  d_ff: 3072,
  d_kv: 64,
  d_model: 768,
  decoder_start_token_id: 0,
  dropout_rate: 0.1,
  eos_token_id: 1,
  initializer_factor: 1,
  is_encoder_decoder: true,
  layer_norm_epsilon: 1e-6,
  model_type: "t5",
  n_positions: 512,
  num_heads: 12,
  num_layers: 12,
  output_past: true,
  pad_token_id: 0,
  relative_attention_num_buckets: 32,
  task_specific_params: { summarization: { max_length: 200 } },
  vocab_size: 32128,
};

describe("readT5Config", () => {
  it("reads a block that transformers 5.18.0 wrote", () => {
    expect(readT5Config(fixtureBlock())).toEqual({
      layers: 3,
      width: 24,
      heads: 3,
      headWidth: 8,
      ffnWidth: 40,
      vocabularySize: 60,
      buckets: 32,
      maxDistance: 128,
      epsilon: 1e-6,
    });
  });

  it("reads a block of 2023, which leaves out what was not yet a field", () => {
    expect(readT5Config(new ConfigBlock(T5_BASE_2023, "config.json"))).toEqual({
      layers: 12,
      width: 768,
      heads: 12,
      headWidth: 64,
      ffnWidth: 3072,
      vocabularySize: 32128,
      buckets: 32,
      maxDistance: 128,
      epsilon: 1e-6,
    });
  });

  it.each<[string, Readonly<Record<string, unknown>>, RegExp]>([
    ["Flan's gated layers", { feed_forward_proj: "gated-gelu" }, /text_encoder\.feed_forward_proj.*"gated-gelu"/],
    ["a gate declared alone", { is_gated_act: true }, /text_encoder\.is_gated_act/],
    ["another activation", { dense_act_fn: "gelu_new" }, /text_encoder\.dense_act_fn.*"gelu_new"/],
    ["another model", { model_type: "umt5" }, /text_encoder\.model_type.*"umt5"/],
    ["no layers", { num_layers: 0 }, /text_encoder\.num_layers.*0, expected 1 or more/],
    ["a width that is no number", { d_model: "768" }, /text_encoder\.d_model/],
    ["a missing width", { d_model: null }, /text_encoder\.d_model/],
    ["a distance that buckets can't divide", { relative_attention_max_distance: 8 }, /max_distance.*8, expected 32/],
    ["pruned heads", { pruned_heads: { "1": [0] } }, /text_encoder\.pruned_heads/],
    ["an unknown key", { rotary: true }, /does not know: text_encoder\.rotary/],
    ["quantised weights", { quantization_config: {} }, /does not know: text_encoder\.quantization_config/],
  ])("refuses %s by name", (_, changes, message) => {
    const block = fixtureBlock(changes);
    expect(() => readT5Config(block)).toThrow(CheckpointError);
    expect(() => readT5Config(fixtureBlock(changes))).toThrow(message);
  });
});
