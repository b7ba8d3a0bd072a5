"""The settings of a run. `Settings.load` keeps them with the run, so that resuming can't mix two sizes by accident."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

FLUID = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
TIM = "/usr/share/sounds/sf2/TimGM6mb.sf2"
CSOUND = "/usr/share/sounds/sf2/sf_GMbank.sf2"


@dataclass
class Settings:
    work: Path = Path(".")
    seed: int = 20261122
    threads: int = 1
    device: str = "cpu"
    sample_rate: int = 32000
    seconds: float = 8.0
    # A checkpoint's folder: codec, language model and tokenizer go on from its own; empty: from nothing.
    start_from: str = ""
    # One round is one solo melody by each of 8 instruments and 8 band clips: 16 clips.
    rounds: dict[str, int] = field(default_factory=lambda: {"train": 600, "heldout": 18, "judge": 44, "judge2": 36})
    fonts: dict[str, str] = field(default_factory=lambda: {"train": FLUID, "heldout": FLUID, "judge": TIM, "judge2": CSOUND})
    # Codec (EnCodec, the official geometry, narrower).
    codec_filters: int = 16
    codec_hidden: int = 128  # the last ones are the notes' (`start.NOTE_WIDTH`)
    codebook_size: int = 1024
    codec_clips: int = 600  # that the encoder and the codebooks are computed from
    codec_batch: int = 4
    codec_crop: int = 16000
    listen_minutes: float = 10.0
    decoder_minutes: float = 60.0
    decoder_rate: float = 3e-4
    # Language model.
    vocab: int = 1000
    text_width: int = 96  # must differ from width: with equal widths the projection between them is left out
    text_layers: int = 2
    width: int = 128
    layers: int = 7
    lm_batch: int = 4
    lm_rate: float = 0.02
    text_rate: float = 0.15  # of the text encoder, relative to lm_rate; a tenth of it where training goes on from a checkpoint
    lm_minutes: float = 60.0
    text_dropout: float = 0.12
    # Generation, as the checkpoint recommends it and the evaluation does it.
    guidance: float = 3.0
    temperature: float = 0.8
    top_k: int = 250
    # Evaluation: clips generated for each instrument and each genre.
    clips_each: int = 8

    @property
    def samples(self) -> int:
        return int(self.seconds * self.sample_rate)

    @property
    def frames(self) -> int:
        return self.samples // 640


def write_json(path: Path, value: object) -> None:
    """Writes a file all at once: a reader or a resumed run never sees half of it."""
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


def load(work: Path, overrides: dict[str, str]) -> Settings:
    """The settings stored in the work folder, with `overrides` (name to text) applied and stored."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "settings.json"
    known = {f.name: f for f in dataclasses.fields(Settings)}
    values = json.loads(path.read_text()) if path.exists() else {}
    for name, text in overrides.items():
        if name not in known or name == "work":
            raise SystemExit(f"no setting is called {name}; there are: {', '.join(sorted(set(known) - {'work'}))}")
        default = getattr(Settings(), name)
        values[name] = text if isinstance(default, str) else json.loads(text)
    settings = Settings(work=work, **values)
    stored = dataclasses.asdict(settings)
    del stored["work"]
    write_json(path, stored)
    return settings
