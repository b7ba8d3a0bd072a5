import type { ConfigBlock } from "../checkpoint/config.js";
import { CheckpointError } from "../errors.js";

/** The shape of the language model. */
export interface DecoderConfig {
  readonly layers: number; // L
  readonly width: number; // D
  readonly heads: number; // H
  readonly headWidth: number; // Dh
  readonly ffnWidth: number;
  readonly codebooks: number; // K, of all channels together
  readonly codebookSize: number; // V; V itself is the pad token
  readonly audioChannels: 1 | 2;
  readonly maxPositions: number; // rows of the stored position table; positions go on beyond it
  readonly crossAttention: boolean; // how the text is read: by cross-attention, or as the first positions (melody models)
}

/**
 * Reads the `decoder` block of config.json.
 *
 * @throws {CheckpointError} naming the key that is missing, out of range or of a variant that tonearm would compute
 *   differently.
 */
export function readDecoderConfig(block: ConfigBlock): DecoderConfig {
  const kind = block.expect("model_type", "musicgen_decoder", "musicgen_melody_decoder");
  block.expect("activation_function", "gelu");
  // Read by transformers but applied nowhere in MusicGen's forward pass.
  block.ignore("scale_embedding", "initializer_factor");
  // Inactive outside training.
  block.ignore("layerdrop", "dropout", "attention_dropout", "activation_dropout");
  block.expect("tie_word_embeddings", false, undefined);
  block.expect("cross_attention_hidden_size", null, undefined);
  block.ignoreGeneric();

  const width = block.integer("hidden_size", { min: 2 });
  const heads = block.integer("num_attention_heads", { min: 1 });
  if (width % heads !== 0) {
    throw new CheckpointError({
      asked: `read ${block.path} of ${block.file}`,
      found: `hidden_size ${width}, which ${heads} attention heads do not divide`,
      todo: "Fetch the file again: it is damaged",
    });
  }
  const audioChannels = block.integer("audio_channels", { min: 1, max: 2, default: 1 }) === 2 ? 2 : 1;
  const codebooks = block.integer("num_codebooks", { min: 1 });
  if (codebooks % audioChannels !== 0) {
    throw new CheckpointError({
      asked: `read ${block.path} of ${block.file}`,
      found: `num_codebooks ${codebooks} for ${audioChannels} channels`,
      todo: "Fetch the file again: it is damaged",
    });
  }
  const codebookSize = block.integer("vocab_size", { min: 2 });
  block.expect("pad_token_id", codebookSize);
  block.expect("bos_token_id", codebookSize, undefined, null);
  return {
    layers: block.integer("num_hidden_layers", { min: 1 }),
    width,
    heads,
    headWidth: width / heads,
    ffnWidth: block.integer("ffn_dim", { min: 1 }),
    codebooks,
    codebookSize,
    audioChannels,
    maxPositions: block.integer("max_position_embeddings", { min: 1, default: 2048 }),
    crossAttention: kind === "musicgen_decoder",
  };
}

/** Defaults of generation that a checkpoint states. */
export interface GenerationDefaults {
  readonly guidance: number;
  readonly maxFrames: number; // what the model was trained on; beyond it needs a sliding window
}

/** What every released checkpoint was trained on: 30 s at 50 frames a second. */
const TRAINED_FRAMES = 1500;

/**
 * Reads generation_config.json. Its sampling settings are not used: transformers' defaults (top-k 50) are not what the
 * model's authors sample with.
 *
 * @param block undefined if the checkpoint has no such file
 * @param pad the decoder's pad token
 * @throws {CheckpointError} if it starts from another token or asks for another way of decoding.
 */
export function readGenerationDefaults(block: ConfigBlock | undefined, pad: number): GenerationDefaults {
  if (!block) return { guidance: 3, maxFrames: TRAINED_FRAMES };
  block.expect("decoder_start_token_id", pad, undefined, null);
  block.expect("pad_token_id", pad, undefined, null);
  block.expect("bos_token_id", pad, undefined, null);
  block.expect("num_beams", 1, undefined, null);
  block.ignoreGeneric();
  const defaults = {
    guidance: block.number("guidance_scale", { min: 0, default: 3 }),
    maxFrames: block.integer("max_length", { min: 1, default: TRAINED_FRAMES }),
  };
  block.finish();
  return defaults;
}
