"""What both training loops share: time spent across runs, the learning-rate schedule, logs and atomic checkpoints."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch


class Clock:
    """Seconds spent training, over all runs."""

    def __init__(self, before: float):
        self.before, self.begun = before, time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.begun


def warm_hold_decay(step: int, spent: float, warm: int = 200, hold: float = 0.7) -> float:
    """The learning-rate factor: linear over `warm` steps, then 1, then linear to 0.03 over the last part of the budget.

    It follows the budget in time, not in steps: the machine's speed is what limits this recipe. A run whose budget was
    raised goes back to the full rate and decays again.
    """
    decay = 1.0 if spent <= hold else 1.0 - 0.97 * min(1.0, (spent - hold) / (1 - hold))
    return min(1.0, (step + 1) / warm) * decay


class Log:
    """Means of what was added since the last line, one JSON line at a time."""

    def __init__(self, path: Path, step: int):
        self.path, self.sums, self.count = path, defaultdict(float), 0
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
            path.write_text("".join(line + "\n" for line in lines))

    def add(self, step: int, **values) -> None:
        for name, value in values.items():
            self.sums[name] += float(value.detach() if torch.is_tensor(value) else value)
        self.count += 1

    def write(self, step: int, seconds: float, **extra) -> None:
        means = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, "seconds": round(seconds), **means, **extra}) + "\n")
        self.sums, self.count = defaultdict(float), 0


class Average:
    """An exponential moving average of a module's parameters: what small noisy batches would converge to at a lower rate."""

    decay = 0.998

    def __init__(self, module: torch.nn.Module, path: Path):
        stored = torch.load(path, map_location="cpu", weights_only=False).get("average", {}) if path.exists() else {}
        self.values = {name: stored.get(name, value.detach().cpu()).clone().to(value) for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        for name, value in module.named_parameters():
            self.values[name].lerp_(value, 1 - self.decay)


def save_state(path: Path, step: int, seconds: float, model, optimizer, rng: np.random.Generator, **extra) -> None:
    """Writes a checkpoint all at once, so that a run killed at any moment can go on from the last one."""
    temporary = path.with_suffix(".part")
    torch.save(
        {
            "step": step,
            "seconds": seconds,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            **extra,
        },
        temporary,
    )
    os.replace(temporary, path)


def load_state(path: Path, model, optimizer, rng: np.random.Generator) -> dict:
    """Restores a checkpoint where there is one; returns its step and the seconds spent (0 and 0 for a new run)."""
    if not path.exists():
        return {"step": 0, "seconds": 0.0}
    state = torch.load(path, map_location="cpu", weights_only=False)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    rng.bit_generator.state = state["rng"]
    torch.set_rng_state(state["torch_rng"])
    return {"step": state["step"], "seconds": state["seconds"]}
