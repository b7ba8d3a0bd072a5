"""Writes the checkpoint in Hugging Face's layout: language model and text encoder in float16, the codec too where that is harmless."""

from __future__ import annotations

import json
import os

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, EncodecFeatureExtractor, MusicgenForConditionalGeneration

from .codec import load_codec
from .lm import load_language_model, model_config
from .settings import Settings, write_json
from .tokenizer import write_tokenizer

# Buffers of the codebooks that only training needs; transformers fills them when they are missing.
UNUSED = ("cluster_size", "embed_avg", "inited")


def half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for name, value in state.items():
        small = value.detach().cpu().to(torch.float16)
        if not torch.isfinite(small).all():
            raise SystemExit(f"{name} does not fit float16")
        out[name] = small.contiguous()
    return out


def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    folder = settings.work / "export" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    codec, language = load_codec(settings), load_language_model(settings)
    state = {f"audio_encoder.{name}": value for name, value in codec.state_dict().items()}
    state.update({name: value for name, value in language.state_dict().items() if not name.endswith("embed_positions.weights")})
    # The text embedding has two names; the hub's files use the first.
    state.pop("text_encoder.encoder.embed_tokens.weight", None)
    # The temperature goes into the weights: logits that are sampled as they are sound best, whatever program samples them.
    for name in state:
        if ".lm_heads." in name:
            state[name] = state[name] / settings.temperature  # `lm.load_start` puts it back
    state = half(state)
    temporary = folder / "model.safetensors.part"
    save_file(state, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    os.replace(temporary, folder / "model.safetensors")
    config = model_config(settings)
    config.architectures = ["MusicgenForConditionalGeneration"]
    config.dtype = "float16"
    config.save_pretrained(folder)
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": settings.codebook_size,
            "decoder_start_token_id": settings.codebook_size,
            "pad_token_id": settings.codebook_size,
            "do_sample": True,
            "guidance_scale": settings.guidance,
            "top_k": settings.top_k,
            "max_length": settings.frames + 4,
            "transformers_version": "5.18.0",
        },
    )
    EncodecFeatureExtractor(feature_size=1, sampling_rate=settings.sample_rate, padding_side="left").save_pretrained(folder)
    write_tokenizer(settings, folder)
    check(settings, state)


@torch.no_grad()
def check(settings: Settings, state: dict[str, torch.Tensor]) -> None:
    """The files load in transformers, complete, and give what was trained up to float16 rounding."""
    folder = settings.work / "export" / "demo"
    model, report = MusicgenForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = [name for name in report["missing_keys"] if not name.endswith(("embed_positions.weights", *UNUSED))]
    if missing or report["unexpected_keys"] or report["mismatched_keys"]:
        raise SystemExit(f"transformers does not take the checkpoint: missing {missing}, {report}")
    stored = load_file(folder / "model.safetensors")
    loaded = model.state_dict()
    wrong = [name for name, value in stored.items() if not torch.equal(loaded[name], value.float())]
    if wrong:
        raise SystemExit(f"transformers loads other values for {wrong[:5]}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("a slow trumpet melody", return_tensors="pt")
    codes = torch.randint(0, settings.codebook_size, (4, 20), generator=torch.Generator().manual_seed(0))
    ours = load_language_model(settings)
    states = ours.text_encoder(input_ids=ids.input_ids).last_hidden_state
    want = ours.decoder(input_ids=codes, encoder_hidden_states=ours.enc_to_dec_proj(states)).logits / settings.temperature
    got = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask, decoder_input_ids=codes).logits
    golden = {"text": ids.input_ids[0], "codes": codes[:, :8], "logits": got[:, :8]}  # [S], [K, 8], [K, 8, V]
    golden["audio"] = model.audio_encoder.decode(codes[None, None, :, :8], [None]).audio_values[0, 0]  # [8 * 640]
    save_file({name: value.contiguous() for name, value in golden.items()}, settings.work / "export" / "golden.safetensors")
    size = sum(path.stat().st_size for path in folder.iterdir())
    result = {
        "bytes": size,
        "parameters": sum(value.numel() for value in stored.values()),
        "largest_logit_difference_of_float16": round(float((want - got).abs().max()), 5),
        "files": sorted(path.name for path in folder.iterdir()),
    }
    write_json(settings.work / "export" / "check.json", result)
    print(json.dumps(result, indent=1))
