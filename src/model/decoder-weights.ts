import type * as tf from "@tensorflow/tfjs-core";

import { CLASSES } from "../audio/chroma.js";
import type { WeightScope } from "../checkpoint/scope.js";
import { EXACT_FORM, linearWeight, linearWeightAs, type Linear, type LinearForm } from "../runtime/linear.js";
import type { LayerNorm } from "../runtime/norm.js";
import type { DecoderConfig } from "./config.js";

/** Self-attention of one block. No biases, as in the reference. */
export type SelfAttentionWeights = {
  readonly qkv: Linear; // [D, 3D]: q, k and v side by side
  readonly out: Linear; // [D, D]
};

/** Cross-attention of one block. Its keys and values are computed once per prompt. */
export type CrossAttentionWeights = {
  readonly q: Linear; // [D, D]
  readonly kv: Linear; // [D, 2D]: k and v side by side
  readonly out: Linear; // [D, D]
};

/** The feed-forward part of one block. */
export type MlpWeights = {
  readonly in: Linear; // [D, 4D]
  readonly out: Linear; // [4D, D]
};

/** One decoder block, normalised before each part. */
export type BlockWeights = {
  readonly ln1: LayerNorm;
  readonly attn: SelfAttentionWeights;
  readonly ln2?: LayerNorm; // ln2 and crossAttn: absent in the melody models, which read their text as a prefix
  readonly crossAttn?: CrossAttentionWeights;
  readonly ln3: LayerNorm;
  readonly mlp: MlpWeights;
};

/** The language model that predicts codes. */
export type DecoderWeights = {
  readonly embed: readonly tf.Tensor2D[]; // K × [V + 1, D]; the last row is the pad token
  readonly blocks: readonly BlockWeights[];
  readonly lnFinal: LayerNorm;
  readonly heads: Linear; // [D, K·V]: the heads of all codebooks side by side
};

/** A decoder with what goes around it: the projection of text states and, if the file has one, its table of positions. */
export type DecoderCheckpoint = {
  readonly decoder: DecoderWeights;
  readonly textProjection: Linear | undefined; // [Dt, D]; undefined where T5 is as wide as the decoder
  readonly melodyProjection: Linear | undefined; // [12, D], from chroma; melody models only
  readonly positionTable: Float32Array | undefined; // [P, D] on the host
};

/**
 * Reads the decoder from a checkpoint in the Hugging Face layout. Conversions made here, once: transposes, q/k/v and
 * heads joined.
 *
 * @param scope the root of the checkpoint
 * @param textWidth width of the text encoder's states
 * @param form of the matrices of the blocks and heads; embeddings and norms are always float32
 * @returns weights owned by the caller.
 * @throws {CheckpointError} if a tensor is missing or has another shape; {@link UsageError} if the backend in use has no
 *   such form.
 */
export async function loadDecoder(
  scope: WeightScope,
  config: DecoderConfig,
  textWidth: number,
  form: LinearForm = EXACT_FORM,
): Promise<DecoderCheckpoint> {
  const { codebooks, codebookSize, width } = config;
  const decoder = scope.scope("decoder", "model", "decoder");
  const heads = scope.scope("decoder", "lm_heads");

  const embed: tf.Tensor2D[] = [];
  for (let k = 0; k < codebooks; k++) {
    embed.push(await decoder.tensor(`embed_tokens.${k}.weight`, [codebookSize + 1, width]));
  }
  const blocks: BlockWeights[] = [];
  for (let layer = 0; layer < config.layers; layer++)
    blocks.push(await loadBlock(decoder.scope("layers", layer), config, form));

  const headMatrices = [];
  for (let k = 0; k < codebooks; k++) headMatrices.push(await heads.matrix(`${k}.weight`, codebookSize, width));

  return {
    decoder: {
      embed,
      blocks,
      lnFinal: await loadNorm(decoder.scope("layer_norm"), width),
      heads: { weight: linearWeightAs(form, ...headMatrices) },
    },
    textProjection: await loadProjection(scope, "enc_to_dec_proj", width, textWidth),
    melodyProjection: config.crossAttention
      ? undefined
      : await loadProjection(scope, "audio_enc_to_dec_proj", width, CLASSES),
    positionTable: decoder.has("embed_positions.weights")
      ? await decoder.values("embed_positions.weights", [config.maxPositions, width])
      : undefined,
  };
}

async function loadBlock(scope: WeightScope, config: DecoderConfig, form: LinearForm): Promise<BlockWeights> {
  const { width, ffnWidth, crossAttention } = config;
  const attn = scope.scope("self_attn");
  const block: BlockWeights = {
    ln1: await loadNorm(scope.scope("self_attn_layer_norm"), width),
    attn: {
      qkv: await joined(attn, ["q_proj", "k_proj", "v_proj"], width, width, form),
      out: await joined(attn, ["out_proj"], width, width, form),
    },
    ln3: await loadNorm(scope.scope("final_layer_norm"), width),
    mlp: {
      in: await joined(scope, ["fc1"], ffnWidth, width, form),
      out: await joined(scope, ["fc2"], width, ffnWidth, form),
    },
  };
  if (!crossAttention) return block;
  const cross = scope.scope("encoder_attn");
  return {
    ...block,
    ln2: await loadNorm(scope.scope("encoder_attn_layer_norm"), width),
    crossAttn: {
      q: await joined(cross, ["q_proj"], width, width, form),
      kv: await joined(cross, ["k_proj", "v_proj"], width, width, form),
      out: await joined(cross, ["out_proj"], width, width, form),
    },
  };
}

async function joined(
  scope: WeightScope,
  names: readonly string[],
  outputs: number,
  inputs: number,
  form: LinearForm,
): Promise<Linear> {
  const parts = [];
  for (const name of names) parts.push(await scope.matrix(`${name}.weight`, outputs, inputs));
  return { weight: linearWeightAs(form, ...parts) };
}

async function loadNorm(scope: WeightScope, width: number): Promise<LayerNorm> {
  return { gain: await scope.tensor("weight", [width]), bias: await scope.tensor("bias", [width]) };
}

/** A projection to the decoder's width. The reference leaves it out where there is nothing to project. */
async function loadProjection(
  scope: WeightScope,
  name: "enc_to_dec_proj" | "audio_enc_to_dec_proj",
  width: number,
  inputs: number,
): Promise<Linear | undefined> {
  const projection = scope.scope(name);
  if (inputs === width && !projection.has("weight")) return undefined;
  return {
    weight: linearWeight(await projection.matrix("weight", width, inputs)),
    bias: await projection.tensor("bias", [width]),
  };
}
