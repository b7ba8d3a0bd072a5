"""What sounds in every frame of a clip, as it was composed: the language model learns to hear it, beside predicting codes."""

from __future__ import annotations

import numpy as np

from .compose import DRUM_CHANNEL, FRAME_RATE, HIGHEST, LOWEST, OCTAVE_BELOW, Piece
from .render import piece_of, plan
from .settings import Settings

ROWS = 2
PITCHES = HIGHEST - LOWEST + 2  # of the lead, and none
CLASSES = 12  # of pitch, in all parts


def sounding(piece: Piece, frames: int) -> np.ndarray:
    """uint16 [ROWS, frames]: the lead's written pitch counted from 1, 0 where it rests; the classes of all pitches but drums', as bits."""
    rows = np.zeros((ROWS, frames), np.uint16)
    written = 12 if piece.labels["instrument"] in OCTAVE_BELOW else 0
    for note in piece.notes:
        span = slice(round(note.start * FRAME_RATE), round((note.start + note.length) * FRAME_RATE))
        if note.channel == 0:
            rows[0, span] = note.pitch + written - LOWEST + 1
        if note.channel != DRUM_CHANNEL:
            rows[1, span] |= np.uint16(1 << note.pitch % CLASSES)
    return rows


def all_sounding(split: str, settings: Settings) -> np.ndarray:
    """uint16 [clips, ROWS, F] of a split's clips; a millisecond a clip."""
    return np.stack([sounding(piece_of(clip, settings.seconds, grid=True), settings.frames) for clip in plan(split, settings)])
