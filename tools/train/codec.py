"""EnCodec's encoder and codebooks, which are computed and not trained, and the loss that its decoder is trained with.

The encoder is a linear transform (`start.py`) beside which an LSTM hears what is played (`listener.py`). The first codebook says that, the
others are residual k-means on the transform's latents (after Zeghidour et al. 2021). The codes are therefore there within half an hour, so that
language model and decoder can be trained side by side. The loss is on multi-resolution spectra and the waveform; there is no adversary, for
want of compute.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from .listener import Listener, install
from .render import open_audio, read_labels
from .settings import Settings, write_json
from .start import NOTE_WIDTH, start_linear

QUANTISERS = 4
KMEANS_ROUNDS, KMEANS_VECTORS, JOINT_ROUNDS = 10, 60000, 6


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


@torch.no_grad()
def fit_codebooks(latents: Tensor, books: list[Tensor], generator: torch.Generator) -> list[float]:
    """Fills the codebooks [V, D] from latents [vectors, D]: k-means, one codebook after the other on what the ones before left over,
    then rounds that move every entry to the mean of what the other codebooks leave to it. Returns the error left after each."""
    residual, power, errors = latents, latents.pow(2).sum(), []
    for book in books:
        book.copy_(residual[torch.randperm(len(residual), generator=generator)[: len(book)]])
        for _ in range(KMEANS_ROUNDS):
            part = residual[torch.randperm(len(residual), generator=generator)[:KMEANS_VECTORS]]
            move_entries(book, part, nearest(part, book), generator)
        residual = residual - book[nearest(residual, book)]
        errors.append(float(residual.pow(2).sum() / power))
    for _ in range(JOINT_ROUNDS):
        residual, chosen = latents, []
        for book in books:
            chosen.append(nearest(residual, book))
            residual = residual - book[chosen[-1]]
        errors.append(float(residual.pow(2).sum() / power))
        for book, codes in zip(books, chosen):
            wanted = residual + book[codes]
            move_entries(book, wanted, codes, generator)
            residual = wanted - book[codes]
    for book in books:
        book.copy_(book.half())  # as they are exported
    return errors


def nearest(vectors: Tensor, book: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, book).argmin(1) for part in vectors.split(8192)])


def move_entries(book: Tensor, vectors: Tensor, codes: Tensor, generator: torch.Generator) -> None:
    """Every entry to the mean of its vectors; one without any to a vector drawn at random."""
    counts = torch.bincount(codes, minlength=len(book)).float()[:, None]
    means = torch.zeros_like(book).index_add_(0, codes, vectors) / counts.clamp(min=1)
    strays = vectors[torch.randint(len(vectors), (len(book),), generator=generator)]
    book.copy_(torch.where(counts > 0, means, strays))


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
    """Distance of two waveforms [B, N] over four resolutions: log-mel frame by frame, its mean, deviation and unsteadiness over time in
    each band (frames alone are matched best by a blur, and a bowed tone must not flutter), the log spectrum of the bass by itself
    (a lead alone has none, and coded noise there sounds like another instrument) and how it changes from frame to frame (a bass that
    flutters where it should be held makes a string ensemble sound like a jazz band), linear magnitude and samples relative to the wanted ones."""

    scales = ((256, 32), (512, 64), (1024, 80), (2048, 128))
    floor = 1e-3
    bass, bass_floor = slice(1, 17), 3e-4  # up to 250 Hz at the longest window
    low = 18  # bands up to some 450 Hz, at the longest window

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
        log_mel, moments, linear = (made.new_zeros(()) for _ in range(3))
        for size, _ in self.scales:
            filters = getattr(self, f"mel{size}")
            ours = self._spectrum(made, size)
            ours_log = (filters @ ours + self.floor).log()
            with torch.no_grad():
                target = self._spectrum(wanted, size)
                target_log = (filters @ target + self.floor).log()
            log_mel = log_mel + (ours_log - target_log).abs().mean()
            moments = moments + (ours_log.mean(-1) - target_log.mean(-1)).abs().mean()
            moments = moments + (ours_log.std(-1) - target_log.std(-1)).abs().mean()
            moments = moments + (ours_log.diff(dim=-1).abs().mean(-1) - target_log.diff(dim=-1).abs().mean(-1)).abs().mean()
            linear = linear + (ours - target).abs().sum() / target.sum()
        error = (ours[:, self.bass] + self.bass_floor).log() - (target[:, self.bass] + self.bass_floor).log()  # of the longest window
        flutter = (ours_log[:, : self.low] - target_log[:, : self.low]).diff(dim=-1).abs().mean()
        wave = (made - wanted).abs().sum() / wanted.abs().sum().clamp(min=1e-6)
        count = len(self.scales)
        return {"mel": log_mel / count, "moments": moments / count, "bass": error.abs().mean(), "flutter": flutter, "linear": linear / count, "wave": wave}


def total_loss(parts: dict[str, Tensor]) -> Tensor:
    return parts["mel"] + 0.5 * parts["moments"] + 0.15 * parts["bass"] + 0.3 * parts["flutter"] + 0.3 * parts["linear"] + 0.1 * parts["wave"]


def load_codec(settings: Settings) -> EncodecModel:
    """The codec as it is so far, in evaluation mode: with the trained decoder, where that one measures better than the linear one."""
    folder = settings.work / "codec"
    codec = EncodecModel(codec_config(settings))
    codec.load_state_dict(torch.load(folder / "start.pt", map_location="cpu", weights_only=False))
    if (folder / "listener.pt").exists():
        listener = Listener(codec.encoder.layers[13].lstm.hidden_size)
        listener.load_state_dict(torch.load(folder / "listener.pt", map_location="cpu", weights_only=False)["model"])
        install(listener, codec)
    if measured(folder / "decoder.validation.json") < measured(folder / "validation.json"):
        codec.decoder.load_state_dict(load_decoder(folder))
    return codec.eval()


def load_decoder(folder: Path) -> dict[str, Tensor]:
    """The trained decoder's weights: their average over steps."""
    return torch.load(folder / "decoder.pt", map_location="cpu", weights_only=False)["average"]


def measured(path: Path) -> float:
    """The total loss that a validation file holds; infinite if there is none."""
    return float(total_loss(json.loads(path.read_text()))) if path.exists() else float("inf")


def part_of_checkpoint(folder: str, part: str) -> dict[str, Tensor]:
    """The weights of one network of an exported checkpoint, in float32."""
    stored = load_file(Path(folder) / "model.safetensors")
    return {name.removeprefix(f"{part}."): value.float() for name, value in stored.items() if name.startswith(f"{part}.")}


@torch.no_grad()
def run(settings: Settings) -> None:
    """Sets encoder, codebooks and the decoder's start, once. The decoder is trained by `decoder.py`."""
    folder = settings.work / "codec"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "start.pt").exists():
        return
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    rng, generator = np.random.default_rng((settings.seed, 11)), torch.Generator().manual_seed(settings.seed)
    codec = EncodecModel(codec_config(settings)).eval()
    losses = SpectralLoss(settings.sample_rate)
    if settings.start_from:
        codec.load_state_dict(part_of_checkpoint(settings.start_from, "audio_encoder"), strict=False)
        torch.save(codec.state_dict(), folder / "start.pt")
        write_json(folder / "validation.json", validate(codec, open_audio("heldout", settings), losses, settings))
        return
    audio = open_audio("train", settings)
    rows = np.sort(rng.choice(len(read_labels("train", settings)), min(settings.codec_clips, len(audio)), replace=False))
    start_linear(codec, audio[rows].astype(np.float32) / 32768, rng)
    latents = [codec.encoder(torch.from_numpy(audio[row].astype(np.float32) / 32768)[None, None])[0].T for row in rows]
    # The first codebook says what is played (`listener.py`), the others know nothing of it.
    books = [layer.codebook.embed for layer in codec.quantizer.layers]
    for book in books:
        book.zero_()
    errors = fit_codebooks(torch.cat(latents)[:, :-NOTE_WIDTH], [book[:, :-NOTE_WIDTH] for book in books[1:]], generator)
    torch.save(codec.state_dict(), folder / "start.pt")
    report = {**validate(codec, open_audio("heldout", settings), losses, settings), "errors": [round(error, 4) for error in errors]}
    write_json(folder / "validation.json", report)
    print(report, flush=True)


@torch.no_grad()
def validate(codec: EncodecModel, held: np.ndarray, losses: SpectralLoss, settings: Settings) -> dict[str, float]:
    """Losses on two-second pieces of 24 held-out clips, through the real quantiser."""
    codec.eval()
    rows = np.linspace(0, len(held) - 1, 24).astype(int)
    wanted = torch.from_numpy(held[rows, 32000:96000].astype(np.float32) / 32768)[:, None].to(settings.device)
    codes = codec.quantizer.encode(codec.encoder(wanted))
    parts = losses(codec.decoder(codec.quantizer.decode(codes))[:, 0], wanted[:, 0])
    codec.train()
    return {name: round(float(value), 4) for name, value in parts.items()}
