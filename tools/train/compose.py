"""Composes short labelled pieces, deterministically from a seed.

A piece is one lead melody, alone ("solo") or over the accompaniment of a genre ("band"). The melody generator is the same
for every lead instrument and keeps to MIDI 60-83, a range all of them can play, so that one melody can be rendered by all.
A piece is a "song", whose second phrase answers the first, or a "loop", one phrase over and over. A loop's phrase takes the same
time in every piece, whatever its metre: where a model has to look to go on with the melody is then a place, which is the same for every
instrument and genre, and not something that it must first recognise by its sound.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

GENRES = ("classical", "electronic", "rock", "jazz")

# Lead instruments and their General MIDI programs (counted from 0).
INSTRUMENTS = {
    "piano": 0,
    "violin": 40,
    "trumpet": 56,
    "flute": 73,
    "xylophone": 13,
    "acoustic guitar": 24,
    "distorted guitar": 30,
    "synth lead": 81,
}

# A guitar sounds an octave below what is written. Up where the others play, nothing but its rumble tells it from a trumpet.
OCTAVE_BELOW = ("distorted guitar",)

# A xylophone's long notes are rolled, as players do: by single strokes half of its time was silence, which a model that plays it falls into
# and doesn't come out of.
ROLLED = ("xylophone",)
STROKE = 0.12  # seconds: 6 frames of the codec

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
CHORDS = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "5": (0, 7, 12),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "m7b5": (0, 3, 6, 10),
}
LOWEST, HIGHEST = 60, 83
FRAME_RATE = 50  # frames of the codec in a second
DRUM_CHANNEL = 9
PHRASE = 1.92  # seconds that a loop's phrase takes: 96 frames of the codec, which 3 and 4 beats divide
LONGEST = 0.96  # seconds that a note of a loop takes at most: none is held for so long that a codec could be thought to be stuck
KICK, SNARE, CLAP, CLOSED_HAT, PEDAL_HAT, OPEN_HAT, CRASH, RIDE = 36, 38, 39, 42, 44, 46, 49, 51


@dataclass(frozen=True)
class Note:
    """One note; `start` and `length` are in seconds."""

    start: float
    length: float
    channel: int
    pitch: int
    velocity: int


@dataclass
class Piece:
    """Notes, the chords of a band as (start and length in seconds, pitch class of the root), the program of every channel as (bank, program,
    volume), and exact labels."""

    notes: list[Note] = field(default_factory=list)
    chords: list[tuple[float, float, int]] = field(default_factory=list)
    programs: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    labels: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Style:
    """What a genre fixes about tempo, harmony and melodic rhythm."""

    tempo: tuple[int, int]
    modes: tuple[tuple[str, float], ...]
    # Chord of each bar as (semitones above the tonic, quality), by mode.
    progressions: dict[str, tuple[tuple[tuple[int, str], ...], ...]]
    # Note lengths of one 4/4 bar in beats; a negative length is a rest.
    rhythms: tuple[tuple[float, ...], ...]
    swing: bool = False
    # Beats of a loop's phrase, which is then at 94 or 125 beats a minute.
    metres: tuple[int, ...] = (4,)


_MAJOR_POP = (
    ((0, ""), (7, ""), (9, "m"), (5, "")),
    ((0, ""), (9, "m"), (5, ""), (7, "")),
    ((0, ""), (5, ""), (7, ""), (5, "")),
)
STYLES = {
    "classical": Style(
        tempo=(66, 126),
        modes=(("major", 0.6), ("minor", 0.4)),
        progressions={
            "major": (
                ((0, ""), (5, ""), (7, "7"), (0, "")),
                ((0, ""), (9, "m"), (2, "m"), (7, "7")),
                ((0, ""), (7, ""), (0, ""), (7, "7")),
                ((0, ""), (2, "m"), (7, "7"), (0, "")),
            ),
            "minor": (
                ((0, "m"), (5, "m"), (7, "7"), (0, "m")),
                ((0, "m"), (8, ""), (5, "m"), (7, "7")),
                ((0, "m"), (7, "7"), (0, "m"), (7, "7")),
            ),
        },
        rhythms=(
            (1, 1, 1, 1),
            (2, 1, 1),
            (1, 0.5, 0.5, 1, 1),
            (1.5, 0.5, 1, 1),
            (0.5, 0.5, 0.5, 0.5, 1, 1),
            (2, 2),
            (1, 1, 0.5, 0.5, 0.5, 0.5),
            (3, 1),
        ),
        metres=(3, 4),
    ),
    "electronic": Style(
        tempo=(116, 140),
        modes=(("minor", 0.75), ("major", 0.25)),
        progressions={
            "minor": (
                ((0, "m"), (8, ""), (3, ""), (10, "")),
                ((0, "m"), (0, "m"), (8, ""), (10, "")),
                ((0, "m"), (5, "m"), (8, ""), (10, "")),
            ),
            "major": (((9, "m"), (5, ""), (0, ""), (7, "")), ((0, ""), (9, "m"), (5, ""), (7, ""))),
        },
        rhythms=(
            (0.75, 0.75, 0.5, 0.75, 0.75, 0.5),
            (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
            (0.5, 0.25, 0.25, 0.5, 0.5, 0.5, 0.25, 0.25, 1),
            (1.5, 1.5, 1),
            (-0.5, 0.5, -0.5, 0.5, -0.5, 0.5, 0.5, 0.5),
            (0.25, 0.25, 0.5, 0.25, 0.25, 0.5, 0.25, 0.25, 0.5, 0.5, 0.5),
        ),
    ),
    "rock": Style(
        tempo=(100, 152),
        modes=(("mixolydian", 0.35), ("major", 0.3), ("minor", 0.35)),
        progressions={
            "mixolydian": (
                ((0, ""), (10, ""), (5, ""), (0, "")),
                ((0, ""), (0, ""), (10, ""), (5, "")),
                ((0, ""), (5, ""), (10, ""), (0, "")),
            ),
            "major": _MAJOR_POP,
            "minor": (
                ((0, "m"), (10, ""), (8, ""), (10, "")),
                ((0, "m"), (3, ""), (10, ""), (5, "")),
                ((0, "m"), (8, ""), (10, ""), (0, "m")),
            ),
        },
        rhythms=(
            (1, 0.5, 0.5, 1, 1),
            (0.5, 0.5, 0.5, 0.5, 1, 1),
            (1.5, 0.5, 1.5, 0.5),
            (2, 0.5, 0.5, 1),
            (0.5, 0.5, 1, 0.5, 0.5, 1),
            (1, 1, 2),
            (0.5, 1, 0.5, 0.5, 1, 0.5),
        ),
    ),
    "jazz": Style(
        tempo=(96, 184),
        modes=(("major", 0.5), ("dorian", 0.3), ("mixolydian", 0.2)),
        progressions={
            "major": (
                ((2, "m7"), (7, "7"), (0, "maj7"), (0, "maj7")),
                ((0, "maj7"), (9, "m7"), (2, "m7"), (7, "7")),
                ((0, "maj7"), (9, "7"), (2, "m7"), (7, "7")),
            ),
            "dorian": (
                ((2, "m7b5"), (7, "7"), (0, "m7"), (0, "m7")),
                ((0, "m7"), (5, "7"), (0, "m7"), (7, "7")),
            ),
            "mixolydian": (((0, "7"), (5, "7"), (0, "7"), (7, "7")), ((0, "7"), (5, "7"), (0, "7"), (0, "7"))),
        },
        rhythms=(
            (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
            (1, 0.5, 0.5, 0.5, 0.5, 1),
            (1.5, 0.5, 1, 1),
            (-0.5, 0.5, 0.5, 0.5, 1, -1),
            (0.5, 1, 0.5, 0.5, 0.5, 1),
            (-1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
            (0.5, 0.5, 1.5, 0.5, -1),
        ),
        swing=True,
    ),
}


class Writer:
    """Collects notes given in beats and turns them into seconds, with swing; with a human touch, or on the grid of codec frames.

    On the grid every note begins with a frame and at its written loudness, so that the same note by the same instrument is the
    same sequence of frames whenever it is played: far less for a small codec, and a small language model, to learn.
    """

    def __init__(self, rng: np.random.Generator, beat: float, swing: bool, seconds: float, grid: bool):
        self.rng, self.swing, self.seconds, self.grid = rng, swing, seconds, grid
        # A beat on the grid is whole frames: a phrase that comes again is the same frames.
        self.beat = round(beat * FRAME_RATE) / FRAME_RATE if grid else beat
        self.piece = Piece()

    def program(self, channel: int, program: int, volume: int, bank: int = 0) -> None:
        self.piece.programs[channel] = (bank, program, volume)

    def when(self, beats: float) -> float:
        whole, part = divmod(beats, 1.0)
        if self.swing and abs(part - 0.5) < 1e-6:
            part = 2 / 3
        return (whole + part) * self.beat

    def note(self, channel: int, start: float, length: float, pitch: int, velocity: int) -> None:
        begin, end = self.when(start), self.when(start + length)
        if self.grid:
            begin, end, loudness = round(begin * FRAME_RATE) / FRAME_RATE, round(end * FRAME_RATE) / FRAME_RATE, velocity
        else:
            begin += 0 if start == 0 else self.rng.uniform(0, 0.008)
            loudness = int(np.clip(velocity + self.rng.integers(-6, 7), 1, 127))
        if begin < self.seconds - 0.05:
            self.piece.notes.append(Note(begin, max(end - begin, 0.06 if self.grid else 0.05), channel, int(pitch), loudness))

    def roll(self, first: int) -> None:
        """Makes strokes, one every `STROKE` seconds, of the notes from number `first` on."""
        notes, self.piece.notes[first:] = self.piece.notes[first:], []
        for note in notes:
            strokes = max(1, int(note.length / STROKE + 0.5 + 1e-6))
            for number in range(strokes):
                length = STROKE if number < strokes - 1 else note.length - number * STROKE
                self.piece.notes.append(replace(note, start=note.start + number * STROKE, length=length))


def _choose(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


@dataclass(frozen=True)
class Change:
    """One chord: from which beat of the piece on and for how many, semitones above the tonic, quality."""

    start: float
    length: float
    root: int
    quality: str


def _sounding(changes: list[Change], beat: float) -> Change:
    return next(change for change in reversed(changes) if change.start <= beat)


def _fitted(rhythm: tuple[float, ...], beats: int) -> tuple[float, ...]:
    """A rhythm of 4 beats as one of another number: begun again, or cut, where it is too short or long."""
    out, left, place = [], float(beats), 0
    while left > 0:
        length = rhythm[place % len(rhythm)]
        out.append(float(np.copysign(min(abs(length), left), length)))
        left -= abs(length)
        place += 1
    return tuple(out)


def _melody(rng, rhythms, scale: list[int], tonic: int, changes: list[Change], bars: int, beats: int, center: float):
    """Notes of the lead as (beat, length, pitch): motif A, answer B, A varied, close; chord tones on the beats."""
    motif = [_choose(rng, rhythms), _choose(rng, rhythms)]
    answer = _choose(rng, rhythms)
    at = min(range(len(scale)), key=lambda i: abs(scale[i] - center))
    notes, remembered = [], {}
    for bar in range(bars):
        slot = bar % 4
        rhythm = motif[0] if slot in (0, 2) else motif[1] if slot == 1 else answer
        contour = remembered.get(id(rhythm)) if rng.random() < 0.6 else None
        moves, beat = [], 0.0
        for i, length in enumerate(rhythm):
            if length > 0:
                if contour is not None and i < len(contour):
                    move = contour[i]
                else:
                    # Small steps are the rule; a pull towards the centre keeps the line in its register.
                    pull = np.clip((center - scale[at]) / 6, -1, 1)
                    move = int(np.round(rng.normal(pull, 1.4)))
                moves.append(move)
                at = int(np.clip(at + move, 0, len(scale) - 1))
                if beat % 1 == 0 and rng.random() < 0.8:
                    chord = _sounding(changes, bar * beats + beat)
                    tones = {(tonic + chord.root + step) % 12 for step in CHORDS[chord.quality]}
                    near = [i for i in range(len(scale)) if scale[i] % 12 in tones and abs(i - at) <= 2]
                    at = min(near, key=lambda i: (abs(i - at), i)) if near else at
                notes.append((bar * beats + beat, length, scale[at]))
            else:
                moves.append(0)
            beat += abs(length)
        remembered[id(rhythm)] = moves
    return notes


def _voicing(tonic: int, chord: Change, low: int) -> list[int]:
    """Chord tones moved into the octave that begins at `low`."""
    return sorted(low + (tonic + chord.root + step - low) % 12 for step in CHORDS[chord.quality])


def _bass_pitch(tonic: int, chord: Change, low: int = 33) -> int:
    return low + (tonic + chord.root - low) % 12


def _classical(rng, w: Writer, tonic: int, changes: list[Change], bars: int, beats: int) -> None:
    pattern = _choose(rng, ("alberti", "strings", "harp"))
    w.program(1, {"alberti": 0, "strings": 48, "harp": 46}[pattern], 72)
    w.program(2, 42, 76)
    if pattern != "strings":
        w.program(3, 48, 58)
    for chord in changes:
        start, length, voicing = chord.start, chord.length, _voicing(tonic, chord, 52)
        if pattern == "strings":
            for pitch in voicing:
                w.note(1, start, length * 0.98, pitch, 68)
        else:
            low, high, *middle = voicing[0], voicing[-1], *voicing[1:-1]
            figure = [low, high, middle[0] if middle else low, high]
            steps = figure if pattern == "alberti" else [*voicing, voicing[0] + 12, *voicing[:0:-1]]
            for i in range(int(length * 2)):
                w.note(1, start + i / 2, 0.5, steps[i % len(steps)], 62)
        if 3 in w.piece.programs:
            for pitch in voicing:
                w.note(3, start, length * 0.98, pitch, 60)
        w.note(2, start, length * 0.95, _bass_pitch(tonic, chord, 36), 72)


def _electronic(rng, w: Writer, tonic: int, changes: list[Change], bars: int, beats: int) -> None:
    w.program(1, int(_choose(rng, (89, 50))), 60)
    w.program(2, 38, 92)
    w.program(3, 80, 56)
    w.program(DRUM_CHANNEL, 25, 100, bank=128)
    arpeggio, offbeat_bass = rng.random() < 0.7, rng.random() < 0.5
    for chord in changes:
        start, voicing, bass = chord.start, _voicing(tonic, chord, 55), _bass_pitch(tonic, chord)
        for pitch in voicing:
            w.note(1, start, chord.length * 0.98, pitch, 70)
        for i in range(int(chord.length * 2)):
            if not offbeat_bass or i % 2:
                w.note(2, start + i / 2, 0.4, bass, 96)
        if arpeggio:
            for i in range(int(chord.length * 4)):
                w.note(3, start + i / 4, 0.22, voicing[i % len(voicing)] + (12 if i % 8 > 4 else 0), 62)
    for beat in range(bars * beats):
        w.note(DRUM_CHANNEL, beat, 0.25, KICK, 116)
        w.note(DRUM_CHANNEL, beat + 0.5, 0.25, OPEN_HAT, 84)
        if beat % beats % 2:
            w.note(DRUM_CHANNEL, beat, 0.25, CLAP, 92)


def _rock(rng, w: Writer, tonic: int, changes: list[Change], bars: int, beats: int) -> None:
    w.program(1, 29, 58)
    w.program(2, 33, 92)
    w.program(DRUM_CHANNEL, 0, 100, bank=128)
    chug, kicks = rng.random() < 0.6, _choose(rng, ((0, 2), (0, 1.5, 2), (0, 2, 2.5), (0, 0.5, 2)))
    cymbal = RIDE if rng.random() < 0.25 else CLOSED_HAT
    for chord in changes:
        start, low = chord.start, 40 + (tonic + chord.root - 40) % 12
        step = 0.5 if chug else min(2.0, chord.length)
        for i in range(int(chord.length / step)):
            for pitch in (low, low + 7, low + 12):
                w.note(1, start + i * step, step * (0.9 if chug else 1), pitch, 88)
        for i in range(int(chord.length * 2)):
            w.note(2, start + i / 2, 0.45, _bass_pitch(tonic, chord, 28), 96)
    for bar in range(bars):
        start = bar * beats
        for i in range(beats * 2):
            w.note(DRUM_CHANNEL, start + i / 2, 0.25, cymbal, 84 if i % 2 == 0 else 66)
        for beat in kicks:
            w.note(DRUM_CHANNEL, start + beat, 0.25, KICK, 116)
        for beat in (2,) if beats == 3 else (1, 3):
            w.note(DRUM_CHANNEL, start + beat, 0.25, SNARE, 114)
        if bar % 4 == 0 and bars > 1:
            w.note(DRUM_CHANNEL, start, 1, CRASH, 92)


def _jazz(rng, w: Writer, tonic: int, changes: list[Change], bars: int, beats: int) -> None:
    """What tells it from the others must lie below 6 kHz, where the codec hears: brass in syncopation, a bass and a snare that swing."""
    w.program(1, 61, 80)
    w.program(2, 32, 110)
    w.program(DRUM_CHANNEL, 32, 100, bank=128)
    comps = ((0.5, 1.5, 2.5), (0.5, 1.5, 3.5), (0.5, 2.5, 3.5), (1.5, 2.5, 3.5))
    for number, chord in enumerate(changes):
        low = _bass_pitch(tonic, chord)
        target = _bass_pitch(tonic, changes[(number + 1) % len(changes)])
        third = low + CHORDS[chord.quality][1]
        fifth = low + CHORDS[chord.quality][2]
        # Walk root, third, fifth, then approach the next root by a semitone.
        approach = target + (1 if fifth > target else -1)
        for step, pitch in enumerate([*(low, third, fifth)[: int(chord.length) - 1], approach]):
            w.note(2, chord.start + step, 0.6, pitch, 104)
            w.note(2, chord.start + step + 0.5, 0.3, pitch, 84)
    for bar in range(bars):
        start = bar * beats
        for beat in _choose(rng, comps):
            if beat < beats:
                for pitch in _voicing(tonic, _sounding(changes, start + beat), 53):
                    w.note(1, start + beat, 0.35, pitch, 104)
        for beat in range(beats):
            w.note(DRUM_CHANNEL, start + beat, 0.5, RIDE, 96)
            w.note(DRUM_CHANNEL, start + beat, 0.25, KICK, 72)
            w.note(DRUM_CHANNEL, start + beat + 0.5, 0.25, SNARE, 88 if beat % 2 else 70)
            if beat % 2:
                w.note(DRUM_CHANNEL, start + beat + 0.5, 0.25, RIDE, 84)
                w.note(DRUM_CHANNEL, start + beat, 0.25, PEDAL_HAT, 100)


ACCOMPANIMENTS = {"classical": _classical, "electronic": _electronic, "rock": _rock, "jazz": _jazz}


def compose(
    seed: tuple[int, ...],
    genre: str,
    instrument: str,
    kind: str,
    seconds: float,
    grid: bool = True,
    loop: bool = False,
    band: str | None = None,
) -> Piece:
    """A piece of `seconds` seconds. The same seed with another lead instrument gives the same notes (those of `ROLLED` ones as many
    strokes), with another band the same lead.

    `kind` is "solo" (the lead alone; `genre` then only flavours its rhythm and harmony) or "band". A loop's phrase is one bar of
    `PHRASE` seconds. `band` names the genre that accompanies where that isn't the melody's.
    """
    rng = np.random.default_rng(seed)
    style = STYLES[genre]
    names, weights = zip(*style.modes)
    mode = str(rng.choice(names, p=weights))
    tempo = int(rng.integers(style.tempo[0], style.tempo[1] + 1))
    tonic = int(rng.integers(12))
    center = float(rng.choice((66, 71, 76)))
    progression = _choose(rng, style.progressions[mode])
    beats = int(_choose(rng, style.metres)) if loop else 4
    w = Writer(np.random.default_rng((*seed, 1)), PHRASE / beats if loop else 60 / tempo, style.swing, seconds, grid)
    scale = [p for p in range(LOWEST, HIGHEST + 1) if (p - tonic) % 12 in SCALES[mode]]
    if loop:
        rhythms = [r for r in (_fitted(rhythm, beats) for rhythm in style.rhythms) if max(r) * w.beat <= LONGEST]
        # Two chords in a bar, one in a bar of three: such as follow each other in the progression.
        bars, first = 1, int(rng.integers(len(progression)))
        chords = [progression[(first + i) % len(progression)] for i in range(1 if beats == 3 else 2)]
    else:
        bars, rhythms = int(np.ceil(seconds / w.beat / beats)), style.rhythms
        chords = [progression[bar % len(progression)] for bar in range(bars)]
    length = bars * beats / len(chords)
    changes = [Change(i * length, length, *chord) for i, chord in enumerate(chords)]
    w.program(0, INSTRUMENTS[instrument], 112)
    octave = -12 if instrument in OCTAVE_BELOW else 0
    for beat, length, pitch in _melody(rng, rhythms, scale, tonic, changes, bars, beats, center):
        w.note(0, beat, length * 0.95, pitch + octave, 100)
    if instrument in ROLLED:
        w.roll(0)
    if kind == "band":
        w.swing = STYLES[band or genre].swing
        ACCOMPANIMENTS[band or genre](np.random.default_rng((*seed, 2)), w, tonic, changes, bars, beats)
        w.piece.chords = [(chord.start * w.beat, chord.length * w.beat, (tonic + chord.root) % 12) for chord in changes]
    if loop:
        times = range(int(np.ceil(seconds / PHRASE)))
        w.piece.chords = [(start + time * PHRASE, length, root) for time in times for start, length, root in w.piece.chords]
        w.piece.notes = [replace(note, start=note.start + time * PHRASE) for time in times for note in w.piece.notes]
    lead = [n.pitch for n in w.piece.notes if n.channel == 0]
    w.piece.labels = {
        "kind": kind,
        "form": "loop" if loop else "song",
        "genre": band or genre,
        "instrument": instrument,
        "tempo": round(60 / w.beat),
        "tonic": TONICS[tonic],
        "mode": mode,
        "lowest": min(lead),
        "highest": max(lead),
        "register": "low" if center < 70 else "high" if center > 72 else "middle",
    }
    return w.piece
