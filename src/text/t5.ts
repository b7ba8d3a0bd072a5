import * as tf from "@tensorflow/tfjs-core";

import type { WeightScope } from "../checkpoint/scope.js";
import { UsageError } from "../errors.js";
import { announce, type Taps, type Walk } from "../runtime/announce.js";
import { attentionPattern, paddingMask, type AttentionMask } from "../runtime/attention.js";
import { linear, linearWeight, type Linear } from "../runtime/linear.js";
import { rootMeanSquare } from "../runtime/norm.js";
import { Owner } from "../runtime/owner.js";
import type { T5Config } from "./config.js";
import type { TokenBatch } from "./tokenizer.js";

/**
 * The T5 encoder (Raffel et al. 2019, https://arxiv.org/abs/1910.10683), in forward order, as transformers 5.18.0 runs
 * it: root-mean-square norms, relative position bias, attention scores that are not divided by √Dh, no bias anywhere.
 *
 * Shapes: B batch items, S text tokens, D width, H heads, Dh head width, Dff feed-forward width.
 *
 * Every activation is announced under the name in its `yield*`, and the pass goes on with what comes back.
 */

/** The encoder's weights. */
export type T5Weights = {
  readonly embed: tf.Tensor2D; // [V, D]
  readonly positionBias: tf.Tensor2D; // [buckets, H], shared by all blocks
  readonly blocks: readonly T5BlockWeights[];
  readonly lnFinal: tf.Tensor1D; // [D]
};

/** One block: attention, then feed-forward. */
export type T5BlockWeights = {
  readonly ln1: tf.Tensor1D; // [D]
  readonly attn: {
    readonly qkv: Linear; // [D, 3·H·Dh]
    readonly out: Linear; // [H·Dh, D]
  };
  readonly ln2: tf.Tensor1D; // [D]
  readonly mlp: {
    readonly in: Linear; // [D, Dff]
    readonly out: Linear; // [Dff, D]
  };
};

/**
 * Reads the encoder under `scope`, which is the checkpoint's `text_encoder`.
 *
 * @returns weights owned by the caller; `disposeTree` frees them.
 * @throws {CheckpointError} if a tensor is missing, of another shape, or not finite; no tensor is left behind.
 */
export async function loadT5(scope: WeightScope, config: T5Config): Promise<T5Weights> {
  const owner = new Owner();
  try {
    const encoder = scope.scope("encoder");
    const first = encoder.scope("block", 0, "layer", 0, "SelfAttention");
    const blocks: T5BlockWeights[] = [];
    const embed = owner.own(await loadEmbedding(scope, config));
    const positionBias = owner.own(
      await first.tensor("relative_attention_bias.weight", [config.buckets, config.heads]),
    );
    for (let layer = 0; layer < config.layers; layer++) {
      blocks.push(await loadBlock(encoder.scope("block", layer, "layer"), config, owner));
    }
    const lnFinal = owner.own(await encoder.tensor("final_layer_norm.weight", [config.width]));
    owner.releaseAll();
    return { embed, positionBias, blocks, lnFinal };
  } finally {
    owner.dispose();
  }
}

/** Files hold the embedding under either of two names, or twice: `shared` is the one that Hugging Face then uses. */
async function loadEmbedding(scope: WeightScope, { vocabularySize, width }: T5Config): Promise<tf.Tensor2D> {
  const alias = "encoder.embed_tokens.weight";
  const isShared = scope.has("shared.weight") || !scope.has(alias);
  if (!isShared) return scope.tensor(alias, [vocabularySize, width]);
  scope.ignore(alias);
  return scope.tensor("shared.weight", [vocabularySize, width]);
}

async function loadBlock(layers: WeightScope, config: T5Config, owner: Owner): Promise<T5BlockWeights> {
  const { width, ffnWidth } = config;
  const inner = config.heads * config.headWidth;
  const attention = layers.scope(0, "SelfAttention");
  const feedForward = layers.scope(1, "DenseReluDense");
  const q = await attention.matrix("q.weight", inner, width);
  const k = await attention.matrix("k.weight", inner, width);
  const v = await attention.matrix("v.weight", inner, width);
  return {
    ln1: owner.own(await layers.scope(0).tensor("layer_norm.weight", [width])),
    attn: {
      qkv: { weight: owner.own(linearWeight(q, k, v)) },
      out: { weight: owner.own(linearWeight(await attention.matrix("o.weight", width, inner))) },
    },
    ln2: owner.own(await layers.scope(1).tensor("layer_norm.weight", [width])),
    mlp: {
      in: { weight: owner.own(linearWeight(await feedForward.matrix("wi.weight", ffnWidth, width))) },
      out: { weight: owner.own(linearWeight(await feedForward.matrix("wo.weight", width, ffnWidth))) },
    },
  };
}

/**
 * The last hidden states of a batch of prompts.
 *
 * Padded tokens are attended to by none, and their own states mean nothing.
 *
 * @param tokens of a tokenizer that belongs to the weights
 * @returns [B, S, D], owned by the caller.
 * @throws {UsageError} for ids outside the vocabulary or lists of the wrong length; {@link SiteError} if a consumer
 *   replaces an activation by one of another shape. Whether it returns, throws or is stopped, nothing else stays.
 */
export function* encodeText(weights: T5Weights, config: T5Config, tokens: TokenBatch, taps: Taps): Walk<tf.Tensor3D> {
  checkTokens(tokens, config);
  const { ids, batch, length } = tokens;
  const owner = new Owner();
  try {
    const bias = owner.own(positionBias(weights.positionBias, config, length)); // [1, H, S, S]
    const mask = paddingMask(tokens.mask, batch); // [B, 1, 1, S]
    if (mask) owner.own(mask);
    const embedded = owner.run(() => {
      const rows = tf.gather<tf.Tensor>(weights.embed, tf.tensor2d(ids, [batch, length], "int32"));
      return rows as tf.Tensor3D; // [B, S, D]
    });
    let residual = yield* announce(taps, owner, "text.hook_embed", embedded);
    for (const [layer, block] of weights.blocks.entries()) {
      const next = owner.own(yield* runBlock(block, residual, { layer, config, bias, mask, taps }));
      owner.free(residual);
      residual = next;
    }
    return owner.release(yield* normalize(weights.lnFinal, residual, "text.ln_final", config, owner, taps));
  } finally {
    owner.dispose();
  }
}

function checkTokens({ ids, mask, batch, length }: TokenBatch, { vocabularySize }: T5Config): void {
  const asked = `encode ${batch} prompts of ${length} tokens`;
  const size = batch * length;
  if (size === 0 || ids.length !== size || mask.length !== size) {
    const found = `${ids.length} ids and ${mask.length} mask values`;
    throw new UsageError({ asked, found, todo: "Give batch · length of both, at least one" });
  }
  const stranger = ids.find((id) => id < 0 || id >= vocabularySize);
  if (stranger !== undefined) {
    const found = `token ${stranger} where the vocabulary has ${vocabularySize}`;
    throw new UsageError({ asked, found, todo: "Use the tokenizer.json of the same checkpoint" });
  }
}

/**
 * What is added to the scores of a query at i and a key at j for their distance.
 *
 * @param table [buckets, H]
 * @returns [1, H, S, S], owned by the caller.
 */
function positionBias(table: tf.Tensor2D, config: T5Config, length: number): tf.Tensor4D {
  const buckets = Int32Array.from({ length: length * length }, (_, index) =>
    relativePositionBucket((index % length) - Math.floor(index / length), config),
  );
  return tf.tidy(() => {
    const perPair = tf.gather(table, tf.tensor1d(buckets, "int32")); // [S·S, H]
    return tf.reshape(tf.transpose(perPair), [1, config.heads, length, length]); // [1, H, S, S]
  });
}

/**
 * The bucket of a relative position (key − query): one each for short distances, logarithmically wider ones up to
 * `maxDistance`, the last for all beyond; the second half of the buckets is for keys after the query.
 */
export function relativePositionBucket(
  relative: number,
  { buckets, maxDistance }: Pick<T5Config, "buckets" | "maxDistance">,
): number {
  const perDirection = Math.floor(buckets / 2);
  const exact = Math.floor(perDirection / 2);
  const base = relative > 0 ? perDirection : 0;
  const distance = Math.abs(relative);
  if (distance < exact) return base + distance;
  const octaves = Math.log(distance / exact) / Math.log(maxDistance / exact);
  return base + Math.min(perDirection - 1, exact + Math.trunc(octaves * (perDirection - exact)));
}

interface BlockRun {
  readonly layer: number;
  readonly config: T5Config;
  readonly bias: tf.Tensor4D; // [1, H, S, S]
  readonly mask: AttentionMask; // [B, 1, 1, S]
  readonly taps: Taps;
}

/** x + attention(ln1 x), + mlp(ln2 x). @returns [B, S, D], owned by the caller. */
function* runBlock(weights: T5BlockWeights, x: tf.Tensor3D, run: BlockRun): Walk<tf.Tensor3D> {
  const { taps, config } = run;
  const name = `text.blocks.${run.layer}`;
  const owner = new Owner();
  try {
    const residPre = yield* announce(taps, owner, `${name}.hook_resid_pre`, x);

    const attnIn = yield* normalize(weights.ln1, residPre, `${name}.ln1`, config, owner, taps);
    const attended = yield* attention(weights.attn, attnIn, `${name}.attn`, owner, run);
    const attnOut = yield* announce(taps, owner, `${name}.hook_attn_out`, attended);
    const afterAttn = owner.own(tf.add<tf.Tensor3D>(residPre, attnOut));
    const residMid = yield* announce(taps, owner, `${name}.hook_resid_mid`, afterAttn);

    const mlpIn = yield* normalize(weights.ln2, residMid, `${name}.ln2`, config, owner, taps);
    const pre = yield* announce(taps, owner, `${name}.mlp.hook_pre`, owner.own(linear(mlpIn, weights.mlp.in))); // [B, S, Dff]
    const post = yield* announce(taps, owner, `${name}.mlp.hook_post`, owner.own(tf.relu(pre)));
    const projected = owner.own(linear(post, weights.mlp.out)); // [B, S, D]
    const mlpOut = yield* announce(taps, owner, `${name}.hook_mlp_out`, projected);
    const afterMlp = owner.own(tf.add<tf.Tensor3D>(residMid, mlpOut));
    return owner.release(yield* announce(taps, owner, `${name}.hook_resid_post`, afterMlp));
  } finally {
    owner.dispose();
  }
}

/** A root-mean-square norm with its two sites. @returns [B, S, D], owned by `owner`. */
function* normalize(
  gain: tf.Tensor1D,
  x: tf.Tensor3D,
  name: string,
  { epsilon }: T5Config,
  owner: Owner,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const { scale, normalized } = rootMeanSquare(x, epsilon);
  owner.own(scale);
  owner.own(normalized);
  const usedScale = yield* announce(taps, owner, `${name}.hook_scale`, scale); // [B, S, 1]
  const scaled = usedScale === scale ? normalized : owner.run(() => tf.mul(normalized, tf.div(scale, usedScale)));
  const passed = yield* announce(taps, owner, `${name}.hook_normalized`, scaled);
  return owner.own(tf.mul(passed, gain));
}

/** softmax(q · kᵀ + bias) · v, heads merged and projected. @returns [B, S, D], owned by `owner`. */
function* attention(
  { qkv, out }: T5BlockWeights["attn"],
  x: tf.Tensor3D,
  name: string,
  owner: Owner,
  { config, bias, mask, taps }: BlockRun,
): Walk<tf.Tensor3D> {
  const [batch, length] = x.shape;
  const joined = owner.own(linear(x, qkv)); // [B, S, 3·H·Dh]
  const [qPart, kPart, vPart] = splitHeads(joined, config).map((part) => owner.own(part)); // 3 × [B, S, H, Dh]
  if (!qPart || !kPart || !vPart) throw new RangeError("q, k and v come in threes");
  const q = yield* announce(taps, owner, `${name}.hook_q`, qPart);
  const k = yield* announce(taps, owner, `${name}.hook_k`, kPart);
  const v = yield* announce(taps, owner, `${name}.hook_v`, vPart);

  const rawScores = owner.run(() => tf.add<tf.Tensor4D>(tf.matMul(headsFirst(q), headsFirst(k), false, true), bias));
  const scores = yield* announce(taps, owner, `${name}.hook_attn_scores`, rawScores); // [B, H, S, S]
  const softmax = owner.own(attentionPattern(scores, mask));
  const pattern = yield* announce(taps, owner, `${name}.hook_pattern`, softmax); // [B, H, S, S]

  const gathered = owner.run(() => headsFirst(tf.matMul<tf.Tensor4D>(pattern, headsFirst(v)))); // [B, S, H, Dh]
  const z = yield* announce(taps, owner, `${name}.hook_z`, gathered);
  const merged = owner.own(tf.reshape<tf.Rank.R3>(z, [batch, length, config.heads * config.headWidth])); // [B, S, H·Dh]
  const projected = owner.own(linear(merged, out)); // [B, S, D]
  if (!taps.wants(`${name}.hook_result`)) return projected;

  const results = owner.own(headResults(z, out)); // [B, S, H, D]
  const edited = yield* announce(taps, owner, `${name}.hook_result`, results);
  if (edited === results) return projected;
  // The sum of the results, by way of their changes: so that an edit which changes nothing changes not one bit.
  return owner.run(() => tf.add(projected, tf.sum(tf.sub(edited, results), 2))); // [B, S, D]
}

/** [B, S, 3·H·Dh] → three [B, S, H, Dh], owned by the caller. */
function splitHeads(joined: tf.Tensor3D, { heads, headWidth }: T5Config): tf.Tensor4D[] {
  const [batch, length] = joined.shape;
  return tf.tidy(() =>
    tf.split<tf.Tensor3D>(joined, 3, -1).map((part) => tf.reshape(part, [batch, length, heads, headWidth])),
  );
}

/** Swaps the middle axes: [B, S, H, Dh] ↔ [B, H, S, Dh]. */
function headsFirst(x: tf.Tensor4D): tf.Tensor4D {
  return tf.transpose(x, [0, 2, 1, 3]);
}

/** What each head adds to the residual stream: its z times its rows of the projection. @returns [B, S, H, D] */
function headResults(z: tf.Tensor4D, { weight }: Linear): tf.Tensor4D {
  return tf.tidy(() => {
    const [batch, length, heads, headWidth] = z.shape;
    const width = weight.shape[1];
    const zPerHead = tf.reshape(tf.transpose(z, [2, 0, 1, 3]), [heads, batch * length, headWidth]); // [H, B·S, Dh]
    const weightPerHead = tf.reshape(weight, [heads, headWidth, width]); // [H, Dh, D]
    const results = tf.reshape(tf.matMul(zPerHead, weightPerHead), [heads, batch, length, width]); // [H, B, S, D]
    return tf.transpose<tf.Tensor4D>(results as tf.Tensor4D, [1, 2, 0, 3]); // [B, S, H, D]
  });
}

/** A site and its shape in the letters of this file. */
export interface TextSite {
  readonly site: string;
  readonly shape: readonly ("B" | "S" | "D" | "H" | "Dh" | "Dff" | "1")[];
}

const STATES = ["B", "S", "D"] as const;
const HEADS = ["B", "S", "H", "Dh"] as const;
const PAIRS = ["B", "H", "S", "S"] as const;
const HIDDEN = ["B", "S", "Dff"] as const;

const BLOCK_SITES: readonly TextSite[] = [
  { site: "hook_resid_pre", shape: STATES },
  ...normSites("ln1"),
  { site: "attn.hook_q", shape: HEADS },
  { site: "attn.hook_k", shape: HEADS },
  { site: "attn.hook_v", shape: HEADS },
  { site: "attn.hook_attn_scores", shape: PAIRS },
  { site: "attn.hook_pattern", shape: PAIRS },
  { site: "attn.hook_z", shape: HEADS },
  { site: "attn.hook_result", shape: ["B", "S", "H", "D"] },
  { site: "hook_attn_out", shape: STATES },
  { site: "hook_resid_mid", shape: STATES },
  ...normSites("ln2"),
  { site: "mlp.hook_pre", shape: HIDDEN },
  { site: "mlp.hook_post", shape: HIDDEN },
  { site: "hook_mlp_out", shape: STATES },
  { site: "hook_resid_post", shape: STATES },
];

function normSites(name: string): TextSite[] {
  return [
    { site: `${name}.hook_scale`, shape: ["B", "S", "1"] },
    { site: `${name}.hook_normalized`, shape: STATES },
  ];
}

/** Every site of {@link encodeText} in the order in which it is announced. */
export function textSites({ layers }: T5Config): readonly TextSite[] {
  const blocks = Array.from({ length: layers }, (_, layer) =>
    BLOCK_SITES.map(({ site, shape }) => ({ site: `blocks.${layer}.${site}`, shape })),
  );
  const all: TextSite[] = [{ site: "hook_embed", shape: STATES }, ...blocks.flat(), ...normSites("ln_final")];
  return all.map(({ site, shape }) => ({ site: `text.${site}`, shape }));
}
