"""Teaches the codec's encoder to hear what is played (`listener.py`), from what was composed."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec import load_codec
from .listener import Listener, coefficients
from .notes import all_played
from .render import open_audio, plan, without_rumble
from .settings import Settings
from .start import BINS, HOP
from .training import Clock, Log, load_state, save_state, warm_hold_decay

HEARD_FRAMES = 208  # of every clip: a loop's first two bars and what lies around them
CROP, BATCH, RATE = 128, 24, 4e-3  # frames, clips, and the learning rate
SAVE_SECONDS = 60


def hear(codec: nn.Module, split: str, settings: Settings) -> tuple[Tensor, Tensor]:
    """Coefficients float16 [clips, HEARD_FRAMES, BINS] and what is played, lead and chord, [2, clips, HEARD_FRAMES] of
    a split. Every other lead alone is without what lies below its notes, as those are that the language model learns from."""
    clips, audio = plan(split, settings), open_audio(split, settings)
    heard = torch.empty(len(clips), HEARD_FRAMES, BINS, dtype=torch.float16)
    for index, clip in enumerate(clips):
        sound = audio[index, : HEARD_FRAMES * HOP].astype(np.float32) / 32768
        if clip["kind"] == "solo" and clip["seed"][2] % 2:
            sound = without_rumble(sound, settings.sample_rate, clip["instrument"])
        heard[index] = coefficients(codec.encoder, sound, edges=False).half()
    return heard, torch.from_numpy(np.stack(all_played(split, settings))[..., :HEARD_FRAMES])


@torch.no_grad()
def accuracy(listener: Listener, heard: Tensor, played: Tensor) -> list[float]:
    """The shares of frames whose lead, struck or held, and whose chord is heard as it was written."""
    said = [torch.stack([logits.argmax(-1) for logits in listener(part.float())]) for part in heard.split(64)]
    return [round(float(share), 4) for share in (torch.cat(said, 1) == played).float().mean((1, 2))]


def run(settings: Settings) -> None:
    """Trains the listener for `listen_minutes`, once; `codec.load_codec` installs it. A checkpoint that is gone on from has its own."""
    folder = settings.work / "codec"
    if settings.start_from:
        return
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    codec = load_codec(settings)
    listener = Listener(codec.encoder.layers[13].lstm.hidden_size)
    optimizer = torch.optim.AdamW(listener.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng((settings.seed, 15))
    state = load_state(folder / "listener.pt", model=listener, optimizer=optimizer, rng=rng)
    step, log, budget = state["step"], Log(folder / "listener.jsonl", state["step"]), settings.listen_minutes * 60
    if state["seconds"] >= budget:
        return
    (heard, played), held = hear(codec, "train", settings), hear(codec, "heldout", settings)
    clock, saved = Clock(state["seconds"]), time.monotonic()
    while clock.seconds() < budget:
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm_hold_decay(step, clock.seconds() / budget, warm=50, hold=0.4)
        clips, begin = torch.from_numpy(rng.integers(0, len(heard), BATCH)), int(rng.integers(0, HEARD_FRAMES - CROP + 1))
        span = slice(begin, begin + CROP)
        said = listener(heard[clips, span].float())
        lead, chord = (F.cross_entropy(part.transpose(1, 2), row[clips, span], label_smoothing=0.02) for part, row in zip(said, played))
        optimizer.zero_grad(set_to_none=True)
        (lead + chord).backward()
        nn.utils.clip_grad_norm_(listener.parameters(), 1.0)
        optimizer.step()
        step += 1
        log.add(step, lead=lead, chord=chord)
        if time.monotonic() - saved > SAVE_SECONDS or clock.seconds() >= budget:
            log.write(step, clock.seconds(), heldout=accuracy(listener, *held))
            save_state(folder / "listener.pt", step, clock.seconds(), model=listener, optimizer=optimizer, rng=rng)
            saved = time.monotonic()
