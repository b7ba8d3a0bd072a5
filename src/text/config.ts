import type { ConfigBlock } from "../checkpoint/config.js";

/** The shape of the T5 encoder, from the `text_encoder` block of config.json. */
export interface T5Config {
  readonly layers: number; // L
  readonly width: number; // D
  readonly heads: number; // H
  readonly headWidth: number; // Dh; H · Dh need not be D
  readonly ffnWidth: number; // Dff
  readonly vocabularySize: number; // V: rows of the embedding, some beyond the tokenizer's last id
  readonly buckets: number; // of relative positions, both directions together
  readonly maxDistance: number; // in tokens: beyond it all relative positions share a bucket
  readonly epsilon: number; // of the root-mean-square norms
}

/**
 * Reads the `text_encoder` block. Defaults are those of Hugging Face's `T5Config`.
 *
 * @throws {CheckpointError} if it is no T5 with a plain ReLU feed-forward layer (v1.1 and Flan models are gated), a
 *   number is out of range, or a key is unknown.
 */
export function readT5Config(block: ConfigBlock): T5Config {
  block.expect("model_type", "t5");
  block.expect("feed_forward_proj", undefined, "relu");
  block.expect("dense_act_fn", undefined, "relu");
  block.expect("is_gated_act", undefined, false);
  const buckets = block.integer("relative_attention_num_buckets", { min: 4, default: 32 });
  const config: T5Config = {
    layers: block.integer("num_layers", { min: 1 }),
    width: block.integer("d_model", { min: 1 }),
    heads: block.integer("num_heads", { min: 1 }),
    headWidth: block.integer("d_kv", { min: 1 }),
    ffnWidth: block.integer("d_ff", { min: 1 }),
    vocabularySize: block.integer("vocab_size", { min: 1 }),
    buckets,
    maxDistance: block.integer("relative_attention_max_distance", { min: buckets, default: 128 }),
    epsilon: block.number("layer_norm_epsilon", { min: 0, default: 1e-6 }),
  };
  block.ignore("dropout_rate", "initializer_factor"); // training only
  block.ignore("num_decoder_layers", "scale_decoder_outputs"); // of T5's decoder, which MusicGen drops
  block.ignore("n_positions", "output_past"); // of older T5 code; nothing reads them
  block.ignoreGeneric();
  block.finish();
  return config;
}
