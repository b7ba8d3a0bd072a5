import { CheckpointError } from "../../errors.js";
import type { TensorEntry } from "../safetensors-header.js";
import type { TensorView } from "../renamed-file.js";
import type { LanguageModel } from "./config.js";

/** audiocraft's names of weights, and the Hugging Face names of the same. */

const CONDITIONERS = "condition_provider.conditioners";

/** The constant window of a melody model's spectrogram, which it stores. */
const IGNORED = `${CONDITIONERS}.self_wav.chroma.spec.window`;

/**
 * The language model's tensors under Hugging Face's names. The packed projections of each attention become three: q, k
 * and v, one above the other.
 *
 * @throws {CheckpointError} naming every tensor that is missing, and every one that is unknown.
 */
export function languageModelViews(
  tensors: ReadonlyMap<string, TensorEntry>,
  model: LanguageModel,
  path: string,
): ReadonlyMap<string, TensorView> {
  const views = languageModelNames(model);
  const used = new Set([...views.values()].map(({ source }) => source));
  const missing = [...used].filter((name) => !tensors.has(name));
  const unknown = [...tensors.keys()].filter((name) => !used.has(name) && name !== IGNORED);
  if (missing.length === 0 && unknown.length === 0) return views;
  throw new CheckpointError({
    asked: `read the language model of ${path}`,
    found: [
      ...(missing.length > 0 ? [`no ${missing.join(", ")}`] : []),
      ...(unknown.length > 0 ? [`tensors that no part of it uses: ${unknown.join(", ")}`] : []),
    ].join("; "),
    todo: "Its configuration belongs to another model, or it was not exported by audiocraft",
  });
}

function languageModelNames({ layers, width, codebooks, isMelody }: LanguageModel): ReadonlyMap<string, TensorView> {
  const views = new Map<string, TensorView>();
  const add = (source: string, target: string): void => void views.set(target, { source });
  const both = (source: string, target: string): void => {
    for (const part of ["weight", "bias"]) add(`${source}.${part}`, `${target}.${part}`);
  };
  const attention = (source: string, target: string): void => {
    ["q", "k", "v"].forEach((part, index) => {
      const rows = { first: index * width, count: width };
      views.set(`${target}.${part}_proj.weight`, { source: `${source}.in_proj_weight`, rows });
    });
    add(`${source}.out_proj.weight`, `${target}.out_proj.weight`);
  };
  const decoder = "decoder.model.decoder";
  for (let k = 0; k < codebooks; k++) {
    add(`emb.${k}.weight`, `${decoder}.embed_tokens.${k}.weight`);
    add(`linears.${k}.weight`, `decoder.lm_heads.${k}.weight`);
  }
  for (let layer = 0; layer < layers; layer++) {
    const [from, to] = [`transformer.layers.${layer}`, `${decoder}.layers.${layer}`];
    attention(`${from}.self_attn`, `${to}.self_attn`);
    both(`${from}.norm1`, `${to}.self_attn_layer_norm`);
    if (!isMelody) {
      attention(`${from}.cross_attention`, `${to}.encoder_attn`);
      both(`${from}.norm_cross`, `${to}.encoder_attn_layer_norm`);
    }
    add(`${from}.linear1.weight`, `${to}.fc1.weight`);
    add(`${from}.linear2.weight`, `${to}.fc2.weight`);
    both(`${from}.norm2`, `${to}.final_layer_norm`);
  }
  both("out_norm", `${decoder}.layer_norm`);
  both(`${CONDITIONERS}.description.output_proj`, "enc_to_dec_proj");
  if (isMelody) both(`${CONDITIONERS}.self_wav.output_proj`, "audio_enc_to_dec_proj");
  return views;
}

/**
 * The codec's tensors under Hugging Face's names, which number the layers alike.
 *
 * @throws {CheckpointError} naming every tensor that is unknown.
 */
export function codecViews(tensors: ReadonlyMap<string, TensorEntry>, path: string): ReadonlyMap<string, TensorView> {
  const names = [...tensors.keys()].map((source) => ({ source, target: codecName(source) }));
  const unknown = names.filter(({ target }) => target === undefined);
  if (unknown.length > 0) {
    throw new CheckpointError({
      asked: `read the codec of ${path}`,
      found: `tensors that no part of EnCodec uses: ${unknown.map(({ source }) => source).join(", ")}`,
      todo: "Give a codec that audiocraft exported",
    });
  }
  return new Map(names.map(({ source, target = source }) => [`audio_encoder.${target}`, { source }]));
}

/** "decoder.model.3.convtr.convtr.weight_g" is "decoder.layers.3.conv.weight_g". */
function codecName(name: string): string | undefined {
  const quantizer = /^quantizer\.vq\.layers\.(\d+)\._codebook\.(\w+)$/.exec(name);
  if (quantizer) return `quantizer.layers.${quantizer[1]}.codebook.${quantizer[2]}`;
  const layer = /^(encoder|decoder)\.model\.(\d+)\.(.+)$/.exec(name);
  if (!layer) return undefined;
  const [, side, index, rest = ""] = layer;
  const inside = /^((?:block\.\d+\.)?)(?:conv\.conv|convtr\.convtr|(lstm))\.([\w.]+)$/.exec(rest);
  if (!inside) return undefined;
  const [, block = "", lstm, part] = inside;
  return `${side}.layers.${index}.${block}${lstm ?? "conv"}.${part}`;
}
