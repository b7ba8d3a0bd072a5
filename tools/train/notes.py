"""What is played in every frame of a clip, as it was composed: what the first codebook is to say."""

from __future__ import annotations

import numpy as np

from .compose import FRAME_RATE, HIGHEST, INSTRUMENTS, LOWEST, ROLLED
from .render import piece_of, plan
from .settings import Settings

PITCHES = HIGHEST - LOWEST + 1
LEADS = 1 + 2 * PITCHES  # a rest, every pitch held, every pitch struck
CHORDS = 1 + 12  # none, every root
ENTRIES = LEADS * CHORDS  # the lead counts fastest
ATTACK = 3  # frames at the beginning of a note in which it counts as struck


def played(clip: dict, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Lead and chord, each int64 [F], for one clip of a plan. The lead is 0 where it rests, 1 to PITCHES for the written pitch that it holds,
    PITCHES more where it has just struck it; the chord is 0 where no band plays, else its root's pitch class from 1 on. Both are the same
    for all instruments and bands: as those play that hold their notes, not as others roll them; and written, not an octave below."""
    held = next(name for name in INSTRUMENTS if name not in ROLLED)
    piece = piece_of({**clip, "instrument": held}, settings.seconds, grid=True)
    lead, chord = np.zeros((2, settings.frames), np.int64)
    for note in piece.notes:
        if note.channel == 0:
            begin, end = round(note.start * FRAME_RATE), round((note.start + note.length) * FRAME_RATE)
            lead[begin:end] = note.pitch - LOWEST + 1
            lead[begin : min(begin + ATTACK, end)] += PITCHES
    for start, length, root in piece.chords:
        chord[round(start * FRAME_RATE) : round((start + length) * FRAME_RATE)] = root + 1
    return lead, chord


def all_played(split: str, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Leads and chords, each int64 [clips, F], of a split's clips; a millisecond a clip."""
    leads, chords = zip(*(played(clip, settings) for clip in plan(split, settings)))
    return np.stack(leads), np.stack(chords)
