"""Writes a small random checkpoint and what transformers computes with it. See README.md."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import reference
from random_model import (
    FLOAT_TYPES,
    KINDS,
    LANGUAGE_MODEL,
    SIZES,
    Model,
    build,
    round_weights,
    save,
    stream,
    test_signal,
)

NEW_TOKENS = 12
FORCED_FRAMES = 7
TEXT_LENGTHS = (7, 17)  # the shorter is padded; the longer reaches the relative distances that share a bucket


def main() -> None:
    options = parse_options()
    torch.use_deterministic_algorithms(True)
    model = build(options.kind, SIZES[options.size], options.seed)
    if options.float16_exact:
        round_weights(model, torch.float16, LANGUAGE_MODEL)
    round_weights(model, FLOAT_TYPES[options.save_dtype])
    save(
        model,
        options.output,
        weight_norm=options.weight_norm,
        position_table=options.position_table,
        dtype=options.save_dtype,
        max_shard_size=options.max_shard_size,
    )
    expected = compute(model, options.kind, options.seed)
    about = {"transformers": transformers.__version__, "torch": torch.__version__, **describe(options)}
    (options.output / "expected.json").write_text(json.dumps(about | to_json(expected)) + "\n")
    size = sum(file.stat().st_size for file in options.output.iterdir())
    print(f"{options.output}: {size / 1e6:.2f} MB; {summary(expected)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="mono")
    parser.add_argument("--size", choices=("tiny", "odd"), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight-norm", choices=("parametrizations", "weight_g"), default="parametrizations")
    parser.add_argument("--float16-exact", action="store_true", help="round the language model's weights to float16")
    parser.add_argument("--save-dtype", choices=FLOAT_TYPES, default="float32")
    parser.add_argument("--max-shard-size", metavar="SIZE", help='shards of at most this size, such as "100KB"')
    parser.add_argument(
        "--position-table", action="store_true", help="add the sinusoid table, as files of 2023 have it"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args()


def describe(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name != "output"}


def compute(model: Model, kind: str, seed: int) -> reference.Expected:
    """All reference values of one fixture."""
    decoder = model.config.decoder
    input_ids, mask = random_texts(model, seed)
    expected: reference.Expected = {"input_ids": input_ids, "attention_mask": mask}
    expected |= reference.text_states(model, input_ids, mask)

    codes = random_integers((len(input_ids), decoder.num_codebooks, FORCED_FRAMES), decoder.vocab_size, seed, "codes")
    forced = {"decoder_input_ids": reference.forced_inputs(model, codes)}
    expected |= {"codes": codes, **forced}
    text = {"input_ids": input_ids, "attention_mask": mask}
    null = {"input_ids": input_ids, "attention_mask": torch.zeros_like(mask)}
    if kind == "melody":
        expected["logits_text_only"] = reference.decoder_states(model, **text, **forced)["logits"]
        expected["greedy_cfg3_new12_text_only"] = reference.greedy(model, reference.GUIDANCE, NEW_TOKENS, **text)
        expected["chroma"] = text["input_features"] = random_chroma(len(input_ids), 4, seed)
    expected |= reference.decoder_states(model, **text, **forced)
    null_pass = reference.decoder_states(model, **null, **forced)  # without a melody, which stands for the null melody
    expected["null_logits"] = null_pass["logits"]
    expected["null_decoder_hidden_states"] = null_pass["decoder_hidden_states"]
    expected["guided_logits"] = reference.guided(expected["logits"], null_pass["logits"])

    frame = int(np.prod(model.config.audio_encoder.upsampling_ratios))
    expected |= reference.codec(model, test_signal(2, 10 * frame + 13 % frame, seed))
    expected["greedy_cfg3_new12"] = reference.greedy(model, reference.GUIDANCE, NEW_TOKENS, **text)
    expected["greedy_cfg1_new12"] = reference.greedy(model, 1.0, NEW_TOKENS, **text)
    if kind != "melody":
        channels = decoder.audio_channels
        prompt = test_signal(2 * channels, 10 * frame, seed + 1).view(2, channels, -1)
        expected["prompt_wav"] = prompt
        expected["greedy_cfg3_prompt_new12"] = reference.greedy(
            model, reference.GUIDANCE, NEW_TOKENS, input_values=prompt, **text
        )
        start = torch.full((decoder.num_codebooks, 1), decoder.pad_token_id)
        expected["delay_mask_len16"] = model.decoder.build_delay_pattern_mask(
            start, pad_token_id=decoder.pad_token_id, max_length=16
        )[1]
    return expected


def random_texts(model: Model, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of two texts of different lengths, each ended by </s> = 1, padded with 0; and their mask."""
    longest = max(TEXT_LENGTHS)
    ids = torch.zeros((len(TEXT_LENGTHS), longest), dtype=torch.long)
    for row, length in enumerate(TEXT_LENGTHS):
        words = random_integers((length - 1,), model.config.text_encoder.vocab_size - 3, seed, f"text {row}") + 3
        ids[row, :length] = torch.cat([words, torch.tensor([1])])
    mask = torch.arange(longest) < torch.tensor(TEXT_LENGTHS)[:, None]
    return ids, mask.long()


def random_integers(shape: tuple[int, ...], end: int, seed: int, name: str) -> torch.Tensor:
    return torch.randint(end, shape, generator=stream(seed, name))


def random_chroma(items: int, frames: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(random_integers((items, frames), 12, seed, "chroma"), 12).float()


def to_json(value: Any) -> Any:
    """Tensors as {"shape", "data"}; a float is written with the fewest digits that give the same float32."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().flatten().numpy()
        data = [float(str(number)) for number in flat] if value.is_floating_point() else flat.tolist()
        return {"shape": list(value.shape), "data": data}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return value


def summary(expected: reference.Expected) -> str:
    """A look at whether the fixture is a good one: alive, varied, and without ties that rounding could turn."""
    margins = [run["margins"].min() for name, run in expected.items() if name.startswith("greedy")]
    return ", ".join(
        (
            f"deviation of the last residual {expected['decoder_hidden_states'][-1].std():.2f}",
            f"largest logit {expected['logits'].abs().max():.2f}",
            f"loudest sample {expected['encodec_decoded'].abs().max():.2f}",
            f"{expected['encodec_codes'].unique().numel()} different codes",
            f"{expected['greedy_cfg3_new12']['tokens'].unique().numel()} different greedy tokens",
            f"smallest margin of a token {min(margins):.1e}",
            f"of a code {expected['encodec_code_margins'].min():.1e}",
        )
    )


if __name__ == "__main__":
    main()
