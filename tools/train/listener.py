"""The part of the codec's encoder that hears what is played, and the first codebook that says it: the lead's notes, and the band's chords.

What is copied a bar later must not be tied to a sound: where one code stands for a note by one instrument, a melody that is handed over
to another one has to be translated note by note, which a small language model gets wrong for every other note. Codecs for speech have put
what is said before how it sounds for the like reason (Zhang et al. 2023, SpeechTokenizer; Défossez et al. 2024, Moshi). Here the encoder's
LSTM, which the linear transform leaves idle, is trained by what was composed (`listen.py`); it writes to latents of its own, and the first
codebook has entries there alone. The other codebooks are nought there and are those of the linear transform.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .notes import CHORDS, ENTRIES, LEADS
from .start import BINS, ENCODER_LEVEL, HOP, NOTE_WIDTH, write_convolution

EDGE = 4  # frames at either end that the encoder itself transforms
LEAD_WIDTH = 22  # latents that tell the lead; the rest of NOTE_WIDTH tells the chord
TAPS = 7  # of the encoder's last convolution
APART = 4.0  # the first codebook's entries that stand for nothing lie that much further out than those that stand for a note


@torch.no_grad()
def coefficients(encoder: nn.Module, audio: np.ndarray, edges: bool = True) -> Tensor:
    """What the encoder's convolutions but the last make of audio [N] in -1 to 1: [F, BINS], up to the rounding of float32. They only
    cut it into blocks that the last strided one transforms, which a single product does twenty times as fast; but for the edges, which
    each of them pads by reflection, and which are only roughly right without `edges`."""
    kernel = encoder.layers[12].conv.weight.detach()[:BINS, :80].permute(0, 2, 1).reshape(BINS, 2 * HOP)
    around = np.pad(audio, (HOP // 2, 2 * HOP - HOP // 2), mode="reflect")
    rest = encoder.layers[12].conv.bias[:BINS] + kernel.sum(1) * encoder.layers[0].conv.bias[0]  # of the shift, which float16 doesn't quite take out
    found = torch.from_numpy(around).float().unfold(0, 2 * HOP, HOP)[: len(audio) // HOP] @ kernel.T + rest
    if edges:
        ends = ((slice(None, 2 * EDGE * HOP), slice(None, EDGE)), (slice(-2 * EDGE * HOP, None), slice(-EDGE, None)))
        for part, frames in ends:
            edge = through(encoder.layers[:13], torch.from_numpy(audio[part])[None, None])[0, :BINS].T  # [2 * EDGE, BINS]
            found[frames] = edge[frames]
    return found


@torch.no_grad()
def latents(encoder: nn.Module, audio: np.ndarray) -> Tensor:
    """The encoder's output [1, D, F] for audio [N], by `coefficients`."""
    heard = coefficients(encoder, audio).T[None]  # [1, BINS, F]
    spare = encoder.layers[13].lstm.hidden_size - BINS
    return through(encoder.layers[13:], F.pad(heard, (0, 0, 0, spare)))


def through(layers: nn.ModuleList, state: Tensor) -> Tensor:
    """EnCodec keeps its layers in a list, which can't be called."""
    for layer in layers:
        state = layer(state)
    return state


class Listener(nn.Module):
    """The parts of the encoder that hear: an LSTM whose upper layer fills the channels that the transform leaves free, the last
    convolution's share for the notes, and the entries that it is to come near to."""

    def __init__(self, width: int):
        super().__init__()
        self.lower, self.upper = nn.LSTM(BINS, width, batch_first=True), nn.LSTM(width, width - BINS, batch_first=True)
        self.last = nn.Conv1d(width - BINS, NOTE_WIDTH, TAPS)
        self.leads, self.chords = nn.Parameter(torch.randn(LEADS, LEAD_WIDTH)), nn.Parameter(torch.randn(CHORDS, NOTE_WIDTH - LEAD_WIDTH))

    def forward(self, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, F, LEADS] and [B, F, CHORDS] from coefficients [B, F, BINS]: the nearest vector has the largest."""
        spare = self.upper(self.lower(heard / ENCODER_LEVEL)[0])[0].transpose(1, 2)  # [B, width - BINS, F]
        spare = F.pad(F.elu(spare), (TAPS // 2, TAPS // 2), mode="reflect")
        lead, chord = self.last(spare).transpose(1, 2).split((LEAD_WIDTH, NOTE_WIDTH - LEAD_WIDTH), -1)  # [B, F, each width]
        return tuple(2 * part @ vectors.T - vectors.square().sum(1) for part, vectors in ((lead, self.leads), (chord, self.chords)))

    def entries(self) -> Tensor:
        """The first codebook's entries that stand for something [ENTRIES, NOTE_WIDTH]: a vector of every lead beside one of every chord."""
        return torch.cat([self.leads.repeat(CHORDS, 1), self.chords.repeat_interleave(LEADS, 0)], 1)


@torch.no_grad()
def install(listener: Listener, codec: nn.Module) -> None:
    """Writes the listener into the codec, in numbers that float16 holds. Units of the upper layer that the transform's channels would
    hear stay nought."""
    layers, width = codec.encoder.layers, codec.encoder.layers[13].lstm.hidden_size
    lstm = layers[13].lstm
    for parameter in lstm.parameters():
        parameter.zero_()
    gates = torch.cat([gate * width + torch.arange(BINS, width) for gate in range(4)])
    lstm.weight_ih_l0[:, :BINS] = listener.lower.weight_ih_l0 / ENCODER_LEVEL
    lstm.weight_hh_l0.copy_(listener.lower.weight_hh_l0)
    lstm.bias_ih_l0.copy_(listener.lower.bias_ih_l0 + listener.lower.bias_hh_l0)
    lstm.weight_ih_l1[gates] = listener.upper.weight_ih_l0
    rows = lstm.weight_hh_l1.new_zeros(len(gates), width)
    rows[:, BINS:] = listener.upper.weight_hh_l0
    lstm.weight_hh_l1[gates] = rows
    lstm.bias_ih_l1[gates] = listener.upper.bias_ih_l0 + listener.upper.bias_hh_l0
    weight = layers[15].conv.weight.new_zeros(NOTE_WIDTH, width, TAPS)
    weight[:, BINS:] = listener.last.weight
    write_convolution(layers[15], weight, listener.last.bias, slice(-NOTE_WIDTH, None))
    for parameter in [*lstm.parameters(), *layers[15].parameters()]:
        parameter.copy_(parameter.half())
    first = codec.quantizer.layers[0].codebook.embed
    first.zero_()
    entries = listener.entries().half().float()
    first[:ENTRIES, -NOTE_WIDTH:] = entries
    # All others are one vector that is never the nearest: no clip has their codes, and training makes the language model not say them.
    first[ENTRIES:, -NOTE_WIDTH:] = (APART * entries.norm(dim=1).max() * NOTE_WIDTH**-0.5).half().float()
