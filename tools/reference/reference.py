"""What transformers computes for a model: the numbers that tonearm is held to.

Every function returns a dictionary of tensors; a list of tensors holds one per layer. Names are those of
`expected.json`, see README.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from random_model import Model

GUIDANCE = 3.0

Expected = dict[str, Any]


def text_states(model: Model, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Expected:
    """T5: the residual before block 0 and after every block, and the final states."""
    encoder = model.text_encoder.encoder
    with Residuals(encoder.block) as residuals, torch.no_grad():
        states = model.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return {"t5_hidden_states": residuals.values, "t5_last_hidden_state": states}


def decoder_states(model: Model, **inputs: torch.Tensor) -> Expected:
    """One teacher-forced pass: logits, residuals, attention patterns. A text whose mask is all zeros is the null text.

    The residual stream is read at the blocks themselves: the last entry of transformers' own `hidden_states` has been
    through the final layer norm.
    """
    decoder = model.decoder.model.decoder
    with contextlib.ExitStack() as stack, torch.no_grad():
        residuals = stack.enter_context(Residuals(decoder.layers))
        own = [stack.enter_context(Patterns(layer.self_attn)) for layer in decoder.layers]
        cross = [stack.enter_context(Patterns(layer.encoder_attn)) for layer in decoder.layers if has_cross(layer)]
        logits = model(**inputs).logits
    result = {
        "logits": logits,
        "decoder_hidden_states": residuals.values,
        "self_attentions": [pattern.value for pattern in own],
    }
    if cross:
        result["cross_attentions"] = [pattern.value for pattern in cross]
    return result


def has_cross(layer: torch.nn.Module) -> bool:
    return hasattr(layer, "encoder_attn")


def guided(logits: torch.Tensor, null_logits: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance as transformers' ClassifierFreeGuidanceLogitsProcessor."""
    return null_logits + (logits - null_logits) * GUIDANCE


def greedy(model: Model, guidance: float, new_tokens: int, **inputs: Any) -> Expected:
    """Greedy generation: the codes given to each call of the codec, and the audio.

    `tokens` [R, steps] are the arg max of the logits before the delay pattern overwrites what is not free, R being
    item × codebook; `margins` is how far the second best lay behind. Where that is less than twice the logits' own
    error, another token is no mistake.
    """
    with codec_calls(model) as codes, torch.no_grad():
        output = model.generate(
            **inputs,
            do_sample=False,
            guidance_scale=guidance,
            max_new_tokens=new_tokens,
            return_dict_in_generate=True,
            output_scores=True,
        )
    scores = torch.stack(output.scores, dim=1)  # [R, steps, V]
    best, second = scores.topk(2, dim=-1).values.unbind(-1)
    return {
        "codes": codes,
        "audio": output.sequences,
        "tokens": scores.argmax(-1),
        "margins": best - second,
    }


def codec(model: Model, wav: torch.Tensor) -> Expected:
    """EnCodec alone: embeddings, codes, and the audio decoded from them."""
    encodec = model.audio_encoder
    with torch.no_grad():
        embeddings = encodec.encoder(wav)
        codes = encodec.encode(wav).audio_codes
        decoded = encodec.decode(codes, [None] * wav.shape[0]).audio_values
    return {
        "wav": wav,
        "encodec_embeddings": embeddings,
        "encodec_codes": codes,
        "encodec_code_margins": code_margins(model, embeddings, codes),
        "encodec_decoded": decoded,
    }


def code_margins(model: Model, embeddings: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """How much further the second nearest codebook entry was, in squared distance: [1, B, K, F] as the codes."""
    margins = []
    residual = embeddings.transpose(1, 2)  # [B, F, latent]
    for layer, chosen in zip(model.audio_encoder.quantizer.layers, codes[0].unbind(1), strict=True):
        entries = layer.codebook.embed
        distances = residual.pow(2).sum(-1, keepdim=True) - 2 * residual @ entries.T + entries.pow(2).sum(-1)
        nearest, second = distances.topk(2, dim=-1, largest=False).values.unbind(-1)
        margins.append(second - nearest)
        residual = residual - entries[chosen]
    return torch.stack(margins, dim=1)[None]


def forced_inputs(model: Model, codes: torch.Tensor) -> torch.Tensor:
    """The decoder's inputs [B·K, T + C − 1] that run codes [B, K, T] teacher-forced: a BOS column, then the codes under
    the delay pattern. C, the number of delays, is 4.
    """
    batch, codebooks, frames = codes.shape
    decoder = model.decoder
    start = torch.full((batch * codebooks, 1), decoder.config.pad_token_id)
    delays = 4
    _, pattern = decoder.build_delay_pattern_mask(
        torch.cat([start, codes.reshape(batch * codebooks, frames)], dim=1),
        pad_token_id=decoder.config.pad_token_id,
        max_length=frames + delays,
    )
    assert (pattern >= 0).all()
    return pattern[:, :-1]


class Residuals:
    """Records the residual stream before the first of `layers` and after each."""

    def __init__(self, layers: torch.nn.ModuleList):
        self.values: list[torch.Tensor] = []
        self._layers = layers

    def __enter__(self) -> Residuals:
        def before(_module: torch.nn.Module, arguments: tuple, keywords: dict) -> None:
            self.values.append((arguments[0] if arguments else keywords["hidden_states"]).clone())

        def after(_module: torch.nn.Module, _arguments: tuple, output: Any) -> None:
            self.values.append((output[0] if isinstance(output, tuple) else output).clone())

        self._handles = [self._layers[0].register_forward_pre_hook(before, with_kwargs=True)]
        self._handles += [layer.register_forward_hook(after) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


class Patterns:
    """Records the attention pattern of one attention module: its second output."""

    def __init__(self, attention: torch.nn.Module):
        self._attention = attention

    def __enter__(self) -> Patterns:
        def after(_module: torch.nn.Module, _arguments: tuple, output: tuple) -> None:
            self.value = output[1].clone()

        self._handle = self._attention.register_forward_hook(after)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@contextlib.contextmanager
def codec_calls(model: Model) -> Iterator[list[torch.Tensor]]:
    """The codes of every call of the codec's decoder."""
    codes: list[torch.Tensor] = []
    decode = model.audio_encoder.decode

    def recording(audio_codes: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        codes.append(audio_codes.clone())
        return decode(audio_codes, *arguments, **keywords)

    model.audio_encoder.decode = recording
    try:
        yield codes
    finally:
        del model.audio_encoder.decode
