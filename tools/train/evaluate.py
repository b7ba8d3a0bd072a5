"""Measures an exported checkpoint on held-out material and prints JSON: codec, text control, faults of generated clips."""

from __future__ import annotations

import json
import wave

import numpy as np
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from .compose import GENRES, INSTRUMENTS
from .judge import Judge
from .render import open_audio, read_labels
from .settings import Settings, write_json

PROMPTS = {
    "instrument": ("a solo {} melody", "{} alone", "a {} playing a melody"),
    "genre": ("{} music", "upbeat {} music", "{} with piano"),
}


def chroma(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude per pitch class from 100 Hz to 4 kHz, frames of 4096 every 1600 samples: [frames, 12], and each frame's norm."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, 4096)[::1600]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(4096), axis=1))
    frequencies = np.fft.rfftfreq(4096, 1 / 32000)
    used = (frequencies > 100) & (frequencies < 4000)
    classes = np.round(12 * np.log2(frequencies[used] / 440)).astype(int) % 12
    out = np.zeros((12, len(frames)))
    np.add.at(out, classes, spectrum[:, used].T)
    return out.T, np.linalg.norm(out, axis=0)


def chroma_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine of the two clips' chroma over the frames in which the first one sounds."""
    (a, a_norm), (b, b_norm) = chroma(one), chroma(other)
    sounding = a_norm > 0.02 * a_norm.max()
    return float(((a * b).sum(1) / (a_norm * b_norm + 1e-9))[sounding].mean())


def faults(audio: np.ndarray, codes: np.ndarray) -> list[str]:
    """What is wrong with a generated clip [N] with codes [K, F]."""
    found = []
    frames = audio[: len(audio) // 1600 * 1600].reshape(-1, 1600)
    loud = np.sqrt((frames**2).mean(1)) > 0.003
    if loud.mean() < 0.2:  # a xylophone is quiet between its notes: one real clip in eight for more than half of it
        found.append("silence")
    if (np.abs(audio) >= 1).mean() > 1e-3:
        found.append("clipping")
    columns = (codes[:, 1:] != codes[:, :-1]).any(0)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], columns, [True]])))
    if runs.max() > 50:
        found.append("stuck")
    return found


@torch.no_grad()
def codec_report(model, judge: Judge, settings: Settings, clips: int = 48) -> dict:
    """Chroma kept, and what the judge says of originals and reconstructions, over evenly chosen held-out clips."""
    audio, labels = open_audio("heldout", settings), read_labels("heldout", settings)
    rows, similar, strangers, right = [], [], [], {}
    # A stride that is prime to 16 goes through all instruments and genres.
    for index in range(0, 5 * clips, 5):
        rows.append(index % len(labels))
    for number, row in enumerate(sorted(set(rows))):
        original = audio[row].astype(np.float32) / 32768
        codes = model.audio_encoder.encode(torch.from_numpy(original)[None, None]).audio_codes
        rebuilt = model.audio_encoder.decode(codes, [None]).audio_values[0, 0].numpy()
        similar.append((labels[row]["kind"], labels[row]["instrument"], chroma_similarity(original, rebuilt)))
        stranger = audio[(row + 37) % len(labels)].astype(np.float32) / 32768
        strangers.append(chroma_similarity(original, stranger))
        task = "instrument" if labels[row]["kind"] == "solo" else "genre"
        for name, sound in (("original", original), ("reconstruction", rebuilt)):
            right.setdefault(f"{task}_{name}", []).append(judge(sound)[task] == labels[row][task])
    means = {name: round(float(np.mean(values)), 4) for name, values in right.items()}
    return {
        "clips": number + 1,
        "chroma_similarity": round(float(np.mean([s for *_, s in similar])), 4),
        "chroma_similarity_by_instrument": {
            name: round(float(np.mean([s for kind, instrument, s in similar if kind == "solo" and instrument == name])), 3) for name in INSTRUMENTS
        },
        "chroma_similarity_to_another_clip": round(float(np.mean(strangers)), 4),
        "judge_accuracy": means,
        "kept": {task: round(means[f"{task}_reconstruction"] / max(means[f"{task}_original"], 1e-9), 4) for task in ("instrument", "genre")},
    }


@torch.no_grad()
def text_report(model, tokenizer, judge: Judge, settings: Settings, each: int) -> dict:
    """How often the judge hears what the prompt asked for, and what is wrong with the clips."""
    torch.manual_seed(settings.seed)
    folder = settings.work / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    out, faulty, total = {}, [], 0
    for task, names in (("instrument", tuple(INSTRUMENTS)), ("genre", GENRES)):
        heard = {name: {} for name in names}
        for name in names:
            prompts = [PROMPTS[task][i % len(PROMPTS[task])].format(name) for i in range(each)]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True)
            codes = generate_codes(model, inputs, settings.frames)
            sounds = model.audio_encoder.decode(codes[None], [None] * 1).audio_values[:, 0].numpy()
            for number, (sound, tokens) in enumerate(zip(sounds, codes.numpy())):
                guess = judge(sound)[task]
                heard[name][guess] = heard[name].get(guess, 0) + 1
                total += 1
                problems = faults(sound, tokens)
                if problems:
                    faulty.append({"prompt": prompts[number], "faults": problems})
                if number < 2:
                    write_wave(folder / f"{task}-{name.replace(' ', '-')}-{number}.wav", sound, settings.sample_rate)
            print(task, name, heard[name], flush=True)
        rates = {name: round(counts.get(name, 0) / each, 3) for name, counts in heard.items()}
        out[task] = {"recognised": round(float(np.mean(list(rates.values()))), 4), "by_class": rates, "heard_as": heard, "clips_each": each}
    return {**out, "faulty": faulty, "generated": total}


def generate_codes(model, inputs, frames: int) -> torch.Tensor:
    """Codes [B, K, F] sampled as the checkpoint's generation_config.json says, by transformers' own generation."""
    kept = {}

    def catch(codes, *_arguments, **_keywords):
        kept["codes"] = codes[0].clone()
        raise StopIteration

    decode, model.audio_encoder.decode = model.audio_encoder.decode, catch
    try:
        model.generate(**inputs, max_new_tokens=frames + 3)
    except StopIteration:
        pass
    finally:
        model.audio_encoder.decode = decode
    return kept["codes"]


def write_wave(path, audio: np.ndarray, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())


def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    folder = settings.work / "export" / "demo"
    model = MusicgenForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    judge = Judge(settings.work / "judge")
    report = {"codec": codec_report(model, judge, settings)}
    write_json(settings.work / "evaluation.json", report)
    print(json.dumps(report, indent=1), flush=True)
    report["text"] = text_report(model, AutoTokenizer.from_pretrained(folder), judge, settings, settings.clips_each)
    write_json(settings.work / "evaluation.json", report)
    print(json.dumps(report, indent=1))
