"""Trains EnCodec on random crops of the rendered clips: transformers' EncodecModel with a trainable residual quantiser.

transformers has no training code for the quantiser. Here it follows van den Oord et al. 2017 (straight-through, commitment),
its exponential-moving-average codebooks, and Zeghidour et al. 2021 (k-means start, unused entries replaced by inputs).
The loss is multi-resolution log-mel + linear spectrum + waveform; there is no adversary, for want of compute.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from .render import open_audio, read_labels
from .settings import Settings, write_json
from .start import start_linear
from .training import Clock, Log, load_state, save_state, warm_hold_decay

QUANTISERS = 4
SAVE_SECONDS = 150


def codec_config(settings: Settings) -> EncodecConfig:
    """The official 32 kHz geometry: hop 640, 50 frames a second, 4 codebooks; narrower."""
    bits = int(np.ceil(np.log2(settings.codebook_size)))
    return EncodecConfig(
        sampling_rate=settings.sample_rate,
        audio_channels=1,
        normalize=False,
        chunk_length_s=None,
        overlap=None,
        hidden_size=settings.codec_hidden,
        codebook_dim=settings.codec_hidden,
        codebook_size=settings.codebook_size,
        num_filters=settings.codec_filters,
        num_residual_layers=1,
        upsampling_ratios=[8, 5, 4, 4],
        use_causal_conv=False,
        use_conv_shortcut=False,
        pad_mode="reflect",
        norm_type="weight_norm",
        target_bandwidths=[QUANTISERS * bits * 50 / 1000],
    )


class Quantiser:
    """Trains the codebook buffers of `EncodecResidualVectorQuantizer` in place."""

    decay = 0.99

    def __init__(self, codec: EncodecModel, generator: torch.Generator):
        self.books = [layer.codebook for layer in codec.quantizer.layers]
        self.generator = generator

    def start(self, latents: Tensor) -> None:
        """k-means on latents [vectors, D], one codebook after the other on what the ones before left over."""
        residual = latents
        for book in self.books:
            order = torch.randperm(len(residual), generator=self.generator)
            centres = residual[order[: book.codebook_size]].clone()
            for _ in range(8):
                nearest = torch.cdist(residual, centres).argmin(1)
                counts = torch.bincount(nearest, minlength=len(centres)).float()
                sums = torch.zeros_like(centres).index_add_(0, nearest, residual)
                centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
            book.embed.copy_(centres)
            book.cluster_size.fill_(1.0)
            book.embed_avg.copy_(centres)
            residual = residual - centres[torch.cdist(residual, centres).argmin(1)]

    def __call__(self, latents: Tensor, update: bool) -> tuple[Tensor, Tensor, list[float]]:
        """Quantised latents [B, D, F] with straight-through gradient, the commitment loss, and each codebook's perplexity."""
        flat = latents.permute(0, 2, 1).reshape(-1, latents.shape[1])  # [B*F, D]
        residual, total, commitment, perplexities = flat, torch.zeros_like(flat), flat.new_zeros(()), []
        scale = flat.detach().var(0).mean().clamp(min=1e-6)
        for book in self.books:
            with torch.no_grad():
                codes = book.quantize(residual)
                chosen = book.embed[codes]
                counts = torch.bincount(codes, minlength=book.codebook_size).float()
                share = counts / counts.sum()
                perplexities.append(float(torch.exp(-(share * (share + 1e-9).log()).sum())))
                if update:
                    self._update(book, residual.detach(), codes, counts)
            commitment = commitment + (residual - chosen).pow(2).mean() / scale
            residual = residual - chosen
            total = total + chosen
        passed = flat + (total - flat).detach()
        return passed.reshape(latents.shape[0], -1, latents.shape[1]).permute(0, 2, 1), commitment, perplexities

    def _update(self, book, vectors: Tensor, codes: Tensor, counts: Tensor) -> None:
        sums = torch.zeros_like(book.embed).index_add_(0, codes, vectors)
        book.cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        book.embed_avg.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        expected = len(vectors) / book.codebook_size
        dead = book.cluster_size < 0.05 * expected
        if dead.any():
            picks = torch.randint(len(vectors), (int(dead.sum()),), generator=self.generator)
            book.cluster_size[dead] = expected
            book.embed_avg[dead] = vectors[picks] * expected
        book.embed.copy_(book.embed_avg / book.cluster_size.clamp(min=1e-6)[:, None])


def mel_filters(bands: int, size: int, sample_rate: int) -> Tensor:
    """Triangular filters [bands, size/2+1], equally spaced on the HTK mel scale from 30 Hz to the Nyquist frequency."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(2595 * np.log10(1 + 30 / 700), top, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, sample_rate / 2, size // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rising, falling))
    # Narrow bands can fall between two bins of a short transform: they take the nearest bin.
    empty = filters.sum(1) == 0
    filters[empty, np.abs(frequencies - edges[1:-1, None]).argmin(1)[empty]] = 1
    return torch.from_numpy(filters / filters.sum(1, keepdims=True)).float()


class SpectralLoss(nn.Module):
    """Distance of two waveforms [B, N]: log-mel, linear magnitude and samples, each relative, over four resolutions."""

    scales = ((256, 32), (512, 64), (1024, 80), (2048, 128))
    floor = 1e-3

    def __init__(self, sample_rate: int):
        super().__init__()
        for size, bands in self.scales:
            self.register_buffer(f"window{size}", torch.hann_window(size) / (size / 4))
            self.register_buffer(f"mel{size}", mel_filters(bands, size, sample_rate))

    def _spectrum(self, audio: Tensor, size: int) -> Tensor:
        window = getattr(self, f"window{size}")
        parts = torch.view_as_real(torch.stft(audio, size, size // 4, window=window, return_complex=True))
        return (parts.pow(2).sum(-1) + 1e-10).sqrt()  # [B, bins, frames]

    def forward(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        log_mel, linear = made.new_zeros(()), made.new_zeros(())
        for size, _ in self.scales:
            filters = getattr(self, f"mel{size}")
            ours = self._spectrum(made, size)
            with torch.no_grad():
                target = self._spectrum(wanted, size)
                target_log = (filters @ target + self.floor).log()
            log_mel = log_mel + ((filters @ ours + self.floor).log() - target_log).abs().mean()
            linear = linear + (ours - target).abs().sum() / target.sum()
        wave = (made - wanted).abs().sum() / wanted.abs().sum().clamp(min=1e-6)
        count = len(self.scales)
        return {"mel": log_mel / count, "linear": linear / count, "wave": wave}


def total_loss(parts: dict[str, Tensor]) -> Tensor:
    return parts["mel"] + 0.5 * parts["linear"] + 0.2 * parts["wave"]


def crops(audio: np.ndarray, available: int, settings: Settings, rng: np.random.Generator) -> Tensor:
    """A batch [B, 1, crop] of random crops with a random gain; near-silent ones are drawn again."""
    batch = []
    while len(batch) < settings.codec_batch:
        clip, start = int(rng.integers(available)), int(rng.integers(settings.samples - settings.codec_crop + 1))
        crop = audio[clip, start : start + settings.codec_crop].astype(np.float32) / 32768
        if np.abs(crop).max() > 0.01:
            batch.append(crop * 10 ** (rng.uniform(-6, 3) / 20))
    return torch.from_numpy(np.stack(batch).astype(np.float32))[:, None]


@torch.no_grad()
def start(codec: EncodecModel, quantiser: Quantiser, audio: np.ndarray, available: int, settings: Settings, rng) -> None:
    """The linear start of the networks, then k-means codebooks on the latents that it gives."""
    rows = np.sort(rng.choice(available, min(available, 200), replace=False))
    start_linear(codec, audio[rows].astype(np.float32) / 32768, rng)
    latents = [codec.encoder(crops(audio, available, settings, rng).to(settings.device)) for _ in range(100)]
    quantiser.start(torch.cat([one.permute(0, 2, 1).reshape(-1, one.shape[1]) for one in latents]))


def load_codec(settings: Settings) -> EncodecModel:
    """The codec as trained so far, in evaluation mode; with the decoder that was trained further, where that one measures better."""
    folder = settings.work / "codec"
    codec = EncodecModel(codec_config(settings))
    codec.load_state_dict(torch.load(folder / "state.pt", map_location="cpu", weights_only=False)["model"])
    if measured(folder / "decoder.validation.json") < measured(folder / "validation.json"):
        codec.decoder.load_state_dict(load_decoder(folder))
    return codec.eval()


def load_decoder(folder: Path) -> dict[str, Tensor]:
    """The weights of the decoder that was trained further: their average over steps, where it was kept."""
    state = torch.load(folder / "decoder.pt", map_location="cpu", weights_only=False)
    found = {name.removeprefix("decoder."): value for name, value in state["model"].items() if name.startswith("decoder.")}
    return {**found, **state.get("average", {})}


def measured(path: Path) -> float:
    """The total loss that a validation file holds; infinite if there is none."""
    return float(total_loss(json.loads(path.read_text()))) if path.exists() else float("inf")


def run(settings: Settings) -> None:
    folder = settings.work / "codec"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    codec = EncodecModel(codec_config(settings)).to(settings.device)
    losses = SpectralLoss(settings.sample_rate).to(settings.device)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=settings.codec_rate, betas=(0.9, 0.99), weight_decay=0.0)
    rng = np.random.default_rng((settings.seed, 11))
    quantiser = Quantiser(codec, torch.Generator().manual_seed(settings.seed))
    state = load_state(folder / "state.pt", model=codec, optimizer=optimizer, rng=rng)
    step, clock = state["step"], Clock(state["seconds"])
    audio, log = open_audio("train", settings), Log(folder / "log.jsonl", state["step"])
    available = len(read_labels("train", settings))
    held = open_audio("heldout", settings) if (settings.work / "data" / "heldout.jsonl").exists() else None
    budget, saved = settings.codec_minutes * 60, time.monotonic()
    if clock.seconds() < budget:
        for name in ("decoder.pt", "decoder.validation.json"):
            (folder / name).unlink(missing_ok=True)  # they belong to the codes of the codec as it was
    if step == 0:
        start(codec, quantiser, audio, available, settings, rng)
    codec.train()
    while clock.seconds() < budget:
        rate = settings.codec_rate * warm_hold_decay(step, clock.seconds() / budget)
        for group in optimizer.param_groups:
            group["lr"] = rate
        wanted = crops(audio, available, settings, rng).to(settings.device)
        passed, commitment, perplexities = quantiser(codec.encoder(wanted), update=True)
        parts = losses(codec.decoder(passed)[:, 0], wanted[:, 0])
        loss = total_loss(parts) + 0.1 * commitment
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        step += 1
        log.add(step, loss=loss, commitment=commitment, norm=norm, **parts)
        if step % 50 == 0:
            log.write(step, clock.seconds(), rate=rate, perplexities=[round(p) for p in perplexities])
        if time.monotonic() - saved > SAVE_SECONDS or clock.seconds() >= budget:
            save_state(folder / "state.pt", step, clock.seconds(), model=codec, optimizer=optimizer, rng=rng)
            saved = time.monotonic()
            if held is not None:
                write_json(folder / "validation.json", {"step": step, **validate(codec, held, losses, settings)})
    if clock.seconds() > state["seconds"]:
        save_state(folder / "state.pt", step, clock.seconds(), model=codec, optimizer=optimizer, rng=rng)


@torch.no_grad()
def validate(codec: EncodecModel, held: np.ndarray, losses: SpectralLoss, settings: Settings) -> dict[str, float]:
    """Losses on two-second pieces of 12 held-out clips, through the real quantiser."""
    codec.eval()
    rows = np.linspace(0, len(held) - 1, 12).astype(int)
    wanted = torch.from_numpy(held[rows, 32000:96000].astype(np.float32) / 32768)[:, None].to(settings.device)
    codes = codec.quantizer.encode(codec.encoder(wanted))
    parts = losses(codec.decoder(codec.quantizer.decode(codes))[:, 0], wanted[:, 0])
    codec.train()
    return {name: round(float(value), 4) for name, value in parts.items()}
