"""Writes small checkpoints with torch.save, and the same weights as safetensors. See README.md."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file


def example() -> dict[str, torch.Tensor]:
    """Every type, and every way a tensor can lie in its storage."""
    numbers = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7 - 1
    shared = torch.linspace(-2, 2, 40)
    return collections.OrderedDict(
        {
            "float32": numbers,
            "float16": (numbers * 3).half(),
            "bfloat16": numbers.bfloat16(),
            "float64": numbers.double() * 1.1,
            "int64": torch.arange(-2, 5),
            "int32": torch.arange(6, dtype=torch.int32).reshape(2, 3),
            "uint8": torch.arange(3, dtype=torch.uint8),
            "bool": torch.tensor([True, False, True]),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 3),
            "transposed": numbers.permute(2, 0, 1),
            "columns": numbers[:, 1:, ::2],
            "shared.head": shared[:8],
            "shared.tail": shared[8:].reshape(4, 8),
            "shared.all": shared,
            "expanded": torch.tensor([1.5, -1.5, 0.5]).expand(1, 3),
            "parameter": torch.nn.Parameter(torch.tensor([[0.25, 4.0]])),
        }
    )


class Runs:
    """Pickles as a call: what a malicious file does."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)

    state = example()
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(plain, output / "example.safetensors")
    torch.save(state, output / "example.bin")
    torch.save(state, output / "example-protocol-4.bin", pickle_protocol=4)
    torch.save(state, output / "example-legacy.bin", _use_new_zipfile_serialization=False)

    # A module's own state dict carries versions as an attribute; a wrapped one lies under a key.
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for index, tensor in enumerate(module.state_dict().values()):
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + index)
    torch.save(module.state_dict(), output / "module.bin")
    wrapped = {"best_state": {"w": torch.ones(2)}, "xp.cfg": "a: 1\n", "version": "1.4.0a2", "exported": True, "none": None}
    torch.save(wrapped, output / "wrapped.bin")

    hostile = {
        "system": Runs(os.system, "echo owned > owned.txt"),
        "eval": Runs(eval, "1 + 1"),
        "getattr": Runs(getattr, collections.OrderedDict, "fromkeys"),
    }
    for name, value in hostile.items():
        torch.save({"weight": torch.ones(2), "extra": value}, output / f"hostile-{name}.bin")
        legacy = output / f"hostile-{name}-legacy.bin"
        torch.save({"weight": torch.ones(2), "extra": value}, legacy, _use_new_zipfile_serialization=False)
    torch.save(module, output / "whole-module.bin")
    torch.save({"weight": torch.ones(2), "bytes": b"abc"}, output / "bytes.bin")
    torch.save({"weight": torch.ones(2).numpy()}, output / "numpy.bin")
    (output / "bare.bin").write_bytes(pickle.dumps({"weight": [1.0, 2.0]}, protocol=2))
    about = {"torch": torch.__version__, "script": "tools/reference/make_torch_files.py"}
    (output / "about.json").write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    main()
