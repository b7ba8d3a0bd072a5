"""Starts EnCodec's weights as a linear transform codec, so that training begins with pitch in place.

From random weights a convolutional codec first spends thousands of steps on a plateau where it makes noise of the right loudness.
Here the strided convolutions are set to split the waveform into blocks of 4, 16 and 80 samples, the last one to a modified
discrete cosine transform (Princen & Bradley 1987: 1280-sample sine window, hop 640), and the projection to the latents to the
principal components of its lowest bins; the decoder is the transpose. A bias keeps the samples on the linear side of ELU, and
the cosine coefficients pass it in pairs of opposite sign (ELU(x) - ELU(-x) is odd, and 2x where x is small). All other channels,
the residual units and the LSTMs keep their (scaled-down) random start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

HOP = 640
BINS = 96
GAIN, SHIFT = 2.0, 0.3  # of the samples inside the network: 0.1 RMS becomes 0.2, and 0.3 keeps most of it positive
COEFFICIENT_LEVEL = 0.2  # the standard deviation that each bin has inside the network


def mdct_basis() -> np.ndarray:
    """The lowest bins' windowed cosines [BINS, 1280], orthonormal over overlapping frames."""
    n, k = np.arange(2 * HOP), np.arange(BINS)[:, None]
    window = np.sin(np.pi * (n + 0.5) / (2 * HOP))
    return np.sqrt(2 / HOP) * window * np.cos(np.pi / HOP * (n + 0.5 + HOP / 2) * (k + 0.5))


def principal_components(audio: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each bin's standard deviation [BINS] for audio in -1 to 1 [clips, N], and directions [count, BINS] with their inverse
    [BINS, count] for bins divided by it. High bins count for more than their power, as they do to the ear."""
    basis = mdct_basis()
    frames = []
    for clip in audio:
        starts = rng.integers(0, len(clip) - 2 * HOP, 64)
        frames.append(np.stack([clip[s : s + 2 * HOP] for s in starts]) @ basis.T)
    stacked = np.concatenate(frames)
    deviation = stacked.std(0) + 1e-6
    weight = deviation * np.sqrt(np.arange(BINS) + 4.0)
    weighted = stacked / deviation * weight
    values, vectors = np.linalg.eigh(weighted.T @ weighted / len(weighted))
    top = vectors[:, ::-1][:, :count].T
    scale = 1 / np.sqrt(values[::-1][:count].mean())
    return deviation, scale * top * weight, (top / weight / scale).T


def _write(layer, weight: Tensor, bias: Tensor) -> None:
    """Sets a weight-normalised convolution: direction, its norm over all dimensions but the first, and the bias."""
    parameters = layer.conv.parametrizations.weight
    parameters.original1.copy_(weight)
    parameters.original0.copy_(weight.flatten(1).norm(dim=1)[:, None, None])
    layer.conv.bias.copy_(bias)


@torch.no_grad()
def start_linear(codec, audio: np.ndarray, rng: np.random.Generator) -> None:
    """Overwrites the codec's weights; `audio` [clips, N] in -1 to 1 is what the principal components are taken from."""
    latent = codec.config.hidden_size
    kept = min(64, latent * 2 // 3, BINS)
    deviation, down, up = (torch.from_numpy(a).float() for a in principal_components(audio, kept, rng))
    level = (COEFFICIENT_LEVEL / deviation)[:, None, None]
    basis = torch.from_numpy(mdct_basis()).float().reshape(BINS, 16, 80).permute(0, 2, 1)  # [bins, sample in block, block]

    def current(layer) -> tuple[Tensor, Tensor]:
        return layer.conv.weight.detach().clone() * 0.5, torch.zeros_like(layer.conv.bias)

    # Residual units begin close to the identity, LSTMs close to nothing.
    for half in (codec.encoder, codec.decoder):
        for layer in half.layers:
            if hasattr(layer, "block"):
                weight, bias = current(layer.block[3])
                _write(layer.block[3], weight * 0.1, bias)
            if hasattr(layer, "lstm"):
                for name, parameter in layer.lstm.named_parameters():
                    parameter.mul_(0.0 if "bias" in name else 0.1 if name.endswith("l1") else 0.5)

    layers = codec.encoder.layers
    weight, bias = current(layers[0])
    weight *= GAIN
    weight[0], bias[:] = 0, 0.5
    weight[0, 0, 3], bias[0] = GAIN, SHIFT
    _write(layers[0], weight, bias)
    # (layer, block size before, block size after, taps before the block): later stages read the same samples.
    for index, before, ratio, lead in ((3, 1, 4, 2), (6, 4, 4, 2), (9, 16, 5, 3)):
        weight, bias = current(layers[index])
        after = before * ratio
        weight[:after], bias[:after] = 0, 0
        for tap in range(ratio):
            for sample in range(before):
                weight[tap * before + sample, sample, lead + tap] = 1
        _write(layers[index], weight, bias)  # samples keep their shift
    weight, bias = current(layers[12])
    weight[:BINS] = 0
    weight[:BINS, :80] = basis * level / GAIN
    weight[BINS : 2 * BINS] = -weight[:BINS]
    bias[: 2 * BINS] = -weight[: 2 * BINS].sum((1, 2)) * SHIFT
    _write(layers[12], weight, bias)
    weight, bias = current(layers[15])
    weight *= 10  # the free latents: of a size that the quantiser sees
    weight[:kept] = 0
    weight[:kept, :BINS, 3] = down / (2 * COEFFICIENT_LEVEL)
    weight[:kept, BINS : 2 * BINS, 3] = -weight[:kept, :BINS, 3]
    _write(layers[15], weight, bias)

    layers = codec.decoder.layers
    weight, bias = current(layers[0])
    weight[: 2 * BINS] *= 0.02
    weight[: 2 * BINS, :kept] = 0
    weight[:BINS, :kept, 3] = up * COEFFICIENT_LEVEL
    weight[BINS : 2 * BINS, :kept, 3] = -weight[:BINS, :kept, 3]
    _write(layers[0], weight, bias)
    # A transposed convolution's weight is [in, out, tap].
    weight, bias = current(layers[3])
    weight[:, :80] *= 0.05
    weight[:BINS, :80] = basis * GAIN / level / 2
    weight[BINS : 2 * BINS, :80] = -weight[:BINS, :80]
    bias[:80] = SHIFT
    _write(layers[3], weight, bias)
    for index, after, ratio, lead in ((6, 16, 5, 3), (9, 4, 4, 2), (12, 1, 4, 2)):
        weight, bias = current(layers[index])
        before = after * ratio
        weight[:, :after] *= 0.05
        weight[:before, :after] = 0
        for tap in range(ratio):
            for sample in range(after):
                weight[tap * after + sample, sample, lead + tap] = 1
        _write(layers[index], weight, bias)
    weight, bias = current(layers[15])
    weight *= 0.02
    weight[0, 0], bias[0] = 0, -SHIFT / GAIN
    weight[0, 0, 3] = 1 / GAIN
    _write(layers[15], weight, bias)
