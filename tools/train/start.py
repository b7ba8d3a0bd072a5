"""Sets EnCodec's weights to a linear transform codec: the encoder stays one, the decoder is trained from there.

From random weights a convolutional codec first spends thousands of steps on a plateau where it makes noise of the right loudness,
longer than a CPU can wait. Here the strided convolutions split the waveform into blocks of 4, 16 and 80 samples, the last one takes
a modified discrete cosine transform of them (Princen & Bradley 1987: 1280-sample sine window, hop 640), and the projection to the
latents takes the principal components of its lowest bins; the decoder is the transpose. A bias keeps the samples on the linear side
of ELU; coefficients are kept so small that ELU is straight there.

In the encoder all else is nought (its LSTM is taught to hear notes by `listen.py`) and every weight a float16 number, so that the exported file makes the very codes that the language
model was trained on. In the decoder the channels left over, the residual units and the LSTM keep a small random start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

HOP = 640
BINS = 240  # 6 kHz
NOTE_WIDTH = 32  # latents, the last ones, that are left to the notes (`listen.py`)
SHIFT = 0.7  # of the samples inside the networks: keeps them positive
ENCODER_LEVEL, DECODER_LEVEL = 0.02, 0.1  # the standard deviation that each bin has inside
TREBLE = 0.25  # bins count as their frequency to this power beyond their energy, as the ear counts them


def mdct_basis() -> np.ndarray:
    """The lowest bins' windowed cosines [BINS, 1280], orthonormal over overlapping frames."""
    n, k = np.arange(2 * HOP), np.arange(BINS)[:, None]
    window = np.sin(np.pi * (n + 0.5) / (2 * HOP))
    return np.sqrt(2 / HOP) * window * np.cos(np.pi / HOP * (n + 0.5 + HOP / 2) * (k + 0.5))


def principal_components(audio: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each bin's standard deviation [BINS] for audio in -1 to 1 [clips, N], and directions [count, BINS] with their inverse
    [BINS, count] for bins divided by it. The directions keep the bins' energies: the first ones are the largest."""
    basis = mdct_basis()
    frames = []
    for clip in audio:
        starts = rng.integers(0, len(clip) - 2 * HOP, 64)
        frames.append(np.stack([clip[s : s + 2 * HOP] for s in starts]) @ basis.T)
    stacked = np.concatenate(frames)
    deviation = stacked.std(0) + 1e-6
    weight = deviation * (np.arange(BINS) + 4.0) ** TREBLE
    weighted = stacked / deviation * weight
    values, vectors = np.linalg.eigh(weighted.T @ weighted / len(weighted))
    top = vectors[:, ::-1][:, :count].T
    scale = 1 / np.sqrt(values[::-1][:count].mean())
    return deviation, scale * top * weight, (top / weight / scale).T


def write_convolution(layer, weight: Tensor, bias: Tensor, rows: slice = slice(None)) -> None:
    """Sets a weight-normalised convolution, or some rows of it: direction, its norm over all dimensions but the first, and the bias."""
    parameters = layer.conv.parametrizations.weight
    norm = weight.flatten(1).norm(dim=1)[:, None, None]
    # A direction must not be nought, its length may.
    parameters.original1[rows] = torch.where(norm > 0, weight, torch.ones_like(weight))
    parameters.original0[rows] = norm
    layer.conv.bias[rows] = bias


@torch.no_grad()
def start_linear(codec, audio: np.ndarray, rng: np.random.Generator) -> None:
    """Overwrites the codec's weights; `audio` [clips, N] in -1 to 1 is what the principal components are taken from."""
    latent = codec.config.hidden_size - NOTE_WIDTH
    deviation, down, up = (torch.from_numpy(a).float() for a in principal_components(audio, latent, rng))
    basis = torch.from_numpy(mdct_basis()).float().reshape(BINS, 16, 80).permute(0, 2, 1)  # [bins, sample in block, block]

    def blank(layer) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(layer.conv.weight), torch.zeros_like(layer.conv.bias)

    layers = codec.encoder.layers
    for layer in layers:
        if hasattr(layer, "block"):
            write_convolution(layer.block[3], *blank(layer.block[3]))
        if hasattr(layer, "lstm"):
            for parameter in layer.lstm.parameters():
                parameter.zero_()
    weight, bias = blank(layers[0])
    weight[0, 0, 3], bias[0] = 1, SHIFT
    write_convolution(layers[0], weight, bias)
    # (layer, block size before, block size after, taps before the block): later stages read the same samples.
    for index, before, ratio, lead in ((3, 1, 4, 2), (6, 4, 4, 2), (9, 16, 5, 3)):
        weight, bias = blank(layers[index])
        for tap in range(ratio):
            for sample in range(before):
                weight[tap * before + sample, sample, lead + tap] = 1
        write_convolution(layers[index], weight, bias)  # samples keep their shift
    weight, bias = blank(layers[12])
    weight[:BINS, :80] = basis * (ENCODER_LEVEL / deviation)[:, None, None]
    write_convolution(layers[12], weight, bias)
    for parameter in codec.encoder.parameters():
        parameter.copy_(parameter.half())
    # The bias that takes the shift out again: of the rounded weights.
    layers[12].conv.bias[:BINS] = -layers[12].conv.weight[:BINS].double().sum((1, 2)).float() * float(layers[0].conv.bias[0])
    layers[12].conv.bias.copy_(layers[12].conv.bias.half())
    weight, bias = blank(layers[15])
    weight[:latent, :BINS, 3] = down / ENCODER_LEVEL
    write_convolution(layers[15], weight, bias)
    for parameter in layers[15].parameters():
        parameter.copy_(parameter.half())

    layers = codec.decoder.layers
    for layer in layers:
        if hasattr(layer, "block"):
            write_convolution(layer.block[3], layer.block[3].conv.weight.detach() * 0.05, torch.zeros_like(layer.block[3].conv.bias))
        if hasattr(layer, "lstm"):
            for name, parameter in layer.lstm.named_parameters():
                parameter.mul_(0.0 if "bias" in name else 0.1 if name.endswith("l1") else 0.5)

    def current(layer) -> tuple[Tensor, Tensor]:
        return layer.conv.weight.detach().clone() * 0.5, torch.zeros_like(layer.conv.bias)

    weight, bias = current(layers[0])
    weight[:BINS] *= 0.02
    weight[:BINS, :latent, 3] = up * DECODER_LEVEL
    write_convolution(layers[0], weight, bias)
    # A transposed convolution's weight is [in, out, tap].
    weight, bias = current(layers[3])
    weight[:, :80] *= 0.05
    weight[:BINS, :80] = basis * (deviation / DECODER_LEVEL)[:, None, None]
    bias[:80] = SHIFT
    write_convolution(layers[3], weight, bias)
    for index, after, ratio, lead in ((6, 16, 5, 3), (9, 4, 4, 2), (12, 1, 4, 2)):
        weight, bias = current(layers[index])
        before = after * ratio
        weight[:, :after] *= 0.05
        weight[:before, :after] = 0
        for tap in range(ratio):
            for sample in range(after):
                weight[tap * after + sample, sample, lead + tap] = 1
        write_convolution(layers[index], weight, bias)
    weight, bias = current(layers[15])
    weight *= 0.02
    weight[0, 0], bias[0] = 0, -SHIFT
    weight[0, 0, 3] = 1
    write_convolution(layers[15], weight, bias)
