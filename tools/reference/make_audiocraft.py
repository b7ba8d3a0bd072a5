"""Writes a small random model twice: in the layout of Hugging Face and in that of audiocraft. See README.md."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from random_model import KINDS, LANGUAGE_MODEL, Model, Size, build, hub_state, round_weights, save

SIZE = Size(
    text_layers=1, text_width=8, text_heads=2, text_head_width=4, text_ffn=12, text_vocabulary=20,
    layers=2, width=16, heads=2, ffn=32, codebook=16, ratios=(4, 2), filters=2, latent=6, chroma_length=9,
)  # fmt: skip
SECONDS = 1.125  # what a melody model reads: 9 positions of 4096 samples each, the first one at 0
ATTENTIONS = {"self_attn": "self_attn", "encoder_attn": "cross_attention"}
NORMS = {"self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm_cross", "final_layer_norm": "norm2"}


def language_model(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """audiocraft's names and packed projections from Hugging Face's, in float16 as it publishes them."""
    result = {}
    for name, tensor in state.items():
        if name.startswith(("enc_to_dec_proj.", "audio_enc_to_dec_proj.")):
            kind, part = name.split(".")
            which = "description" if kind == "enc_to_dec_proj" else "self_wav"
            result[f"condition_provider.conditioners.{which}.output_proj.{part}"] = tensor.half()
            continue
        if match := re.fullmatch(r"decoder\.lm_heads\.(\d+)\.weight", name):
            result[f"linears.{match[1]}.weight"] = tensor.half()
            continue
        if not name.startswith("decoder.model.decoder."):
            continue
        name = name.removeprefix("decoder.model.decoder.")
        if match := re.fullmatch(r"embed_tokens\.(\d+)\.weight", name):
            result[f"emb.{match[1]}.weight"] = tensor.half()
        elif match := re.fullmatch(r"layer_norm\.(weight|bias)", name):
            result[f"out_norm.{match[1]}"] = tensor.half()
        elif match := re.fullmatch(r"layers\.(\d+)\.(\w+_attn)\.q_proj\.weight", name):
            prefix = f"decoder.model.decoder.layers.{match[1]}.{match[2]}"
            packed = torch.cat([state[f"{prefix}.{part}_proj.weight"] for part in "qkv"])
            result[f"transformer.layers.{match[1]}.{ATTENTIONS[match[2]]}.in_proj_weight"] = packed.half()
        elif match := re.fullmatch(r"layers\.(\d+)\.(\w+_attn)\.out_proj\.weight", name):
            result[f"transformer.layers.{match[1]}.{ATTENTIONS[match[2]]}.out_proj.weight"] = tensor.half()
        elif match := re.fullmatch(r"layers\.(\d+)\.(\w+_norm)\.(weight|bias)", name):
            result[f"transformer.layers.{match[1]}.{NORMS[match[2]]}.{match[3]}"] = tensor.half()
        elif match := re.fullmatch(r"layers\.(\d+)\.fc([12])\.weight", name):
            result[f"transformer.layers.{match[1]}.linear{match[2]}.weight"] = tensor.half()
        else:
            assert re.search(r"[kv]_proj\.weight$|embed_positions", name), name
    return result


def codec(state: dict[str, torch.Tensor], ratios: tuple[int, ...]) -> dict[str, torch.Tensor]:
    stage = 3  # layers of an upsampling stage in the decoder: ELU, transposed convolution, residual unit
    transposed = {3 + stage * index for index in range(len(ratios))}
    result = {}
    for name, tensor in state.items():
        if not name.startswith("audio_encoder."):
            continue
        name = name.removeprefix("audio_encoder.")
        if match := re.fullmatch(r"quantizer\.layers\.(\d+)\.codebook\.(\w+)", name):
            result[f"quantizer.vq.layers.{match[1]}._codebook.{match[2]}"] = tensor
            continue
        side, _, index, rest = name.split(".", 3)
        if rest.startswith("lstm."):
            new = rest
        elif side == "decoder" and int(index) in transposed and not rest.startswith("block"):
            new = rest.replace("conv.", "convtr.convtr.", 1)
        else:
            new = rest.replace("conv.", "conv.conv.", 1)
        result[f"{side}.model.{index}.{new}"] = tensor
    return result


def lm_config(model: Model, kind: str) -> str:
    """xp.cfg as OmegaConf writes it, with some of what training keeps there, too."""
    decoder = model.config.decoder
    channels = 2 if kind == "stereo" else 1
    delays = [k // channels for k in range(decoder.num_codebooks)]
    delay_lines = "\n".join(f"    - {delay}" for delay in delays)
    melody = kind == "melody"
    fuser = "  prepend:\n  - self_wav\n  - description\n  cross: []" if melody else "  prepend: []\n  cross:\n  - description"
    self_wav = """  self_wav:
    model: chroma_stem
    chroma_stem:
      sample_rate: ${sample_rate}
      n_chroma: 12
      radix2_exp: 14
      argmax: true
      match_len_on_eval: false
      eval_wavs: null
      cache_path: null
"""
    return f"""device: cuda
dtype: float32
autocast: true
autocast_dtype: float16
seed: 2036
solver: musicgen
sample_rate: 32000
channels: {channels}
compression_model_checkpoint: //pretrained/facebook/encodec_32khz
dataset:
  batch_size: 192
  segment_duration: {SECONDS}
  train:
    merge_text_p: 0.25
  evaluate:
    list: []
optim:
  lr: 1.0e-05
  adam:
    betas:
    - 0.9
    - 0.95
logging:
  message: 'it''s a long line, folded: once
    over'
  notes: "quoted \\"text\\" \\
    here"
interleave_stereo_codebooks:
  use: {str(channels == 2).lower()}
  per_timestep: false
lm_model: transformer_lm
codebooks_pattern:
  modeling: delay
  delay:
    delays:
{delay_lines}
    flatten_first: 0
    empty_initial: 0
transformer_lm:
  dim: {decoder.hidden_size}
  num_heads: {decoder.num_attention_heads}
  num_layers: {decoder.num_hidden_layers}
  hidden_scale: {decoder.ffn_dim // decoder.hidden_size}
  n_q: {decoder.num_codebooks}
  card: {decoder.vocab_size}
  dropout: 0.0
  emb_lr: null
  activation: gelu
  norm_first: true
  bias_ff: false
  bias_attn: false
  bias_proj: false
  past_context: null
  causal: true
  custom: false
  memory_efficient: true
  attention_as_float32: false
  layer_scale: null
  positional_embedding: sin
  xpos: false
  norm: layer_norm
  cross_attention: false
  qk_layer_norm: false
  kv_repeat: 1
  two_step_cfg: false
classifier_free_guidance:
  training_dropout: 0.3
  inference_coef: 3.0
attribute_dropout: {{}}
fuser:
  cross_attention_pos_emb: false
  cross_attention_pos_emb_scale: 1
  sum: []
{fuser}
  input_interpolate: []
conditioners:
{self_wav if melody else ""}  description:
    model: t5
    t5:
      name: t5-base
      finetune: false
      word_dropout: 0.3
      normalize_text: false
"""


def codec_config(model: Model) -> str:
    encodec = model.config.audio_encoder
    ratios = "\n".join(f"  - {ratio}" for ratio in encodec.upsampling_ratios)
    return f"""sample_rate: 32000
channels: 1
compression_model: encodec
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${{sample_rate}}
  channels: ${{channels}}
  causal: false
  renormalize: false
seanet:
  dimension: {encodec.hidden_size}
  channels: ${{channels}}
  causal: ${{encodec.causal}}
  n_filters: {encodec.num_filters}
  n_residual_layers: {encodec.num_residual_layers}
  ratios:
{ratios}
  activation: ELU
  activation_params:
    alpha: 1.0
  norm: weight_norm
  norm_params: {{}}
  kernel_size: {encodec.kernel_size}
  residual_kernel_size: {encodec.residual_kernel_size}
  last_kernel_size: {encodec.last_kernel_size}
  dilation_base: {encodec.dilation_growth_rate}
  pad_mode: reflect
  true_skip: true
  compress: {encodec.compress}
  lstm: {encodec.num_lstm_layers}
  disable_norm_outer_blocks: 0
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
    final_activation_params: null
  encoder: {{}}
rvq:
  n_q: {encodec.num_quantizers}
  bins: {encodec.codebook_size}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="mono")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    model = build(options.kind, SIZE, options.seed)
    round_weights(model, torch.float16, LANGUAGE_MODEL)
    model.generation_config.max_length = int(SECONDS * 32000 / 8)
    hugging_face, audiocraft = options.output / "hugging-face", options.output / "audiocraft"
    save(model, hugging_face, weight_norm="weight_g")

    state = hub_state(model, weight_norm="weight_g", position_table=False)
    audiocraft.mkdir(parents=True, exist_ok=True)
    about = {"version": "1.4.0a2", "exported": True}
    lm = language_model(state)
    if options.kind == "melody":
        lm["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.hann_window(64)
    torch.save({"best_state": lm, "xp.cfg": lm_config(model, options.kind), **about}, audiocraft / "state_dict.bin")
    encodec = {"best_state": codec(state, SIZE.ratios), "xp.cfg": codec_config(model), **about}
    torch.save(encodec, audiocraft / "compression_state_dict.bin")

    text = audiocraft / "t5-base"
    text.mkdir(exist_ok=True)
    model.config.text_encoder.save_pretrained(text)
    prefix = "text_encoder."
    t5 = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    t5["decoder.final_layer_norm.weight"] = torch.ones(SIZE.text_width)  # a whole T5 has a decoder, too
    save_file(t5, text / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
