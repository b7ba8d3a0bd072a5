"""Turns every clip into codes, once; the language model trains on those."""

from __future__ import annotations

import json

import numpy as np
import torch

from .codec import QUANTISERS, load_codec
from .compose import FRAME_RATE, PHRASE
from .listener import latents
from .render import open_audio, plan, without_rumble
from .settings import Settings, write_json

CHUNK = 16
LOOP_FRAMES = round(PHRASE * FRAME_RATE)
MARGIN = 8  # frames: the encoder sees no further


def open_codes(split: str, settings: Settings, mode: str = "r") -> np.ndarray:
    """The uint16 array [clips, K, F] of a split."""
    shape = (len(plan(split, settings)), QUANTISERS, settings.frames)
    return np.memmap(settings.work / "codes" / f"{split}.u16", np.uint16, mode, shape=shape)


def encoded(split: str, settings: Settings) -> int:
    """How many clips of a split have codes."""
    path = settings.work / "codes" / f"{split}.progress.json"
    return json.loads(path.read_text())["done"] if path.exists() else 0


@torch.no_grad()
def encode_split(split: str, settings: Settings) -> None:
    folder = settings.work / "codes"
    folder.mkdir(parents=True, exist_ok=True)
    progress = folder / f"{split}.progress.json"
    codec = load_codec(settings)
    if not codec.quantizer.layers[0].codebook.embed.any():
        raise SystemExit("the codec's first codebook is empty: run the stage listen before encode")
    # Codes of two codecs must not be mixed: the sum of the codebooks tells one from another.
    mark = float(sum(layer.codebook.embed.double().sum() for layer in codec.quantizer.layers))
    before = json.loads(progress.read_text()) if progress.exists() else {"done": 0, "codec": mark}
    if before["codec"] != mark:
        raise SystemExit(f"{folder} holds codes of another codec: delete it, and lm/, to encode again with the current one")
    clips = plan(split, settings)
    audio = open_audio(split, settings)
    with open(folder / f"{split}.u16", "ab") as file:
        file.truncate(len(clips) * QUANTISERS * settings.frames * 2)
    codes = open_codes(split, settings, "r+")
    for start in range(before["done"], len(clips), CHUNK):
        for index in range(start, min(start + CHUNK, len(clips))):
            again = split == "train" and clips[index]["loop"]
            needed = (2 * LOOP_FRAMES + MARGIN) * 640 if again else settings.samples
            sound = audio[index].astype(np.float32) / 32768
            if split == "train" and clips[index]["kind"] == "solo":
                sound = without_rumble(sound, settings.sample_rate, clips[index]["instrument"])
            found = codec.quantizer.encode(latents(codec.encoder, sound[:needed]))[:, 0].numpy().astype(np.uint16)  # [K, F]
            if again:
                # From the second time on a loop is the same samples over and over, hence the same codes.
                times = -(-settings.frames // LOOP_FRAMES)
                found = np.concatenate([found[:, :LOOP_FRAMES], np.tile(found[:, LOOP_FRAMES : 2 * LOOP_FRAMES], times)], 1)[:, : settings.frames]
            codes[index] = found
        codes.flush()
        write_json(progress, {"done": min(start + CHUNK, len(clips)), "codec": mark})
        if start // CHUNK % 10 == 0:
            print(f"encode {split}: {min(start + CHUNK, len(clips))}/{len(clips)}", flush=True)


def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    for split in ("heldout", "train"):
        encode_split(split, settings)
