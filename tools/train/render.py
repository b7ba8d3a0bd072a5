"""Renders pieces with FluidSynth (through ctypes: one loaded sound font, no files in between) into one int16 array per split."""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import json
from pathlib import Path

import numpy as np

from .captions import captions
from .compose import DRUM_CHANNEL, GENRES, INSTRUMENTS, OCTAVE_BELOW, Piece, compose
from .settings import Settings, write_json

# Every split has its own number, so that no two splits share a melody.
SPLITS = {"train": 0, "heldout": 1, "judge": 2, "judge2": 3}
CHUNK = 64
LOUDNESS_STEP = 4.0  # dB
LOW_CUT = 200.0  # Hz; a lead's lowest note is at 262. Half of it where the lead plays an octave below


class Synth:
    """A FluidSynth instance that holds one sound font. Reverb and chorus are off: the codec has enough to learn."""

    def __init__(self, font: str, sample_rate: int):
        name = ctypes.util.find_library("fluidsynth")
        if name is None:
            raise SystemExit("libfluidsynth was not found: install it (Debian: apt-get install fluidsynth)")
        if not Path(font).is_file():
            raise SystemExit(f"sound font {font} was not found: install it or name another in the settings")
        self.lib = lib = ctypes.CDLL(name)
        for constructor in ("new_fluid_settings", "new_fluid_synth"):
            getattr(lib, constructor).restype = ctypes.c_void_p
        settings = ctypes.c_void_p(lib.new_fluid_settings())
        lib.fluid_settings_setnum(settings, b"synth.sample-rate", ctypes.c_double(sample_rate))
        lib.fluid_settings_setnum(settings, b"synth.gain", ctypes.c_double(0.4))
        for effect in (b"synth.reverb.active", b"synth.chorus.active"):
            lib.fluid_settings_setint(settings, effect, 0)
        self.synth = ctypes.c_void_p(lib.new_fluid_synth(settings))
        self.sample_rate = sample_rate
        self.font = lib.fluid_synth_sfload(self.synth, font.encode(), 1)
        if self.font < 0:
            raise SystemExit(f"FluidSynth could not load {font}")

    def render(self, piece: Piece, seconds: float, lead: str = "") -> np.ndarray:
        """Mono float32 samples of the piece, cut at `seconds` with a 20 ms fade. The loudness is even to half of `LOUDNESS_STEP` dB;
        that of a `lead`, an instrument alone, is measured without its rumble, as it will be encoded."""
        lib, synth = self.lib, self.synth
        lib.fluid_synth_system_reset(synth)
        for channel, (bank, program, volume) in piece.programs.items():
            if lib.fluid_synth_program_select(synth, channel, self.font, bank, program) != 0:
                lib.fluid_synth_program_select(synth, channel, self.font, 128 if channel == DRUM_CHANNEL else 0, 0)
            lib.fluid_synth_cc(synth, channel, 7, volume)
        events = []
        for note in piece.notes:
            events.append((round(note.start * self.sample_rate), 1, note))
            events.append((round((note.start + note.length) * self.sample_rate), 0, note))
        total = int(seconds * self.sample_rate)
        stereo = np.zeros((2, total), np.float32)
        now = 0
        for at, on, note in sorted(events, key=lambda e: (e[0], e[1])):
            if at >= total:
                break
            self._write(stereo, now, at)
            now = at
            if on:
                lib.fluid_synth_noteon(synth, note.channel, note.pitch, note.velocity)
            else:
                lib.fluid_synth_noteoff(synth, note.channel, note.pitch)
        self._write(stereo, now, total)
        mono = stereo.mean(axis=0)
        heard = without_rumble(mono, self.sample_rate, lead) if lead else mono
        level = float(np.sqrt(np.mean(heard**2))) + 1e-9
        # In steps: the codec then meets each note at few levels, not at one for every clip.
        gain = 10 ** (LOUDNESS_STEP * round(20 * np.log10(0.1 / level) / LOUDNESS_STEP) / 20)
        mono *= min(gain, 0.95 / (float(np.abs(mono).max()) + 1e-9))
        fade = int(0.02 * self.sample_rate)
        mono[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        return mono

    def reverb(self, on: bool) -> None:
        self.lib.fluid_synth_set_reverb_on(self.synth, int(on))

    def _write(self, stereo: np.ndarray, start: int, end: int) -> None:
        if end > start:
            left, right = (side.ctypes.data_as(ctypes.c_void_p) for side in stereo)
            self.lib.fluid_synth_write_float(self.synth, end - start, left, start, 1, right, start, 1)


def without_rumble(audio: np.ndarray, sample_rate: int, instrument: str) -> np.ndarray:
    """The audio of an instrument with what lies below its notes taken out, as a mixing engineer does with a lead: 24 dB an octave, no
    phase shift. The codes that are trained on are of such leads: rumble would take most of them up. The decoder learns to give it back."""
    spectrum = np.fft.rfft(audio)
    frequencies = np.maximum(np.fft.rfftfreq(len(audio), 1 / sample_rate), 1e-3)
    cut = LOW_CUT / 2 if instrument in OCTAVE_BELOW else LOW_CUT
    return np.fft.irfft(spectrum / np.sqrt(1 + (cut / frequencies) ** 8), len(audio)).astype(np.float32)


# Programs that count as the same part, for the judge's ears: bright piano, all that is bowed, other flutes, steel strings, overdrive,
# square lead, marimba, other basses, pads and keys. Any drum kit may play any genre: its rhythm is to be recognised, not its samples.
ALIKE = {0: (0, 0, 1), 24: (24, 25), 30: (29, 30), 81: (80, 81, 81), 40: (40, 40, 41, 110, 42, 48), 73: (73, 73, 72, 74, 75)}
ALIKE |= {13: (13, 13, 12), 32: (32, 33, 35), 38: (38, 39, 87), 80: (80, 81, 90), 33: (33, 34, 35), 29: (29, 30)}
ALIKE |= {89: (88, 89, 90, 50), 50: (50, 51, 90)}
KITS = (0, 8, 16, 24, 25, 32, 40)


def varied(piece: Piece, rng: np.random.Generator) -> Piece:
    """The same notes as another band would play and mix them: the judge must not know instruments by one sample each."""
    softer = int(rng.integers(-40, 16))
    notes = [dataclasses.replace(n, velocity=int(np.clip(n.velocity + softer, 20, 127))) for n in piece.notes]
    programs = {}
    for channel, (bank, program, volume) in piece.programs.items():
        options = KITS if channel == DRUM_CHANNEL else ALIKE.get(program, (program,))
        loudness = int(np.clip(volume * 10 ** (rng.uniform(-10, 6) / 40), 20, 127))
        programs[channel] = (bank, int(rng.choice(options)), loudness)
    return dataclasses.replace(piece, notes=notes, programs=programs)


def equalised(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The audio through a smooth random equaliser of up to some 12 dB and perhaps a low-pass filter, at its old loudness."""
    spectrum = np.fft.rfft(audio)
    octaves = np.linspace(0, 1, len(spectrum)) ** (1 / 3)
    gains = np.interp(octaves, np.linspace(0, 1, 6), rng.normal(0, 4, 6))
    if rng.random() < 0.5:  # duller, from 1.5 to 12 kHz on, as a codec's output may be
        corner = 1500 * 2 ** rng.uniform(0, 3)
        gains -= rng.uniform(6, 24) * np.log2(np.maximum(1, np.linspace(0, 16000, len(spectrum)) / corner))
    out = np.fft.irfft(spectrum * 10 ** (gains / 20), len(audio)).astype(np.float32)
    out *= np.sqrt(np.mean(audio**2)) / (np.sqrt(np.mean(out**2)) + 1e-9)
    return out * min(1, 0.95 / (np.abs(out).max() + 1e-9))


def plan(split: str, settings: Settings) -> list[dict]:
    """What each clip of a split is: its seed, genre, instrument and kind. A longer plan begins with a shorter one."""
    clips = []
    for number in range(settings.rounds[split]):
        # One round: one melody played by every instrument, and eight band clips.
        flavour = GENRES[number % len(GENRES)]
        loop = not split.startswith("judge") or number % 2 == 1
        for instrument in INSTRUMENTS:
            seed = [settings.seed, SPLITS[split], number, 0]
            clips.append({"seed": seed, "genre": flavour, "instrument": instrument, "kind": "solo", "loop": loop})
        clips += (_bands_of_all_genres if loop else _bands)(number, SPLITS[split], settings)
    return clips


def _bands(number: int, split: int, settings: Settings) -> list[dict]:
    """One piece per pair of genre and instrument; it is shared by half of the instruments, so that accompaniments vary more than leads."""
    clips = []
    for index, instrument in enumerate(INSTRUMENTS):
        genre = GENRES[(number + index) % len(GENRES)]
        seed = [settings.seed, split, number, 1 + index // len(GENRES)]
        clips.append({"seed": seed, "genre": genre, "instrument": instrument, "kind": "band", "loop": False})
    return clips


def _bands_of_all_genres(number: int, split: int, settings: Settings) -> list[dict]:
    """Two loops, each accompanied in every genre: what is a genre's own is then the band, and not the melody and its chords."""
    clips, instruments = [], tuple(INSTRUMENTS)
    for half in range(2):
        seed = [settings.seed, split, number, 1 + half]
        piece = {"genre": GENRES[(number + 2 * half) % 4], "instrument": instruments[(3 * number + 4 * half) % 8]}
        clips += [{"seed": seed, **piece, "band": band, "kind": "band", "loop": True} for band in GENRES]
    return clips


def piece_of(clip: dict, seconds: float, grid: bool) -> Piece:
    """The notes of one clip of a plan."""
    wanted = (clip["genre"], clip["instrument"], clip["kind"], seconds, grid, clip["loop"], clip.get("band"))
    return compose(tuple(clip["seed"]), *wanted)


def open_audio(split: str, settings: Settings, mode: str = "r") -> np.ndarray:
    """The int16 array [clips, samples] of a split; divide by 32768 to get audio in -1 to 1."""
    shape = (len(plan(split, settings)), settings.samples)
    return np.memmap(settings.work / "data" / f"{split}.i16", np.int16, mode, shape=shape)


def read_labels(split: str, settings: Settings) -> list[dict]:
    with open(settings.work / "data" / f"{split}.jsonl") as file:
        return [json.loads(line) for line in file]


def render_split(split: str, settings: Settings) -> None:
    """Renders what is missing of one split; may be stopped and run again."""
    folder = settings.work / "data"
    folder.mkdir(parents=True, exist_ok=True)
    progress = folder / f"{split}.progress.json"
    clips = plan(split, settings)
    done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    if done >= len(clips):
        return
    size = len(clips) * settings.samples * 2
    with open(folder / f"{split}.i16", "ab") as file:
        file.truncate(size)
    audio = open_audio(split, settings, "r+")
    labels = folder / f"{split}.jsonl"
    kept = read_labels(split, settings)[:done] if labels.exists() else []
    labels.write_text("".join(json.dumps(row) + "\n" for row in kept))
    synth = Synth(settings.fonts[split], settings.sample_rate)
    for start in range(done, len(clips), CHUNK):
        rows = []
        for index in range(start, min(start + CHUNK, len(clips))):
            clip = clips[index]
            strange = split.startswith("judge")
            piece = piece_of(clip, settings.seconds, grid=not strange)
            if strange:
                rng = np.random.default_rng((*clip["seed"], index, 4))
                synth.reverb(bool(rng.random() < 0.5))
                sound = equalised(synth.render(varied(piece, rng), settings.seconds), rng)
            else:
                sound = synth.render(piece, settings.seconds, lead=clip["instrument"] if split == "train" and clip["kind"] == "solo" else "")
            audio[index] = np.round(sound * 32767).astype(np.int16)
            words = captions(piece.labels, np.random.default_rng((*clip["seed"], index, 3)))
            rows.append({"index": index, "seed": clip["seed"], **piece.labels, "captions": words})
        audio.flush()
        with open(labels, "a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        write_json(progress, {"done": start + len(rows)})
        print(f"render {split}: {start + len(rows)}/{len(clips)}", flush=True)


def run(settings: Settings) -> None:
    for split in SPLITS:
        render_split(split, settings)
