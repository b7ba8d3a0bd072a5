import * as tf from "@tensorflow/tfjs-core";

import { announce, type Taps, type Walk } from "../runtime/announce.js";
import {
  attend,
  attentionPattern,
  attentionScores,
  attentionValues,
  causalMask,
  disposeCache,
  disposeKeyValues,
  EMPTY_CACHE,
  extendCache,
  mergeHeads,
  splitHeads,
  type AttentionMask,
  type CacheStorage,
  type KeyValueCache,
  type KeyValues,
} from "../runtime/attention.js";
import { gelu } from "../runtime/gelu.js";
import { linear, type Linear } from "../runtime/linear.js";
import { layerNorm, standardize, type LayerNorm } from "../runtime/norm.js";
import { Owner } from "../runtime/owner.js";
import type { DecoderConfig } from "./config.js";
import type { BlockWeights, DecoderWeights } from "./decoder-weights.js";
import { positionEmbeddings } from "./positions.js";

/**
 * The language model of MusicGen, in forward order: embeddings, blocks, heads.
 *
 * Shapes: B batch items, R rows (batch × guidance roles, row r·B + b), Rc the first rows, those that read a text,
 * T positions of this pass (in the first pass of a melody model with its prefix of P), T' positions so far, S text tokens, D width, H heads, Dh head width, K codebooks,
 * V codebook entries.
 *
 * Every activation is announced under the name in its `yield*`, and the pass goes on with what comes back. An edited
 * intermediate adds its difference to the fused result, so that an edit which changes nothing changes not one bit.
 */

/** The codes of one pass, with pad tokens where the delay pattern puts them. */
export interface DecoderInput {
  readonly ids: Int32Array; // [B, K, T], each 0 … V (V is the pad token)
  readonly batch: number; // B
  readonly positions: number; // T, less those of a prefix
  readonly rows: number; // R, a multiple of B
  readonly prefix?: tf.Tensor3D | undefined; // [R, P, D]: embeddings of the positions before them; stays the caller's
}

/** What the text contributes: keys and values of every block, computed once per prompt. */
export interface TextMemory {
  readonly rows: number; // Rc
  readonly blocks: readonly KeyValues[]; // L × [Rc, H, S, Dh]
  readonly mask: AttentionMask; // [Rc, 1, 1, S]
}

/** What a pass leaves for the next: the number of positions seen, and every block's keys and values. */
export interface DecoderState {
  readonly length: number;
  readonly caches: readonly KeyValueCache[];
}

/** How a pass is run. */
export interface DecoderPass {
  /** Positions seen before. A pass takes ownership of it, even if it ends early. Undefined: from position 0, and no state is kept. */
  readonly state: DecoderState | undefined;
  /** Null: no row reads a text. */
  readonly memory: TextMemory | undefined;
  /** Logits for the last one of the input's positions only, as generation needs, or for all. A prefix has none. */
  readonly logits: "all" | "last";
  /** The checkpoint's own table of position embeddings. */
  readonly positionTable: Float32Array | undefined;
}

/** The result of a pass; both parts are owned by the caller. */
export interface DecoderOutput {
  readonly logits: tf.Tensor4D; // [R, K, T, V], T = 1 for `logits: "last"`
  readonly state: DecoderState | undefined;
}

const LAYER_NORM_EPSILON = 1e-5;

/** The state before the first position. @param storage of the keys and values to come */
export function initialState(config: DecoderConfig, storage: CacheStorage = "f32"): DecoderState {
  return { length: 0, caches: Array.from({ length: config.layers }, () => ({ ...EMPTY_CACHE, storage })) };
}

/** Frees a state. */
export function disposeState(state: DecoderState): void {
  state.caches.forEach(disposeCache);
}

/**
 * Keys and values of the projected text for every block.
 *
 * @param states projected text [Rc, S, D], zero where padded
 * @param mask of {@link paddingMask}; the memory takes ownership of it
 * @returns owned by the caller.
 */
export function textMemory(
  weights: DecoderWeights,
  config: DecoderConfig,
  states: tf.Tensor3D,
  mask: AttentionMask,
): TextMemory {
  const blocks = weights.blocks.flatMap(({ crossAttn }) => {
    if (crossAttn === undefined) return [];
    const kv = linear(states, crossAttn.kv); // [Rc, S, 2D]
    const [keys, values] = splitHeads(kv, 2, config.heads);
    kv.dispose();
    return keys && values ? [{ keys, values }] : [];
  });
  return { rows: states.shape[0], blocks, mask };
}

/** Frees a memory and its mask. */
export function disposeMemory({ blocks, mask }: TextMemory): void {
  blocks.forEach(disposeKeyValues);
  mask?.dispose();
}

/**
 * One pass over T positions: teacher-forced, prefill or a single step.
 *
 * @throws {SiteError} if a consumer replaces an activation by one of another shape.
 */
export function* runDecoder(
  weights: DecoderWeights,
  config: DecoderConfig,
  input: DecoderInput,
  pass: DecoderPass,
  taps: Taps,
): Walk<DecoderOutput> {
  const owner = new Owner();
  const start = pass.state?.length ?? 0;
  const caches = pass.state ? [...pass.state.caches] : undefined;
  let finished = false;
  try {
    const residual = owner.own(yield* embed(weights, config, input, start, pass.positionTable, taps)); // [R, T, D]
    const run: LayerRun = { first: 0, end: config.layers, start, caches, memory: pass.memory };
    const final = owner.own(yield* runLayers(weights, config, residual, run, taps)); // [R, T, D]
    const logits = yield* unembed(weights, config, final, pass.logits === "all" ? input.positions : 1, taps);
    finished = true;
    return { logits, state: caches && { length: start + final.shape[1], caches } };
  } finally {
    owner.dispose();
    if (!finished) caches?.forEach(disposeCache);
  }
}

/** Which blocks are run, and over what. */
export interface LayerRun {
  readonly first: number; // from this block …
  readonly end: number; // … up to, not including, this one
  readonly start: number; // absolute position of the first of the T
  readonly caches: KeyValueCache[] | undefined; // one per block; each block replaces its own
  readonly memory: TextMemory | undefined;
}

/**
 * Blocks `first` … `end − 1`.
 *
 * @param residual [R, T, D], stays the caller's
 * @returns [R, T, D], owned by the caller.
 */
export function* runLayers(
  weights: DecoderWeights,
  config: DecoderConfig,
  residual: tf.Tensor3D,
  { first, end, start, caches, memory }: LayerRun,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const owner = new Owner();
  try {
    const mask = causalMask(residual.shape[1], start + residual.shape[1]); // [T, T']
    if (mask) owner.own(mask);
    let current = owner.own(tf.clone(residual));
    for (const [offset, block] of weights.blocks.slice(first, end).entries()) {
      const run: BlockRun = { layer: first + offset, config, caches, memory, mask, taps };
      const next = owner.own(yield* runBlock(block, current, run));
      owner.free(current);
      current = next;
    }
    return owner.release(current);
  } finally {
    owner.dispose();
  }
}

/**
 * Sum over codebooks of the token embeddings, behind the prefix if there is one, plus positions.
 *
 * @param start absolute position of the first of the T, a prefix included
 * @returns [R, T, D], owned by the caller.
 */
export function* embed(
  weights: DecoderWeights,
  config: DecoderConfig,
  { ids, batch, positions, rows, prefix }: DecoderInput,
  start: number,
  positionTable: Float32Array | undefined,
  taps: Taps,
): Walk<tf.Tensor3D> {
  const owner = new Owner();
  try {
    const tokens = owner.run(() => {
      const codes = tf.tensor3d(ids, [batch, config.codebooks, positions], "int32");
      const perCodebook = tf.unstack(codes, 1).map((row, k) => embedTokens(weights.embed[k], row)); // K × [B, T, D]
      const embedded = tf.tile(tf.addN(perCodebook), [rows / batch, 1, 1]); // [R, T − P, D]
      return prefix ? tf.concat([prefix, embedded], 1) : embedded; // [R, T, D]
    });
    const table = owner.own(positionEmbeddings(start, tokens.shape[1], config.width, positionTable)); // [T, D]
    const embedded = yield* announce(taps, owner, "hook_embed", tokens);
    const positional = yield* announce(taps, owner, "hook_pos_embed", table);
    return tf.add<tf.Tensor3D>(embedded, positional);
  } finally {
    owner.dispose();
  }
}

/** @param ids int32 [B, T] @returns [B, T, D] */
function embedTokens(table: tf.Tensor2D | undefined, ids: tf.Tensor): tf.Tensor3D {
  if (table === undefined) throw new RangeError("more codebooks than embedding tables");
  return tf.gather<tf.Tensor>(table, ids) as tf.Tensor3D;
}

interface BlockRun {
  readonly layer: number;
  readonly config: DecoderConfig;
  readonly caches: KeyValueCache[] | undefined; // this block replaces its own entry
  readonly memory: TextMemory | undefined;
  readonly mask: AttentionMask;
  readonly taps: Taps;
}

/** x + selfAttention(ln1 x), + crossAttention(ln2 x), + mlp(ln3 x). */
function* runBlock(weights: BlockWeights, x: tf.Tensor3D, run: BlockRun): Walk<tf.Tensor3D> {
  const { taps } = run;
  const block = `blocks.${run.layer}`;
  const owner = new Owner();
  try {
    const residPre = yield* announce(taps, owner, `${block}.hook_resid_pre`, x);

    const attnOut = yield* selfAttention(weights, residPre, owner, run);
    const residMid = yield* announce(
      taps,
      owner,
      `${block}.hook_resid_mid`,
      owner.own(tf.add<tf.Tensor3D>(residPre, attnOut)),
    );

    const residMidCross = yield* crossAttention(weights, residMid, owner, run);

    const mlpOut = yield* mlp(weights, residMidCross, owner, run);
    const residPost = owner.own(tf.add<tf.Tensor3D>(residMidCross, mlpOut));
    return owner.release(yield* announce(taps, owner, `${block}.hook_resid_post`, residPost));
  } finally {
    owner.dispose();
  }
}

function* selfAttention(weights: BlockWeights, x: tf.Tensor3D, owner: Owner, run: BlockRun): Walk<tf.Tensor3D> {
  const { taps, caches, config, layer } = run;
  const name = `blocks.${layer}.attn`;
  const normalized = yield* normalize(weights.ln1, x, `blocks.${layer}.ln1`, owner, taps);
  const qkv = owner.own(linear(normalized, weights.attn.qkv)); // [R, T, 3D]
  const [q, k, v] = splitHeads(qkv, 3, config.heads).map((heads) => owner.own(heads));
  if (!q || !k || !v) throw new RangeError("q, k and v come in threes");
  const queries = yield* announceHeads(taps, owner, `${name}.hook_q`, q);
  const added: KeyValues = {
    keys: yield* announceHeads(taps, owner, `${name}.hook_k`, k),
    values: yield* announceHeads(taps, owner, `${name}.hook_v`, v),
  };
  let segments: readonly KeyValues[] = [added];
  if (caches) {
    owner.release(added.keys);
    owner.release(added.values);
    const cache = extendCache(caches[layer] ?? EMPTY_CACHE, added);
    caches[layer] = cache;
    segments = cache.segments;
  }
  const attnOut = yield* attention(queries, segments, run.mask, weights.attn.out, name, owner, taps);
  return yield* announce(taps, owner, `blocks.${layer}.hook_attn_out`, attnOut);
}

/**
 * Rows without text skip the arithmetic: their keys and values would be zero and the projections have no bias, so
 * cross-attention would add exactly nothing.
 */
function* crossAttention(weights: BlockWeights, x: tf.Tensor3D, owner: Owner, run: BlockRun): Walk<tf.Tensor3D> {
  const { taps, memory, layer } = run;
  const { crossAttn, ln2 } = weights;
  const keyValues = memory?.blocks[layer];
  if (!crossAttn || !ln2 || !memory || !keyValues) return x;
  const name = `blocks.${layer}.cross_attn`;
  const [rows, positions, width] = x.shape;

  const reading = rows === memory.rows ? x : owner.own(tf.slice(x, [0, 0, 0], [memory.rows, positions, width])); // [Rc, T, D]
  const normalized = yield* normalize(ln2, reading, `blocks.${layer}.ln2`, owner, taps);
  const joined = owner.own(linear(normalized, crossAttn.q)); // [Rc, T, D]
  const [q] = splitHeads(joined, 1, run.config.heads).map((heads) => owner.own(heads)); // [Rc, H, T, Dh]
  if (!q) throw new RangeError("one part was asked for");
  const queries = yield* announceHeads(taps, owner, `${name}.hook_q`, q);
  const read: KeyValues = {
    keys: yield* announceHeads(taps, owner, `${name}.hook_k`, keyValues.keys),
    values: yield* announceHeads(taps, owner, `${name}.hook_v`, keyValues.values),
  };
  const readOut = yield* attention(queries, [read], memory.mask, crossAttn.out, name, owner, taps); // [Rc, T, D]
  const out =
    rows === memory.rows
      ? readOut
      : owner.own(
          tf.pad(readOut, [
            [0, rows - memory.rows],
            [0, 0],
            [0, 0],
          ]),
        ); // [R, T, D]
  const crossOut = yield* announce(taps, owner, `blocks.${layer}.hook_cross_attn_out`, out);
  return yield* announce(taps, owner, `blocks.${layer}.hook_resid_mid_cross`, owner.own(tf.add(x, crossOut)));
}

function* mlp(weights: BlockWeights, x: tf.Tensor3D, owner: Owner, run: BlockRun): Walk<tf.Tensor3D> {
  const { taps, layer } = run;
  const normalized = yield* normalize(weights.ln3, x, `blocks.${layer}.ln3`, owner, taps);
  const activated = yield* mlpIn(weights, normalized, owner, run); // [R, T, 4D]
  const post = yield* announce(taps, owner, `blocks.${layer}.mlp.hook_post`, owner.own(activated));
  const out = owner.own(linear(post, weights.mlp.out)); // [R, T, D]
  return yield* announce(taps, owner, `blocks.${layer}.hook_mlp_out`, out);
}

/** gelu(x · W), in one go where nobody asked to see the product. @returns [R, T, 4D] */
function* mlpIn({ mlp }: BlockWeights, x: tf.Tensor3D, owner: Owner, { taps, layer }: BlockRun): Walk<tf.Tensor3D> {
  const site = `blocks.${layer}.mlp.hook_pre`;
  if (!taps.wants(site)) return linear(x, mlp.in, "gelu");
  const pre = owner.own(linear(x, mlp.in)); // [R, T, 4D]
  return gelu(yield* announce(taps, owner, site, pre));
}

/**
 * softmax(q · kᵀ / √Dh) · v, heads merged and projected. Scores, pattern and per-head results exist only where wanted.
 *
 * @param queries [R, H, T, Dh]
 * @returns [R, T, D], owned by `owner`.
 */
function* attention(
  queries: tf.Tensor4D,
  segments: readonly KeyValues[],
  mask: AttentionMask,
  projection: Linear,
  name: string,
  owner: Owner,
  taps: Taps,
): Walk<tf.Tensor3D> {
  let values = owner.own(attend(queries, segments, mask)); // [R, H, T, Dh]
  if (taps.wants(`${name}.hook_attn_scores`) || taps.wants(`${name}.hook_pattern`)) {
    const scores = owner.own(attentionScores(queries, segments)); // [R, H, T, T']
    const pattern = owner.own(attentionPattern(scores, mask)); // [R, H, T, T']
    const editedScores = yield* announce(taps, owner, `${name}.hook_attn_scores`, scores);
    const repatterned = editedScores === scores ? pattern : owner.own(attentionPattern(editedScores, mask));
    const edited = yield* announce(taps, owner, `${name}.hook_pattern`, repatterned);
    if (edited !== pattern) {
      const clean = values;
      values = owner.run(() => tf.add(clean, attentionValues(tf.sub(edited, pattern), segments)));
    }
  }
  const z = yield* announceHeads(taps, owner, `${name}.hook_z`, values);
  const merged = owner.own(mergeHeads(z)); // [R, T, D]
  const out = owner.own(linear(merged, projection)); // [R, T, D]
  if (!taps.wants(`${name}.hook_result`)) return out;
  const result = owner.own(headResults(z, projection)); // [R, T, H, D]
  const edited = yield* announce(taps, owner, `${name}.hook_result`, result);
  if (edited === result) return out;
  return owner.run(() => tf.add(out, tf.sum(tf.sub(edited, result), 2))); // [R, T, D]
}

/** What each head adds to the residual stream: z_h · W_O,h. @param z [R, H, T, Dh] @returns [R, T, H, D] */
function headResults(z: tf.Tensor4D, { weight }: Linear): tf.Tensor4D {
  return tf.tidy(() => {
    const [rows, heads, , headWidth] = z.shape;
    const width = weight.shape[1];
    const perHead = tf.reshape(weight, [1, heads, headWidth, width]); // [1, H, Dh, D]
    const results = tf.matMul<tf.Tensor4D>(z, tf.tile(perHead, [rows, 1, 1, 1])); // [R, H, T, D]
    return tf.transpose(results, [0, 2, 1, 3]); // [R, T, H, D]
  });
}

/**
 * Final layer norm and the heads of all codebooks.
 *
 * @param residual [R, T, D], stays the caller's
 * @param count of how many positions, counted from the last
 * @returns [R, K, count, V], owned by the caller.
 */
export function* unembed(
  weights: DecoderWeights,
  config: DecoderConfig,
  residual: tf.Tensor3D,
  count: number,
  taps: Taps,
): Walk<tf.Tensor4D> {
  const owner = new Owner();
  try {
    const normalized = yield* normalize(weights.lnFinal, residual, "ln_final", owner, taps); // [R, T, D]
    const [rows, positions, width] = normalized.shape;
    const logits = owner.run(() => {
      const first = positions - count;
      const read = first === 0 ? normalized : tf.slice(normalized, [0, first, 0], [rows, count, width]); // [R, count, D]
      const joined = linear(read, weights.heads); // [R, count, K·V]
      const perCodebook = tf.reshape(joined, [rows, count, config.codebooks, config.codebookSize]); // [R, count, K, V]
      return tf.transpose(perCodebook, [0, 2, 1, 3]) as tf.Tensor4D; // [R, K, count, V]
    });
    return owner.release(yield* announce(taps, owner, "hook_logits", logits));
  } finally {
    owner.dispose();
  }
}

/** A layer norm with its two sites. @returns [R, T, D], owned by `owner`. */
function* normalize(norm: LayerNorm, x: tf.Tensor3D, name: string, owner: Owner, taps: Taps): Walk<tf.Tensor3D> {
  const out = owner.own(layerNorm(x, norm, LAYER_NORM_EPSILON)); // [R, T, D]
  if (!taps.wants(`${name}.hook_scale`) && !taps.wants(`${name}.hook_normalized`)) return out;
  const { scale, normalized } = standardize(x, LAYER_NORM_EPSILON);
  owner.own(scale); // [R, T, 1]
  owner.own(normalized); // [R, T, D]
  const editedScale = yield* announce(taps, owner, `${name}.hook_scale`, scale);
  const rescaled = editedScale === scale ? normalized : owner.run(() => tf.mul(normalized, tf.div(scale, editedScale)));
  const edited = yield* announce(taps, owner, `${name}.hook_normalized`, rescaled);
  if (edited === normalized) return out;
  return owner.run(() => tf.add(out, tf.mul(tf.sub(edited, normalized), norm.gain))); // [R, T, D]
}

/** Announces [R, H, T, Dh] as [R, T, H, Dh], the order researchers expect, and turns a replacement back. */
function* announceHeads(taps: Taps, owner: Owner, site: string, heads: tf.Tensor4D): Walk<tf.Tensor4D> {
  if (!taps.wants(site)) return heads;
  const shown = owner.run(() => tf.transpose(heads, [0, 2, 1, 3])); // [R, T, H, Dh]
  const edited = yield* announce(taps, owner, site, shown);
  return edited === shown ? heads : owner.run(() => tf.transpose(edited, [0, 2, 1, 3])); // [R, H, T, Dh]
}
