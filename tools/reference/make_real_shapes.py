"""Writes a checkpoint of a released model's exact shapes with random weights, and what transformers computes with it.

Nothing here is committed: musicgen-small's file has 2.4 GB. See README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

import reference
from random_model import LANGUAGE_MODEL, SIZES, Model, build, round_weights, save, stream, test_signal

MODELS = {
    "small": ("mono", "small"),
    "medium": ("mono", "medium"),
    "stereo-small": ("stereo", "small"),
    "melody": ("melody", "medium"),
}
TEXTS = ("a slow jazz trio with brushed drums and a walking bass, late at night", "trumpet")
FRAMES = 12
SECONDS = 0.5


def main() -> None:
    options = parse_options()
    kind, size = MODELS[options.model]
    with step("draw the weights"):
        model = build(kind, SIZES[size], options.seed)
        round_weights(model, torch.float16, LANGUAGE_MODEL)
    with step("write the checkpoint"):
        save(model, options.output, weight_norm="weight_g", position_table=True, max_shard_size=options.max_shard_size)
        shutil.copy(options.tokenizer, options.output / "tokenizer.json")
    if not options.expected:
        return
    inputs = make_inputs(model, kind, options)
    with step("compute the reference in float32"):
        expected = compute(model, inputs)
    about: dict[str, Any] = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "model": options.model,
        "seed": options.seed,
        "texts": TEXTS,
    }
    if options.float64:
        with step("compute the reference in float64"):
            about["float32_error"] = errors(expected, flatten(compute(model.double(), as_float64(inputs))))
    save_file(flatten(expected), options.output / "expected.safetensors")
    (options.output / "expected.json").write_text(json.dumps(about, indent=2) + "\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{options.output}: done, peak memory {peak:.1f} GB")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="T5's tokenizer.json, copied")
    parser.add_argument("--max-shard-size", metavar="SIZE", help='shards of at most this size, such as "1GB"')
    parser.add_argument("--expected", action="store_true", help="also write expected.safetensors and expected.json")
    parser.add_argument(
        "--float64",
        action="store_true",
        help="with --expected: how far float32 itself is from float64, in expected.json (twice the memory)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args()


def make_inputs(model: Model, kind: str, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.tokenizer), pad_token="<pad>")
    text = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    decoder = model.config.decoder
    codes = torch.randint(
        decoder.vocab_size, (len(TEXTS), decoder.num_codebooks, FRAMES), generator=stream(options.seed, "codes")
    )
    inputs = {
        "input_ids": text.input_ids,
        "attention_mask": text.attention_mask,
        "codes": codes,
        "wav": test_signal(1, round(SECONDS * 32000), options.seed),
    }
    if kind == "melody":
        bins = torch.randint(12, (len(TEXTS), 235), generator=stream(options.seed, "chroma"))
        inputs["chroma"] = torch.nn.functional.one_hot(bins, 12).float()
    return inputs


def compute(model: Model, inputs: dict[str, torch.Tensor]) -> reference.Expected:
    """Every stage once. The greedy run takes the first text alone, as nobody pads a single clip."""
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    null = text | {"attention_mask": torch.zeros_like(text["attention_mask"])}
    forced = {"decoder_input_ids": reference.forced_inputs(model, inputs["codes"])}
    first_length = int(text["attention_mask"][0].sum())
    first = {
        "input_ids": text["input_ids"][:1, :first_length],
        "attention_mask": text["attention_mask"][:1, :first_length],
    }

    expected = inputs | reference.text_states(model, **text)
    if "chroma" in inputs:
        text["input_features"] = inputs["chroma"]
        first["input_features"] = inputs["chroma"][:1]
    expected |= forced | reference.decoder_states(model, **text, **forced)
    null_pass = reference.decoder_states(model, **null, **forced)
    expected["null_logits"] = null_pass["logits"]
    expected["null_decoder_hidden_states"] = null_pass["decoder_hidden_states"]
    expected["guided_logits"] = reference.guided(expected["logits"], null_pass["logits"])
    expected |= reference.codec(model, inputs["wav"])
    expected["greedy_cfg3_new12"] = reference.greedy(model, reference.GUIDANCE, 12, **first)
    return expected


def as_float64(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def flatten(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Nested values as one dictionary with dotted names; whole numbers as int32."""
    if isinstance(value, torch.Tensor):
        return {name: (value if value.is_floating_point() else value.int()).contiguous().clone()}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    prefix = f"{name}." if name else ""
    return {key: tensor for part, item in items for key, tensor in flatten(item, f"{prefix}{part}").items()}


def errors(expected: reference.Expected, exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """For every output the largest absolute difference; for whole numbers how many differ."""
    result: dict[str, float] = {}
    for name, tensor in flatten(expected).items():
        difference = (tensor.double() - exact[name].double()).abs()
        result[name] = difference.max().item() if tensor.is_floating_point() else int((difference > 0).sum())
    return result


class step:
    """Prints how long a step took."""

    def __init__(self, name: str):
        self._name = name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        print(f"{self._name}: {time.perf_counter() - self._start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
