"""Runs transformers' own integration tests of MusicGen on any checkpoint and prints the values they look at. See README.md."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    EncodecFeatureExtractor,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
)

PROMPTS = ["80s music", "Club techno"]


def bip_bip(seconds: float, rate: int = 32000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return np.cos(2 * math.pi * 440 * time) * ((time % 0.25) / 0.25 >= 0.5)


class Cases:
    def __init__(self, directory: Path) -> None:
        settings = json.loads((directory / "config.json").read_text())
        codec = settings["audio_encoder"]
        codec["trim_right_ratio"] = float(codec["trim_right_ratio"])  # transformers takes no whole number for it
        self.model = MusicgenForConditionalGeneration.from_pretrained(
            directory, config=MusicgenConfig(**settings), dtype=torch.float32
        ).eval()
        self.channels = self.model.config.decoder.audio_channels
        tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        description = json.loads((directory / "tokenizer.json").read_text())
        description["post_processor"].setdefault("pair", [])  # transformers wants one, though no pairs occur
        tokenizer = Tokenizer.from_str(json.dumps(description))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
        self.extractor = EncodecFeatureExtractor(feature_size=self.channels, sampling_rate=32000, padding_side="left")

    def text(self) -> dict:
        inputs = self.tokenizer(PROMPTS, padding=True, return_tensors="pt")
        return {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}

    def text_and_audio(self) -> dict:
        audio = [bip_bip(0.5), bip_bip(1.0)]
        if self.channels == 2:
            audio = [sound[None, :].repeat(2, 0) for sound in audio]
        inputs = self.extractor(audio, sampling_rate=32000, padding=True, return_tensors="pt")
        return self.text() | {"input_values": inputs.input_values, "padding_mask": inputs.padding_mask}

    def generate(self, **options: object) -> torch.Tensor:
        return self.model.generate(do_sample=False, **options)

    def mono(self) -> dict[str, list[float]]:
        rows = len(PROMPTS) * self.model.decoder.num_codebooks
        start = torch.full((rows, 1), self.model.generation_config.pad_token_id)
        logits = self.model(**self.text(), decoder_input_ids=start).logits
        new = {"max_new_tokens": 10}
        return {
            "logits_text_prompt": logits[0, 0, :16],
            "generate_text_prompt_greedy": self.generate(**self.text(), guidance_scale=None, **new)[0, 0, :10],
            "generate_text_prompt_greedy_cfg3": self.generate(**self.text(), guidance_scale=3, **new)[0, 0, :16],
            "generate_text_audio_prompt": self.generate(**self.text_and_audio(), guidance_scale=None, **new)[0, 0, -16:],
        }

    def stereo(self) -> dict[str, list[float]]:
        alone = self.generate(**self.model.get_unconditional_inputs(num_samples=1), max_new_tokens=12)
        prompted = self.generate(**self.text_and_audio(), guidance_scale=3.0, max_new_tokens=12)
        return {
            "generate_unconditional_greedy left": alone[0, 0, :16],
            "generate_unconditional_greedy right": alone[0, 1, :16],
            "generate_text_audio_prompt left": prompted[0, 0, -16:],
            "generate_text_audio_prompt right": prompted[0, 1, -16:],
        }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    cases = Cases(options.directory)
    values = cases.mono() if cases.channels == 1 else cases.stereo()
    rounded = {name: [round(value, 6) for value in tensor.tolist()] for name, tensor in values.items()}
    about = {"transformers": transformers.__version__, "script": "tools/reference/run_published_cases.py"}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(about | {"values": rounded}) + "\n")


if __name__ == "__main__":
    main()
