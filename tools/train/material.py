"""Writes labelled sound for `tonearm experiment --audio`: clips that directions are fitted on, and others of melodies that training
never heard."""

from __future__ import annotations

import json

import numpy as np

from .compose import GENRES, INSTRUMENTS
from .evaluate import write_wave
from .render import open_audio, read_labels
from .settings import Settings

# Of each class: training clips to fit directions on, held-out clips to continue from.
COUNTS = {"train": ("fit", 40), "heldout": ("test", 18)}


def run(settings: Settings) -> None:
    folder = settings.work / "material"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for split, (side, most) in COUNTS.items():
        audio, counts = open_audio(split, settings), dict.fromkeys((*INSTRUMENTS, *GENRES), 0)
        for index, row in enumerate(read_labels(split, settings)):
            name = row["instrument" if row["kind"] == "solo" else "genre"]
            # Every other genre clip is left out: leads then change from one clip of a genre to the next.
            if counts[name] == most or (row["kind"] == "band" and row["seed"][3] != 1 + row["seed"][2] % 2):
                continue
            counts[name] += 1
            identity = f"{split}-{index}"
            write_wave(folder / f"{identity}.wav", audio[index].astype(np.float32) / 32768, settings.sample_rate)
            labels = {"kind": row["kind"], "instrument": row["instrument"], "genre": row["genre"]}
            rows.append({"id": identity, "audio": f"{identity}.wav", **labels, "piece": "-".join(map(str, row["seed"][1:])), "split": side})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
