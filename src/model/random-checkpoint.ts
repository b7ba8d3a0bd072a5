import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { uniformFloat32 } from "pure-rand/distribution/uniformFloat32";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

import { CLASSES } from "../audio/chroma.js";
import { ConfigBlock } from "../checkpoint/config.js";
import type { JsonObject } from "../checkpoint/json.js";
import { writeSafetensors, type NamedTensor } from "../checkpoint/safetensors.js";
import { decoderLayout, encoderLayout, type SeanetLayout } from "../encodec/layout.js";
import { readEncodecConfig } from "../encodec/config.js";

/**
 * Checkpoints of random weights in the Hugging Face layout: for self-tests and benchmarks at any size, without a
 * download. What they generate sounds like noise.
 */

/** The numbers that a checkpoint's shape follows from. */
export interface CheckpointShape {
  readonly text: {
    readonly layers: number;
    readonly width: number;
    readonly heads: number;
    readonly headWidth: number;
    readonly ffnWidth: number;
    readonly vocabulary: number;
  };
  readonly decoder: {
    readonly layers: number;
    readonly width: number;
    readonly heads: number;
    readonly ffnWidth: number;
    readonly audioChannels: 1 | 2;
    readonly melodyRows?: number; // of a melody model: positions that its chroma takes
  };
  readonly codec: {
    readonly filters: number;
    readonly ratios: readonly number[];
    readonly latentWidth: number;
    readonly codebooks: number; // per channel
    readonly codebookSize: number; // a power of two
  };
}

/** Small enough to run on any backend in seconds: a self-test. */
export const TINY_SHAPE: CheckpointShape = {
  text: { layers: 2, width: 32, heads: 2, headWidth: 16, ffnWidth: 64, vocabulary: 64 },
  decoder: { layers: 3, width: 64, heads: 4, ffnWidth: 256, audioChannels: 1 },
  codec: { filters: 4, ratios: [8, 5, 4, 4], latentWidth: 16, codebooks: 4, codebookSize: 64 },
};

/** The real shapes of facebook/musicgen-small. */
export const MUSICGEN_SMALL_SHAPE: CheckpointShape = {
  text: { layers: 12, width: 768, heads: 12, headWidth: 64, ffnWidth: 3072, vocabulary: 32_128 },
  decoder: { layers: 24, width: 1024, heads: 16, ffnWidth: 4096, audioChannels: 1 },
  codec: { filters: 64, ratios: [8, 5, 4, 4], latentWidth: 128, codebooks: 4, codebookSize: 2048 },
};

/** A tensor to be: its name, its shape and the spread of its values around `mean`. */
interface TensorPlan {
  readonly name: string;
  readonly shape: readonly number[];
  readonly deviation: number;
  readonly mean?: number;
}

/**
 * Writes a checkpoint of random weights: config.json, generation_config.json, model.safetensors and a tokenizer.json
 * that knows single letters.
 *
 * The language model's weights are exact in float16, as in the released checkpoints. The same shape and seed give the
 * same bytes.
 *
 * @throws {CheckpointError} if the directory can't be written to.
 */
export async function writeRandomCheckpoint(directory: string, shape: CheckpointShape, seed: number): Promise<void> {
  const config = configJson(shape);
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  const { codebookSize } = shape.codec;
  const generation = { guidance_scale: 3, max_length: 1500, pad_token_id: codebookSize, bos_token_id: codebookSize };
  await writeFile(join(directory, "generation_config.json"), `${JSON.stringify(generation, null, 2)}\n`);
  await writeFile(join(directory, "tokenizer.json"), `${JSON.stringify(tokenizerJson(shape.text.vocabulary))}\n`);
  const codec = readEncodecConfig(new ConfigBlock(config.audio_encoder, "config.json", "audio_encoder"));
  const plans: TensorPlan[] = [
    ...textTensors(shape),
    ...decoderTensors(shape),
    ...seanetTensors("audio_encoder.encoder", encoderLayout(codec), shape, "encoder"),
    ...seanetTensors("audio_encoder.decoder", decoderLayout(codec), shape, "decoder"),
    ...quantizerTensors(shape),
  ];
  const tensors = plans.map((plan, index): NamedTensor => {
    const float16Exact = plan.name.startsWith("decoder.");
    return {
      name: plan.name,
      shape: plan.shape,
      dtype: "F32",
      values: () => randomValues(plan, (seed + Math.imul(index + 1, 0x9e3779b9)) | 0, float16Exact),
    };
  });
  await writeSafetensors(join(directory, "model.safetensors"), tensors, { format: "pt" });
}

/** Values of a Gaussian's mean and spread; a sum of four uniforms is Gaussian enough and cheap. */
function randomValues({ shape, deviation, mean = 0 }: TensorPlan, seed: number, float16Exact: boolean): Float32Array {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  if (deviation === 0) return values.fill(mean);
  const generator = xoroshiro128plus(seed);
  const scale = deviation * Math.sqrt(3); // the sum of four uniforms has variance 1/3
  for (let index = 0; index < values.length; index++) {
    const sum =
      uniformFloat32(generator) + uniformFloat32(generator) + uniformFloat32(generator) + uniformFloat32(generator);
    const value = mean + scale * (sum - 2);
    values[index] = float16Exact ? roundToEightBits(value) : value;
  }
  return values;
}

/** Keeps 8 significant bits, which float16 holds with room to spare, down to 2⁻²⁴ (float16's smallest step). */
function roundToEightBits(value: number): number {
  if (value === 0) return 0;
  const step = 2 ** Math.max(-24, Math.floor(Math.log2(Math.abs(value))) - 7);
  return Math.round(value / step) * step;
}

function linearPlan(name: string, outputs: number, inputs: number): TensorPlan {
  return { name, shape: [outputs, inputs], deviation: 1 / Math.sqrt(inputs) };
}

function constantPlan(name: string, shape: readonly number[], mean: number): TensorPlan {
  return { name, shape, deviation: 0, mean };
}

function textTensors({ text }: CheckpointShape): TensorPlan[] {
  const { layers, width, heads, headWidth, ffnWidth, vocabulary } = text;
  const inner = heads * headWidth;
  const encoder = "text_encoder.encoder";
  const blocks = Array.from({ length: layers }, (_, layer) => {
    const attention = `${encoder}.block.${layer}.layer.0`;
    const feedForward = `${encoder}.block.${layer}.layer.1`;
    return [
      // T5 doesn't scale its scores, so its queries are small.
      {
        ...linearPlan(`${attention}.SelfAttention.q.weight`, inner, width),
        deviation: 1 / Math.sqrt(width * headWidth),
      },
      linearPlan(`${attention}.SelfAttention.k.weight`, inner, width),
      linearPlan(`${attention}.SelfAttention.v.weight`, inner, width),
      linearPlan(`${attention}.SelfAttention.o.weight`, width, inner),
      constantPlan(`${attention}.layer_norm.weight`, [width], 1),
      linearPlan(`${feedForward}.DenseReluDense.wi.weight`, ffnWidth, width),
      linearPlan(`${feedForward}.DenseReluDense.wo.weight`, width, ffnWidth),
      constantPlan(`${feedForward}.layer_norm.weight`, [width], 1),
    ];
  });
  return [
    { name: "text_encoder.shared.weight", shape: [vocabulary, width], deviation: 1 },
    {
      name: `${encoder}.block.0.layer.0.SelfAttention.relative_attention_bias.weight`,
      shape: [32, heads],
      deviation: 0.5,
    },
    ...blocks.flat(),
    constantPlan(`${encoder}.final_layer_norm.weight`, [width], 1),
  ];
}

function decoderTensors({ decoder, text, codec }: CheckpointShape): TensorPlan[] {
  const { layers, width, ffnWidth, audioChannels } = decoder;
  const isMelody = decoder.melodyRows !== undefined;
  const codebooks = codec.codebooks * audioChannels;
  const model = "decoder.model.decoder";
  const norm = (name: string): TensorPlan[] => [
    constantPlan(`${name}.weight`, [width], 1),
    constantPlan(`${name}.bias`, [width], 0),
  ];
  const blocks = Array.from({ length: layers }, (_, layer) => {
    const block = `${model}.layers.${layer}`;
    const attentions = (isMelody ? ["self_attn"] : ["self_attn", "encoder_attn"]).flatMap((name) =>
      ["k_proj", "v_proj", "q_proj", "out_proj"].map((part) =>
        linearPlan(`${block}.${name}.${part}.weight`, width, width),
      ),
    );
    return [
      ...attentions,
      ...norm(`${block}.self_attn_layer_norm`),
      ...(isMelody ? [] : norm(`${block}.encoder_attn_layer_norm`)),
      linearPlan(`${block}.fc1.weight`, ffnWidth, width),
      linearPlan(`${block}.fc2.weight`, width, ffnWidth),
      ...norm(`${block}.final_layer_norm`),
    ];
  });
  const perCodebook = Array.from({ length: codebooks }, (_, k): TensorPlan[] => [
    { name: `${model}.embed_tokens.${k}.weight`, shape: [codec.codebookSize + 1, width], deviation: 0.5 },
    linearPlan(`decoder.lm_heads.${k}.weight`, codec.codebookSize, width),
  ]);
  return [
    ...perCodebook.flat(),
    ...blocks.flat(),
    ...norm(`${model}.layer_norm`),
    linearPlan("enc_to_dec_proj.weight", width, text.width),
    constantPlan("enc_to_dec_proj.bias", [width], 0),
    ...(isMelody ? [linearPlan("audio_enc_to_dec_proj.weight", width, CLASSES)] : []),
    ...(isMelody ? [constantPlan("audio_enc_to_dec_proj.bias", [width], 0)] : []),
  ];
}

function seanetTensors(
  prefix: string,
  { first, stages, lstm, lstmWidth, last }: SeanetLayout,
  { codec }: CheckpointShape,
  side: "encoder" | "decoder",
): TensorPlan[] {
  const conv = (layer: string, outputs: number, inputs: number, kernel: number): TensorPlan[] => [
    { name: `${prefix}.layers.${layer}.conv.weight_v`, shape: [outputs, inputs, kernel], deviation: 1 },
    constantPlan(`${prefix}.layers.${layer}.conv.weight_g`, [outputs, 1, 1], 1),
    constantPlan(`${prefix}.layers.${layer}.conv.bias`, [outputs], 0),
  ];
  const transposed = (layer: string, inputs: number, outputs: number, kernel: number): TensorPlan[] => [
    { name: `${prefix}.layers.${layer}.conv.weight_v`, shape: [inputs, outputs, kernel], deviation: 1 },
    constantPlan(`${prefix}.layers.${layer}.conv.weight_g`, [inputs, 1, 1], 1),
    constantPlan(`${prefix}.layers.${layer}.conv.bias`, [outputs], 0),
  ];
  const recurrent = [0, 1].flatMap((layer): TensorPlan[] => [
    linearPlan(`${prefix}.layers.${lstm}.lstm.weight_ih_l${layer}`, 4 * lstmWidth, lstmWidth),
    linearPlan(`${prefix}.layers.${lstm}.lstm.weight_hh_l${layer}`, 4 * lstmWidth, lstmWidth),
    constantPlan(`${prefix}.layers.${lstm}.lstm.bias_ih_l${layer}`, [4 * lstmWidth], 0),
    constantPlan(`${prefix}.layers.${lstm}.lstm.bias_hh_l${layer}`, [4 * lstmWidth], 0),
  ]);
  const middle = stages.flatMap(({ ratio, residuals, residualWidth, resample, inputs, outputs }) => [
    ...residuals.flatMap(({ layer }) => [
      ...conv(`${layer}.block.1`, residualWidth / 2, residualWidth, 3),
      ...conv(`${layer}.block.3`, residualWidth, residualWidth / 2, 1),
    ]),
    ...(side === "encoder"
      ? conv(`${resample}`, outputs, inputs, 2 * ratio)
      : transposed(`${resample}`, inputs, outputs, 2 * ratio)),
  ]);
  const [firstIn, firstOut, lastIn, lastOut] =
    side === "encoder"
      ? [1, codec.filters, lstmWidth, codec.latentWidth]
      : [codec.latentWidth, lstmWidth, codec.filters, 1];
  return [...conv(`${first}`, firstOut, firstIn, 7), ...middle, ...recurrent, ...conv(`${last}`, lastOut, lastIn, 7)];
}

function quantizerTensors({ codec }: CheckpointShape): TensorPlan[] {
  return Array.from({ length: codec.codebooks }, (_, q) => ({
    name: `audio_encoder.quantizer.layers.${q}.codebook.embed`,
    shape: [codec.codebookSize, codec.latentWidth],
    deviation: 0.5 ** (q + 1),
  }));
}

/** The three networks' blocks of config.json, and what stands beside them. */
export interface ConfigJson extends JsonObject {
  readonly text_encoder: JsonObject;
  readonly audio_encoder: JsonObject;
  readonly decoder: JsonObject;
}

/** config.json of a checkpoint of this shape. */
export function configJson({ text, decoder, codec }: CheckpointShape): ConfigJson {
  const hop = codec.ratios.reduce((product, ratio) => product * ratio, 1);
  const bitsPerSecond = Math.ceil(32_000 / hop) * codec.codebooks * Math.log2(codec.codebookSize);
  const { melodyRows } = decoder;
  const kind = melodyRows === undefined ? "musicgen" : "musicgen_melody";
  return {
    architectures: [
      melodyRows === undefined ? "MusicgenForConditionalGeneration" : "MusicgenMelodyForConditionalGeneration",
    ],
    model_type: kind,
    ...(melodyRows === undefined ? {} : { num_chroma: CLASSES, chroma_length: melodyRows }),
    text_encoder: {
      model_type: "t5",
      vocab_size: text.vocabulary,
      d_model: text.width,
      d_kv: text.headWidth,
      d_ff: text.ffnWidth,
      num_layers: text.layers,
      num_heads: text.heads,
      relative_attention_num_buckets: 32,
      relative_attention_max_distance: 128,
      layer_norm_epsilon: 1e-6,
      feed_forward_proj: "relu",
      pad_token_id: 0,
      eos_token_id: 1,
    },
    audio_encoder: {
      model_type: "encodec",
      sampling_rate: 32_000,
      audio_channels: 1,
      normalize: false,
      chunk_length_s: null,
      overlap: null,
      hidden_size: codec.latentWidth,
      num_filters: codec.filters,
      num_residual_layers: 1,
      upsampling_ratios: codec.ratios,
      norm_type: "weight_norm",
      kernel_size: 7,
      last_kernel_size: 7,
      residual_kernel_size: 3,
      dilation_growth_rate: 2,
      use_causal_conv: false,
      pad_mode: "reflect",
      compress: 2,
      num_lstm_layers: 2,
      trim_right_ratio: 1,
      codebook_size: codec.codebookSize,
      codebook_dim: codec.latentWidth,
      use_conv_shortcut: false,
      target_bandwidths: [bitsPerSecond / 1000],
    },
    decoder: {
      model_type: `${kind}_decoder`,
      vocab_size: codec.codebookSize,
      num_codebooks: codec.codebooks * decoder.audioChannels,
      num_hidden_layers: decoder.layers,
      num_attention_heads: decoder.heads,
      hidden_size: decoder.width,
      ffn_dim: decoder.ffnWidth,
      audio_channels: decoder.audioChannels,
      activation_function: "gelu",
      max_position_embeddings: 2048,
      pad_token_id: codec.codebookSize,
      bos_token_id: codec.codebookSize,
    },
  };
}

/** A unigram tokenizer of single letters: any text has ids below `vocabulary`. */
function tokenizerJson(vocabulary: number) {
  const letters = Array.from("▁etaoinshrdlucmfwypvbgkjqxz0123456789,.-'").slice(0, vocabulary - 3);
  const special = (id: number, content: string) => ({
    ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
  });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [special(0, "<pad>"), special(1, "</s>"), special(2, "<unk>")],
    normalizer: { type: "Strip", strip_left: false, strip_right: true },
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }],
      special_tokens: { "</s>": { id: "</s>", ids: [1], tokens: ["</s>"] } },
    },
    model: {
      type: "Unigram",
      unk_id: 2,
      vocab: [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ...letters.map((letter, rank) => [letter, -3 - rank / 10])],
      byte_fallback: false,
    },
  };
}
