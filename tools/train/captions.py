"""Captions in varied words for a clip whose exact labels are known."""

from __future__ import annotations

import numpy as np

INSTRUMENT_WORDS = {
    "piano": ("piano", "piano", "grand piano", "acoustic piano"),
    "violin": ("violin", "violin", "violin", "fiddle"),
    "trumpet": ("trumpet", "trumpet", "trumpet", "brass trumpet"),
    "flute": ("flute", "flute", "flute", "concert flute"),
    "xylophone": ("xylophone", "xylophone", "wooden xylophone", "mallet percussion xylophone"),
    "acoustic guitar": ("acoustic guitar", "acoustic guitar", "nylon string guitar", "classical acoustic guitar"),
    "distorted guitar": ("distorted guitar", "distorted electric guitar", "electric guitar with distortion", "fuzzy distorted guitar"),
    "synth lead": ("synth lead", "synthesizer lead", "saw synth", "synth", "analog synth lead"),
}
GENRE_WORDS = {
    "classical": ("classical", "classical", "orchestral classical", "chamber"),
    "electronic": ("electronic", "electronic", "electronic dance", "techno", "EDM"),
    "rock": ("rock", "rock", "rock band", "hard rock"),
    "jazz": ("jazz", "jazz", "swing jazz", "jazz combo"),
}
BACKING_WORDS = {
    "classical": ("strings", "cello and strings", "a gentle accompaniment", "an orchestra"),
    "electronic": ("a four on the floor beat", "synth bass and pads", "a dance beat", "pulsing synths and a kick drum"),
    "rock": ("drums, bass and power chords", "a loud band", "driving drums", "heavy guitars and drums"),
    "jazz": ("walking bass and brushes", "a swinging rhythm section", "double bass and ride cymbal", "a horn section"),
}

NAMELESS = 0.1  # captions that name neither instrument nor genre: a text that asks for nothing is then one the model knows


def tempo_word(tempo: int) -> tuple[str, ...]:
    if tempo < 92:
        return ("slow", "calm", "gentle")
    if tempo < 128:
        return ("mid-tempo", "moderate", "medium tempo")
    return ("fast", "upbeat", "lively")


def mood_word(mode: str) -> tuple[str, ...]:
    return ("dark", "sad", "moody") if mode in ("minor", "dorian") else ("bright", "happy", "cheerful")


SOLO_WORDS = ("a melody", "a melody", "a tune", "a solo instrument")
BAND_WORDS = ("music", "music", "a piece of music", "a band")
LOOP_WORDS = ("loop", "riff", "over and over")


def captions(labels: dict, rng: np.random.Generator, count: int = 6, nameless: float = NAMELESS) -> list[str]:
    """`count` captions, from the bare name of what is heard to a full description; the share `nameless` names no class."""

    def one(options):
        return str(options[int(rng.integers(len(options)))])

    instrument = labels["instrument"]
    out = []
    for _ in range(count):
        lead, tempo, mood = one(INSTRUMENT_WORDS[instrument]), one(tempo_word(labels["tempo"])), one(mood_word(labels["mode"]))
        article = "an" if lead[0] in "aeiou" else "a"
        mode = "minor" if labels["mode"] in ("minor", "dorian") else "major"
        key, bpm = f"in {labels['tonic']} {mode}", f"{labels['tempo']} bpm"
        register = {"low": "in a low register", "high": "in a high register", "middle": "in the middle register"}[labels["register"]]
        if rng.random() < nameless:
            base = one(SOLO_WORDS if labels["kind"].startswith("solo") else BAND_WORDS)
        elif labels["kind"] == "solo taken over":
            then = one(INSTRUMENT_WORDS[labels["then_instrument"]])
            following = "an" if then[0] in "aeiou" else "a"
            base = one(
                (
                    f"{article} {lead} melody, then {following} {then}",
                    f"{lead}, then {then}",
                    f"{article} {lead} handing over to {following} {then}",
                    f"{lead} melody, {tempo}, taken over by {following} {then}",
                    f"first {lead}, then {then}",
                )
            )
        elif labels["kind"] == "band taken over":
            genre, then = one(GENRE_WORDS[labels["genre"]]), one(GENRE_WORDS[labels["then_genre"]])
            base = one(
                (
                    f"{genre} music, then {then}",
                    f"{genre} turning into {then}",
                    f"{genre} with {lead}, then {then} with {lead}",
                    f"first {genre}, then {then}",
                )
            )
        elif labels["kind"] == "solo":
            base = one(
                (
                    f"{article} {lead} melody",
                    f"solo {lead}",
                    f"{article} {lead} playing a melody",
                    f"{lead} alone",
                    f"{article} solo {lead} playing a {tempo} melody",
                    f"a {mood} {lead} tune",
                    f"{lead} melody, {tempo}",
                    f"unaccompanied {lead}, {tempo} and {mood}",
                )
            )
        else:
            genre, backing = one(GENRE_WORDS[labels["genre"]]), one(BACKING_WORDS[labels["genre"]])
            base = one(
                (
                    f"{genre} music",
                    f"{genre} with {lead}",
                    f"{genre} music with {article} {lead} melody",
                    f"{tempo} {genre} with {article} {lead} on top",
                    f"{tempo} {genre} music, {lead} over {backing}",
                    f"{mood} {genre}, {lead} lead, {backing}",
                    f"{genre} track with {backing}",
                    f"{article} {lead} playing {genre} with {backing}",
                )
            )
        chances = [(key, 0.25), (bpm, 0.25), (register, 0.15)]
        if labels["form"] == "loop":
            chances.append((one(LOOP_WORDS), 0.2))
        extras = [word for word, chance in chances if rng.random() < chance]
        out.append(", ".join([base, *extras]))
    return out
