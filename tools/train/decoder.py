"""Trains the codec's decoder, from its linear start, on the codes. Encoder and codebooks stay, so that the codes stay valid."""

from __future__ import annotations

import json
import time

import numpy as np
import torch
from torch import nn

from .codec import SpectralLoss, codec_config, load_codec, load_decoder, total_loss, validate
from .encode import encoded, open_codes
from .render import open_audio, read_labels
from .settings import Settings, write_json
from .training import Average, Clock, Log, load_state, save_state, warm_hold_decay

SAVE_SECONDS = 150
SOLO = 0.6  # share of solo clips
CONTEXT = 4  # frames on each side that the loss leaves out: the decoder sees no neighbours there


def run(settings: Settings) -> None:
    folder = settings.work / "codec"
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    codec, judged = (load_codec(settings).to(settings.device) for _ in range(2))
    for part in (codec.encoder, codec.quantizer):
        part.requires_grad_(False)
    losses = SpectralLoss(settings.sample_rate).to(settings.device)
    optimizer = torch.optim.AdamW(codec.decoder.parameters(), lr=settings.decoder_rate, betas=(0.9, 0.99), weight_decay=0.0)
    rng = np.random.default_rng((settings.seed, 14))
    state = load_state(folder / "decoder.pt", model=codec, optimizer=optimizer, rng=rng)
    average = Average(codec.decoder, folder / "decoder.pt")
    step, clock, log = state["step"], Clock(state["seconds"]), Log(folder / "decoder.jsonl", state["step"])
    audio, codes, held = open_audio("train", settings), open_codes("train", settings), open_audio("heldout", settings)
    kinds = [[index for index, row in enumerate(read_labels("train", settings)) if row["kind"] == kind] for kind in ("solo", "band")]
    budget, saved, frames = settings.decoder_minutes * 60, time.monotonic(), settings.codec_crop // 640 + 2 * CONTEXT
    codec.train()
    while clock.seconds() < budget:
        for group in optimizer.param_groups:
            group["lr"] = settings.decoder_rate * warm_hold_decay(step, clock.seconds() / budget)
        wanted, chosen = [], []
        available = encoded("train", settings)
        while len(wanted) < settings.codec_batch:
            clip, start = int(rng.choice(kinds[int(rng.random() > SOLO)])), int(rng.integers(settings.frames - frames + 1))
            if clip >= available:
                continue
            piece = audio[clip, (start + CONTEXT) * 640 : (start + frames - CONTEXT) * 640]
            if np.abs(piece).max() > 330:
                wanted.append(piece.astype(np.float32) / 32768)
                chosen.append(codes[clip, :, start : start + frames].astype(np.int64))
        latents = codec.quantizer.decode(torch.from_numpy(np.stack(chosen, 1)).to(settings.device))
        made = codec.decoder(latents)[:, 0, CONTEXT * 640 : -CONTEXT * 640]
        parts = losses(made, torch.from_numpy(np.stack(wanted)).to(settings.device))
        loss = total_loss(parts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(codec.decoder.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
            average.update(codec.decoder)
        step += 1
        log.add(step, loss=loss, norm=norm, **parts)
        if step % 50 == 0:
            log.write(step, clock.seconds())
        if time.monotonic() - saved > SAVE_SECONDS or clock.seconds() >= budget:
            parts_of_run = {"model": codec, "optimizer": optimizer, "rng": rng, "average": average.values}
            save_state(folder / "decoder.pt", step, clock.seconds(), **parts_of_run)
            saved = time.monotonic()
            judged.load_state_dict(codec.state_dict())
            judged.decoder.load_state_dict(load_decoder(folder))
            found = {"step": step, "seconds": round(clock.seconds()), **validate(judged, held, losses, settings)}
            write_json(folder / "decoder.validation.json", found)
            with open(folder / "decoder.validation.jsonl", "a") as file:
                file.write(json.dumps(found) + "\n")
