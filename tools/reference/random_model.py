"""Random MusicGen checkpoints: sizes, configs, weights, and writing them in the layout of the hub.

A model is a function of its kind, size and seed. Every tensor has its own random stream, so a change to one tensor
leaves the others as they are.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)
from transformers.models.musicgen.modeling_musicgen import MusicgenSinusoidalPositionalEmbedding
from transformers.models.musicgen_melody.configuration_musicgen_melody import MusicgenMelodyDecoderConfig

transformers.logging.set_verbosity_error()  # it warns that the padding token lies beyond the codebook, as it must

Model = MusicgenForConditionalGeneration | MusicgenMelodyForConditionalGeneration

KINDS = ("mono", "stereo", "melody")
FLOAT_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CODEBOOKS_PER_CHANNEL = 4


@dataclass(frozen=True)
class Size:
    """Every width and depth of a model. The decoder's vocabulary is the codec's codebook."""

    text_layers: int
    text_width: int
    text_heads: int
    text_head_width: int
    text_ffn: int
    text_vocabulary: int
    layers: int
    width: int
    heads: int
    ffn: int
    codebook: int
    ratios: tuple[int, ...]  # upsampling ratios of the codec: their product is the samples of one frame
    filters: int
    latent: int
    chroma_length: int = 9  # melody frames in the prefix
    positions: int = 2048  # rows of the sinusoid table


T5_BASE = dict(text_layers=12, text_width=768, text_heads=12, text_head_width=64, text_ffn=3072, text_vocabulary=32128)
ENCODEC_32KHZ = dict(codebook=2048, ratios=(8, 5, 4, 4), filters=64, latent=128, chroma_length=235)

SIZES = {
    # The size of test/fixtures/{mono,stereo,melody}.
    "tiny": Size(
        text_layers=3,
        text_width=24,
        text_heads=3,
        text_head_width=8,
        text_ffn=40,
        text_vocabulary=60,
        layers=3,
        width=32,
        heads=4,
        ffn=64,
        codebook=64,
        ratios=(4, 5, 2),
        filters=4,
        latent=16,
    ),  # fmt: skip
    # No two sizes equal that a program could mix up: head width times heads is not the text width either.
    "odd": Size(
        text_layers=2,
        text_width=24,
        text_heads=3,
        text_head_width=10,
        text_ffn=44,
        text_vocabulary=60,
        layers=4,
        width=48,
        heads=6,
        ffn=80,
        codebook=32,
        ratios=(5, 2),
        filters=4,
        latent=12,
        chroma_length=7,
        positions=64,
    ),  # fmt: skip
    "small": Size(**T5_BASE, layers=24, width=1024, heads=16, ffn=4096, **ENCODEC_32KHZ),
    "medium": Size(**T5_BASE, layers=48, width=1536, heads=24, ffn=6144, **ENCODEC_32KHZ),
}


def build(kind: str, size: Size, seed: int) -> Model:
    """A model of `kind` with random float32 weights, in evaluation mode, with attention that shows its patterns."""
    torch.manual_seed(seed)  # for whatever transformers draws before the weights are replaced
    config = model_config(kind, size)
    classes = {"melody": MusicgenMelodyForConditionalGeneration}
    model = classes.get(kind, MusicgenForConditionalGeneration)(config).eval()
    model.set_attn_implementation("eager")
    generation = model.generation_config
    generation.decoder_start_token_id = generation.bos_token_id = generation.pad_token_id = size.codebook
    draw_weights(model, seed)
    fit_codebooks(model, seed)
    return model


def model_config(kind: str, size: Size) -> MusicgenConfig | MusicgenMelodyConfig:
    samples_per_frame = math.prod(size.ratios)
    frame_rate = math.ceil(32000 / samples_per_frame)
    bits = math.ceil(math.log2(size.codebook))
    text = T5Config(
        vocab_size=size.text_vocabulary, d_model=size.text_width, d_kv=size.text_head_width, d_ff=size.text_ffn,
        num_layers=size.text_layers, num_heads=size.text_heads, feed_forward_proj="relu", use_cache=False,
    )  # fmt: skip
    codec = EncodecConfig(
        sampling_rate=32000, audio_channels=1, normalize=False, chunk_length_s=None, overlap=None,
        hidden_size=size.latent, codebook_dim=size.latent, codebook_size=size.codebook,
        num_filters=size.filters, upsampling_ratios=list(size.ratios),
        use_causal_conv=False, use_conv_shortcut=False, norm_type="weight_norm", pad_mode="reflect",
        target_bandwidths=[CODEBOOKS_PER_CHANNEL * bits * frame_rate / 1000],
    )  # fmt: skip
    assert codec.num_quantizers == CODEBOOKS_PER_CHANNEL
    channels = 2 if kind == "stereo" else 1
    decoder = dict(
        vocab_size=size.codebook, hidden_size=size.width, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, ffn_dim=size.ffn,
        num_codebooks=CODEBOOKS_PER_CHANNEL * channels, audio_channels=channels,
        max_position_embeddings=size.positions,
        pad_token_id=size.codebook, bos_token_id=size.codebook,
    )  # fmt: skip
    if kind != "melody":
        return MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=MusicgenDecoderConfig(**decoder))
    return MusicgenMelodyConfig(
        text_encoder=text,
        audio_encoder=codec,
        decoder=MusicgenMelodyDecoderConfig(**decoder),
        num_chroma=12,
        chroma_length=size.chroma_length,
    )


# --- Weights ---------------------------------------------------------------------------------------------------------


def stream(seed: int, name: str) -> torch.Generator:
    """The random stream of one tensor. PyTorch's CPU generator takes 32 bits of a seed, hence the checksum of both."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


@torch.no_grad()
def draw_weights(model: Model, seed: int) -> None:
    """Fills every weight so that activations stay near unit size and nothing is trivial.

    The initialisers of transformers leave gains at 1, biases at 0 and codebooks at 0, where a program that forgot them
    would pass unseen; and tiny models get nearly flat logits. Hence the fan-in scaling here, with gains and biases that
    all differ.
    """
    weights = model.state_dict()
    head_width = model.config.text_encoder.d_kv
    codebooks = model.config.decoder.num_codebooks
    for name, weight in weights.items():
        if name == "text_encoder.encoder.embed_tokens.weight" or not weight.is_floating_point():
            continue  # the first is another name of text_encoder.shared.weight
        normal = torch.randn(weight.shape, generator=stream(seed, name))
        fan_in = math.prod(weight.shape[1:]) if weight.dim() > 1 else 1
        if re.search(r"norm\.weight$", name):
            value = 1 + 0.1 * normal
        elif re.search(r"norm\.bias$|proj\.bias$", name):
            value = 0.1 * normal
        elif name.startswith("text_encoder."):
            value = normal * text_scale(name, fan_in, head_width)
        elif "embed_tokens" in name:
            value = normal / math.sqrt(codebooks)  # their sum over the codebooks has unit variance
        elif name == "audio_enc_to_dec_proj.weight":
            value = normal  # its input is one-hot
        elif re.search(r"[qk]_proj\.weight$", name):
            value = 1.5 * normal / math.sqrt(fan_in)  # attention neither flat nor one-hot
        elif name.startswith(("decoder.", "enc_to_dec_proj.")):
            value = normal / math.sqrt(fan_in)
        elif ".lstm." in name:
            value = normal / math.sqrt(3 * model.get_submodule(name.rpartition(".")[0]).hidden_size)
        elif name.endswith("conv.bias"):
            value = 0.1 * normal
        elif name.endswith("original1"):
            value = normal  # the direction: its length is divided away
        elif name.endswith("original0"):
            continue  # the length: set below, after the directions are known
        elif "codebook" in name:
            value = normal.abs() + 1  # training statistics, which inference must not read; `embed` is fitted later
        else:
            raise ValueError(f"no rule for the weight {name}")
        weight.copy_(value)
    for name, length in weights.items():
        if name.endswith("original0"):
            spread = 1 + 0.1 * torch.randn(length.shape, generator=stream(seed, name))
            length.copy_(spread * convolution_scale(model, name) * norm_of(weights[name[:-1] + "1"]))


def text_scale(name: str, fan_in: int, head_width: int) -> float:
    if "shared" in name:
        return 1.0
    if "relative_attention_bias" in name:
        return 0.5
    if name.endswith("SelfAttention.q.weight"):
        return 1.5 / math.sqrt(fan_in * head_width)  # T5 does not divide its scores by √(head width)
    return 1 / math.sqrt(fan_in)


def norm_of(direction: torch.Tensor) -> torch.Tensor:
    """The length that weight normalisation divides by: over all axes but the first."""
    return direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.dim() - 1))


def convolution_scale(model: Model, name: str) -> float:
    """The standard deviation of a convolution's weight: unit variance in gives about unit variance out."""
    convolution = model.get_submodule(name.partition(".parametrizations")[0])
    taps = convolution.kernel_size[0]
    if isinstance(convolution, torch.nn.ConvTranspose1d):
        taps /= convolution.stride[0]
    gain = 0.5 if ".block." in name else 1.2
    if convolution.out_channels == 1:
        gain = 0.25  # the waveform
    return gain / math.sqrt(convolution.in_channels * taps)


@torch.no_grad()
def fit_codebooks(model: Model, seed: int) -> None:
    """Spreads the codebooks over what the codec's encoder puts out, so that codes vary."""
    codec = model.audio_encoder
    frame = math.prod(codec.config.upsampling_ratios)
    residual = codec.encoder(test_signal(1, 200 * frame, seed))[0].T  # [F, latent]
    for index, layer in enumerate(codec.quantizer.layers):
        entries = layer.codebook.embed
        normal = torch.randn(entries.shape, generator=stream(seed, f"codebook {index}"))
        # A little less spread than the data has: entries far outside it would never be the nearest.
        entries.copy_(residual.mean(0) + 0.7 * residual.std(0) * normal)
        codes = layer.codebook.encode(residual[None])
        residual = residual - layer.codebook.decode(codes)[0]


def test_signal(items: int, samples: int, seed: int) -> torch.Tensor:
    """Audio [items, 1, samples] that changes all the time: a few gliding tones, each on and off, and some noise."""
    generator = stream(seed, f"signal {items} {samples}")
    time = torch.arange(samples) / 32000
    signal = 0.05 * torch.randn((items, samples), generator=generator)
    for _ in range(5):
        frequency, glide, gate, phase = (torch.rand((4, items, 1), generator=generator)).unbind(0)
        pitch = 2 * math.pi * (80 * 50**frequency * time + 2000 * (glide - 0.5) * time**2)
        beat = torch.sin(2 * math.pi * (samples and 32000 / samples) * (1 + 7 * gate) * time + 6 * phase)
        signal += 0.3 * torch.sin(pitch + 6 * phase) * (beat > 0)
    return signal[:, None]


LANGUAGE_MODEL = ("decoder.", "enc_to_dec_proj.", "audio_enc_to_dec_proj.")


@torch.no_grad()
def round_weights(model: Model, to: torch.dtype, only: tuple[str, ...] = ("",)) -> None:
    """Makes the weights whose names start with one of `only` exact in the type `to`; they stay float32."""
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and name.startswith(only):
            weight.copy_(weight.to(to))


# --- Files -----------------------------------------------------------------------------------------------------------


def hub_state(model: Model, *, weight_norm: str, position_table: bool) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors by their names on the hub.

    weight_norm: "parametrizations", as torch ≥ 2.1 saves it, or "weight_g", as in the files of 2023.
    position_table: whether to add the sinusoid table that the files of 2023 carry.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "text_encoder.encoder.embed_tokens.weight":
            continue
        if weight_norm == "weight_g":
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
        state[name] = tensor.contiguous()
    if position_table:
        decoder = model.config.decoder
        table = MusicgenSinusoidalPositionalEmbedding(decoder.max_position_embeddings, decoder.hidden_size)
        state["decoder.model.decoder.embed_positions.weights"] = table.weights.clone()
    return dict(sorted(state.items()))


def save(
    model: Model,
    directory: Path,
    *,
    weight_norm: str = "parametrizations",
    position_table: bool = False,
    dtype: str = "float32",
    max_shard_size: str | None = None,
) -> None:
    """Writes config.json, generation_config.json and the weights: one file, or shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = FLOAT_TYPES[dtype]
    model.config.save_pretrained(directory)
    model.generation_config.save_pretrained(directory)

    state = hub_state(model, weight_norm=weight_norm, position_table=position_table)
    if dtype != "float32":
        state = {
            name: tensor.to(FLOAT_TYPES[dtype]) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
    if max_shard_size is None:
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        return
    split = split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, directory / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
