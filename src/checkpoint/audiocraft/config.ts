import { CheckpointError } from "../../errors.js";
import type { JsonObject } from "../json.js";
import { parseYaml, yamlValue } from "./yaml.js";

/**
 * What audiocraft's training configuration (`xp.cfg`) says of a model, in the keys of Hugging Face's config.json, so that
 * one reader serves both. Keys of `audiocraft/config/model` and `config/conditioner`; whatever tonearm would compute
 * differently is refused by name.
 */

/** What names and shapes of the language model's weights follow from. */
export interface LanguageModel {
  readonly layers: number;
  readonly width: number;
  readonly codebooks: number;
  readonly isMelody: boolean;
  readonly textModel: string; // "t5-base"
  readonly decoder: JsonObject; // config.json's block
  readonly root: JsonObject; // what else config.json says
  readonly generation: JsonObject; // generation_config.json
}

type Expected = string | number | boolean | null | undefined;

/** A configuration, asked key by key. */
class Settings {
  readonly #root: JsonObject;
  readonly #source: string;

  constructor(text: string, source: string) {
    this.#root = parseYaml(text, source);
    this.#source = source;
  }

  get(path: string): unknown {
    return yamlValue(this.#root, path, this.#source);
  }

  count(path: string): number {
    const value = this.get(path);
    if (Number.isSafeInteger(value) && Number(value) > 0) return Number(value);
    throw this.wrong(path, "a whole number above 0");
  }

  number(path: string, fallback: number): number {
    const value = this.get(path) ?? fallback;
    if (Number.isFinite(value)) return Number(value);
    throw this.wrong(path, "a number");
  }

  text(path: string): string {
    const value = this.get(path);
    if (typeof value === "string" && value !== "") return value;
    throw this.wrong(path, "a text");
  }

  /** A list, its references followed; absent ones are empty. */
  list(path: string): readonly unknown[] {
    const value = this.get(path) ?? [];
    if (Array.isArray(value)) return value;
    throw this.wrong(path, "a list");
  }

  expect(path: string, ...allowed: readonly Expected[]): void {
    const value = this.get(path);
    if (!allowed.some((candidate) => candidate === value)) {
      throw this.wrong(path, allowed.map((candidate) => candidate ?? "nothing").join(" or "));
    }
  }

  wrong(path: string, wanted: string): CheckpointError {
    const value = JSON.stringify(this.get(path)) as string | undefined;
    return new CheckpointError({
      asked: `read ${path} of the configuration in ${this.#source}`,
      found: `${value?.slice(0, 120) ?? "nothing"}, expected ${wanted}`,
      todo: "tonearm does not support this variant of audiocraft's models",
    });
  }
}

const CHROMA_WINDOW = 14; // its binary logarithm, in samples; chroma is taken every quarter of a window

/**
 * Reads the configuration of a language model.
 *
 * @param frameRate of its codec
 * @throws {CheckpointError} naming the key that is missing or of another kind of model.
 */
export function readLanguageModel(text: string, source: string, frameRate: number): LanguageModel {
  const settings = new Settings(text, source);
  settings.expect("lm_model", "transformer_lm");
  checkTransformer(settings);
  const isMelody = readConditioning(settings);
  const width = settings.count("transformer_lm.dim");
  const codebooks = settings.count("transformer_lm.n_q");
  const codebookSize = settings.count("transformer_lm.card");
  const channels = readChannels(settings, codebooks);
  const seconds = settings.number("dataset.segment_duration", 30);
  const pad = { pad_token_id: codebookSize, bos_token_id: codebookSize };
  const samples = seconds * settings.count("sample_rate");
  const rows = Math.floor(samples / 2 ** (CHROMA_WINDOW - 2)) + 1;
  return {
    layers: settings.count("transformer_lm.num_layers"),
    width,
    codebooks,
    isMelody,
    textModel: settings.text("conditioners.description.t5.name"),
    decoder: {
      model_type: isMelody ? "musicgen_melody_decoder" : "musicgen_decoder",
      hidden_size: width,
      num_attention_heads: settings.count("transformer_lm.num_heads"),
      num_hidden_layers: settings.count("transformer_lm.num_layers"),
      ffn_dim: settings.count("transformer_lm.hidden_scale") * width,
      num_codebooks: codebooks,
      vocab_size: codebookSize,
      audio_channels: channels,
      activation_function: "gelu",
      max_position_embeddings: 2048,
      ...pad,
    },
    root: isMelody
      ? { model_type: "musicgen_melody", num_chroma: 12, chroma_length: rows }
      : { model_type: "musicgen" },
    generation: {
      guidance_scale: settings.number("classifier_free_guidance.inference_coef", 3),
      max_length: Math.floor(seconds * frameRate),
      ...pad,
    },
  };
}

function checkTransformer(settings: Settings): void {
  const lm = "transformer_lm";
  settings.expect(`${lm}.activation`, "gelu");
  settings.expect(`${lm}.norm`, "layer_norm", undefined);
  settings.expect(`${lm}.norm_first`, true);
  for (const bias of ["bias_ff", "bias_attn", "bias_proj"]) settings.expect(`${lm}.${bias}`, false);
  settings.expect(`${lm}.causal`, true, undefined);
  settings.expect(`${lm}.past_context`, null, undefined);
  settings.expect(`${lm}.positional_embedding`, "sin", undefined);
  settings.expect(`${lm}.layer_scale`, null, undefined);
  for (const norm of ["qk_layer_norm", "qk_layer_norm_cross"]) settings.expect(`${lm}.${norm}`, false, undefined);
  settings.expect(`${lm}.kv_repeat`, 1, undefined);
}

/** How the text and the melody reach the model. @returns whether it reads melodies, both as a prefix */
function readConditioning(settings: Settings): boolean {
  const names = (path: string): string => settings.list(path).join(" ");
  for (const unused of ["sum", "input_interpolate"]) {
    if (names(`fuser.${unused}`) !== "") throw settings.wrong(`fuser.${unused}`, "[]");
  }
  settings.expect("fuser.cross_attention_pos_emb", false, undefined);
  settings.expect("conditioners.description.model", "t5");
  settings.expect("conditioners.description.t5.finetune", false, undefined);
  settings.expect("conditioners.description.t5.normalize_text", false, undefined);
  const ways = `${names("fuser.prepend")}|${names("fuser.cross")}`;
  if (ways === "|description") return false;
  if (ways !== "self_wav description|") {
    throw settings.wrong(
      "fuser.prepend",
      "nothing with cross: [description], or [self_wav, description] without cross",
    );
  }
  settings.expect("conditioners.self_wav.model", "chroma_stem");
  settings.expect("conditioners.self_wav.chroma_stem.n_chroma", 12);
  settings.expect("conditioners.self_wav.chroma_stem.radix2_exp", CHROMA_WINDOW);
  settings.expect("conditioners.self_wav.chroma_stem.argmax", true);
  return true;
}

/** The delay pattern tells mono from stereo, whose channels take turns. */
function readChannels(settings: Settings, codebooks: number): 1 | 2 {
  settings.expect("codebooks_pattern.modeling", "delay");
  settings.expect("codebooks_pattern.delay.flatten_first", 0, undefined);
  settings.expect("codebooks_pattern.delay.empty_initial", 0, undefined);
  const delays = settings.list("codebooks_pattern.delay.delays").join(" ");
  for (const channels of [1, 2] as const) {
    const usual = Array.from({ length: codebooks }, (_, k) => Math.floor(k / channels)).join(" ");
    if (delays === usual && codebooks % channels === 0) return channels;
  }
  throw settings.wrong("codebooks_pattern.delay.delays", `the delays of ${codebooks} codebooks in mono or stereo`);
}

/** A codec's block of config.json. */
export interface CodecModel {
  readonly block: JsonObject;
  readonly frameRate: number;
}

/** Reads the configuration of a codec. @throws {CheckpointError} as {@link readLanguageModel}. */
export function readCodecModel(text: string, source: string): CodecModel {
  const settings = new Settings(text, source);
  settings.expect("compression_model", "encodec");
  settings.expect("encodec.autoencoder", "seanet");
  settings.expect("encodec.quantizer", "rvq");
  settings.expect("encodec.channels", 1);
  settings.expect("encodec.causal", false);
  settings.expect("encodec.renormalize", false, undefined);
  settings.expect("seanet.activation", "ELU");
  settings.expect("seanet.disable_norm_outer_blocks", 0, undefined);
  settings.expect("seanet.decoder.final_activation", null, undefined);
  const ratios = settings.list("seanet.ratios").map(Number);
  const codebooks = settings.count("rvq.n_q");
  const codebookSize = settings.count("rvq.bins");
  const sampleRate = settings.count("encodec.sample_rate");
  const frameRate = Math.ceil(sampleRate / ratios.reduce((product, ratio) => product * ratio, 1));
  const width = settings.count("seanet.dimension");
  return {
    frameRate,
    block: {
      model_type: "encodec",
      sampling_rate: sampleRate,
      audio_channels: 1,
      normalize: false,
      hidden_size: width,
      codebook_dim: width,
      codebook_size: codebookSize,
      num_filters: settings.count("seanet.n_filters"),
      num_residual_layers: settings.count("seanet.n_residual_layers"),
      upsampling_ratios: ratios,
      norm_type: settings.text("seanet.norm"),
      kernel_size: settings.count("seanet.kernel_size"),
      last_kernel_size: settings.count("seanet.last_kernel_size"),
      residual_kernel_size: settings.count("seanet.residual_kernel_size"),
      dilation_growth_rate: settings.count("seanet.dilation_base"),
      use_causal_conv: settings.get("seanet.causal"),
      pad_mode: settings.text("seanet.pad_mode"),
      compress: settings.count("seanet.compress"),
      num_lstm_layers: settings.count("seanet.lstm"),
      trim_right_ratio: settings.number("seanet.decoder.trim_right_ratio", 1),
      use_conv_shortcut: settings.get("seanet.true_skip") === false,
      // In kilobits a second: the number of codebooks follows from it, by rounding down.
      target_bandwidths: [(codebooks * frameRate * Math.log2(codebookSize)) / 1000 + 1e-6],
    },
  };
}
