"""Writes what transformers' EnCodec computes for clips that the other fixtures don't cover: very short ones, every
layer of one clip, and a codec of another geometry whose weights follow a formula.

    python encodec_clips.py ../../test/fixtures/encodec.json
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from transformers import EncodecConfig, EncodecModel

FIXTURES = Path(__file__).parents[2] / "test" / "fixtures"
SHORT_CLIPS = (1, 2, 7, 37, 40, 41)  # samples; a frame is 40
CLIP_WITH_LAYERS = 41
ODD_CODEC = {
    "model_type": "encodec",
    "sampling_rate": 6000,
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "overlap": None,
    "hidden_size": 6,
    "num_filters": 3,
    "num_residual_layers": 2,
    "upsampling_ratios": [3, 2],
    "norm_type": "weight_norm",
    "kernel_size": 5,
    "last_kernel_size": 4,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 3,
    "use_causal_conv": False,
    "pad_mode": "reflect",
    "compress": 3,
    "num_lstm_layers": 1,
    "trim_right_ratio": 1.0,
    "codebook_size": 16,
    "codebook_dim": 6,
    "use_conv_shortcut": False,
    "target_bandwidths": [12.0],
}


def main() -> None:
    small = from_fixture("mono")
    odd = from_formula(ODD_CODEC)
    written = {
        "source": f"transformers {transformers.__version__}, torch {torch.__version__}; see tools/reference",
        "mono": [clip(small, samples, layers=samples == CLIP_WITH_LAYERS) for samples in SHORT_CLIPS],
        "odd": {
            "config": ODD_CODEC,
            "weights": {name: list(value.shape) for name, value in sorted(odd.state_dict().items())},
            "clip": clip(odd, 50, layers=False),
            "decoded": decoded(odd, frames=11),
        },
    }
    Path(sys.argv[1]).write_text(json.dumps(rounded(written)) + "\n")


def from_fixture(name: str) -> EncodecModel:
    config = json.loads((FIXTURES / name / "config.json").read_text())["audio_encoder"]
    model = EncodecModel(EncodecConfig(**config)).eval()
    prefix = "audio_encoder."
    weights = load_file(FIXTURES / name / "model.safetensors")
    model.load_state_dict({key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})
    return model


def from_formula(config: dict[str, Any]) -> EncodecModel:
    """Value i of tensor n, counted by sorted names, is sin(0.11 i² + 0.7 i + 1.3 n)."""
    model = EncodecModel(EncodecConfig(**config)).eval()
    state = model.state_dict()
    for number, name in enumerate(sorted(state)):
        index = torch.arange(state[name].numel(), dtype=torch.float64)
        values = torch.sin(0.11 * index.square() + 0.7 * index + 1.3 * number)
        state[name].copy_(values.reshape(state[name].shape).float())
    return model


def clip(model: EncodecModel, samples: int, *, layers: bool) -> dict[str, Any]:
    index = torch.arange(samples, dtype=torch.float64)
    wave = (torch.sin(0.3 * index) / 2 + (index % 7) / 20).float()
    seen: dict[str, torch.Tensor] = {}
    hooks = []
    for network, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        for number, module in enumerate(part.layers):
            if not isinstance(module, torch.nn.ELU):
                hooks.append(module.register_forward_hook(keep(seen, f"codec.{network}.layers.{number}.hook_out")))
    with torch.no_grad():
        latent = model.encoder(wave[None, None])
        codes = model.quantizer.encode(latent).transpose(0, 1)
        audio = model.decode(codes[None], [None])[0]
    for hook in hooks:
        hook.remove()
    return {
        "samples": samples,
        "latent": tensor(latent.transpose(1, 2)),
        "codes": tensor(codes),
        "margin": margin(model, latent),
        "audio": tensor(audio[:, 0]),
        **({"layers": {site: tensor(value.transpose(1, 2)) for site, value in seen.items()}} if layers else {}),
    }


def decoded(model: EncodecModel, frames: int) -> dict[str, Any]:
    """The audio of made-up codes that change from frame to frame."""
    codebook = torch.arange(model.config.num_quantizers)[:, None]
    codes = (5 * codebook + 3 * torch.arange(frames)) % model.config.codebook_size
    with torch.no_grad():
        audio = model.decode(codes[None, None], [None])[0]
    return {"codes": tensor(codes[None]), "audio": tensor(audio[:, 0])}


def keep(seen: dict[str, torch.Tensor], site: str) -> Any:
    return lambda _module, _inputs, output: seen.__setitem__(site, output)


def margin(model: EncodecModel, latent: torch.Tensor) -> float:
    """How much farther the second nearest entry is than the nearest, in squared distance, at the closest call."""
    closest = math.inf
    residual = latent.transpose(1, 2).double()
    for layer in model.quantizer.layers:
        entries = layer.codebook.embed.double()
        distances = (residual[:, :, None] - entries).square().sum(-1)
        best = distances.topk(2, largest=False)
        closest = min(closest, (best.values[..., 1] - best.values[..., 0]).min().item())
        residual = residual - entries[best.indices[..., 0]]
    return closest


def tensor(value: torch.Tensor) -> dict[str, Any]:
    return {"shape": list(value.shape), "data": value.flatten().tolist()}


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


if __name__ == "__main__":
    main()
