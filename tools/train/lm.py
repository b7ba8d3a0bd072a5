"""Trains the language model and its text encoder on codes: transformers' MusicgenForConditionalGeneration without its codec.

The delay pattern, the loss over valid positions of all codebooks and the dropped text for classifier-free guidance follow
Copet et al. 2023. Weight matrices inside the blocks are stepped by Muon (Jordan et al. 2024), all else by AdamW.
"""

from __future__ import annotations

import json
import math
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MusicgenConfig, MusicgenForConditionalGeneration, T5Config
from transformers.models.musicgen import MusicgenDecoderConfig

from .codec import QUANTISERS, codec_config
from .encode import encoded, open_codes
from .render import read_labels
from .settings import Settings, write_json
from .tokenizer import load_tokenizer
from .training import Average, Clock, Log, load_state, save_state, warm_hold_decay

SAVE_SECONDS = 150
HEAD_WIDTH = 32
OWN_AFTER = 1000  # steps; before, what the model says is no use to it


class Diet(NamedTuple):
    """What the batches of a stretch of steps are."""

    until: float  # step
    stuttering: float  # share of the batches
    pieces: float  # share of the others; the rest are whole clips
    own: float  # share of all in which some of what is read was said by the model itself
    first: float  # times that the first frames count: there nothing but the text tells what it should be


# Text first; then looking back, which stutters teach in a thousand steps; then both. Each drives out the other: with stutters from
# the beginning the text encoder had died away by step 2500, and after 5000 steps in which half of the batches stuttered the instrument
# asked for was played in 37 of 100 clips and not in 83.
DIETS = (Diet(2500, 0.0, 0.5, 0.6, 1), Diet(7900, 0.5, 0.5, 0.3, 1), Diet(math.inf, 0.0, 0.5, 0.6, 4))
FIRST = 20  # frames


def diet_at(step: int) -> Diet:
    return next(diet for diet in DIETS if step <= diet.until)


def model_config(settings: Settings) -> MusicgenConfig:
    pieces = load_tokenizer(settings).get_vocab_size()
    text = T5Config(
        vocab_size=-(-pieces // 64) * 64,
        d_model=settings.text_width,
        d_kv=HEAD_WIDTH,
        d_ff=4 * settings.text_width,
        num_layers=settings.text_layers,
        num_heads=settings.text_width // HEAD_WIDTH,
        feed_forward_proj="relu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=settings.codebook_size,
        max_position_embeddings=2048,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // HEAD_WIDTH,
        ffn_dim=4 * settings.width,
        num_codebooks=QUANTISERS,
        audio_channels=1,
        dropout=0.0,
        pad_token_id=settings.codebook_size,
        bos_token_id=settings.codebook_size,
        tie_word_embeddings=False,
    )
    return MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec_config(settings).to_dict(), decoder=decoder.to_dict())


class LanguageModel(nn.Module):
    """The parts of MusicGen that are trained here. Its state names are those of the whole model."""

    def __init__(self, settings: Settings):
        super().__init__()
        whole = MusicgenForConditionalGeneration(model_config(settings))
        self.text_encoder, self.enc_to_dec_proj, self.decoder = whole.text_encoder, whole.enc_to_dec_proj, whole.decoder
        self.pad = settings.codebook_size

    def forward(self, text: Tensor, mask: Tensor, codes: Tensor, own: float = 0.0, first: float = 1.0) -> Tensor:
        """The cross-entropy of every codebook [K], for text ids and mask [B, S] and codes [B, K, F], in which the first frames count
        `first` times. The share `own` of the codes
        that are read, not of those that are to be said, is replaced by what the model itself would have said (scheduled sampling in
        two passes, Mihaylova & Martins 2019): generation reads nothing else, and must not go astray on its first slip."""
        tokens = delayed(codes, self.pad)  # [B, K, F + K]
        states = self.text_encoder(input_ids=text, attention_mask=torch.ones_like(text).where(text != 0, 0)).last_hidden_state
        # A row without text has memory 0 and mask 0, as in generation.
        memory = self.enc_to_dec_proj(states) * mask[..., None]
        inputs, targets = tokens[..., :-1], tokens[..., 1:]
        if own > 0:
            with torch.no_grad():
                shares = self.logits(inputs, memory, mask)[:, :, :-1].softmax(-1).cumsum(-1)  # of inputs[..., 1:]
                drawn = torch.rand(*shares.shape[:-1], 1, device=shares.device) * shares[..., -1:]
                said = torch.searchsorted(shares, drawn)[..., 0].clamp_max(shares.shape[-1] - 1)  # [B, K, F + K - 2]
            replaced = (torch.rand(said.shape, device=said.device) < own) & (inputs[..., 1:] != self.pad)
            inputs = torch.cat([inputs[..., :1], torch.where(replaced, said, inputs[..., 1:])], -1)
        logits = self.logits(inputs, memory, mask)
        weights = torch.ones(codes.shape[2], device=codes.device)
        weights[:FIRST] = first
        losses = []
        for book in range(targets.shape[1]):
            # Codebook k is valid from position k on, for F positions.
            valid = slice(book, book + codes.shape[2])
            each = F.cross_entropy(logits[:, book, valid].transpose(1, 2), targets[:, book, valid], reduction="none")  # [B, F]
            losses.append((each * weights).mean() / weights.mean())
        return torch.stack(losses)

    def logits(self, inputs: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, K, F + K - 1, V] for the tokens after each of `inputs` [B, K, F + K - 1]."""
        logits = self.decoder(
            input_ids=inputs.reshape(-1, inputs.shape[-1]),
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            use_cache=False,
        ).logits
        return logits.reshape(*inputs.shape, -1)


def delayed(codes: Tensor, pad: int) -> Tensor:
    """Codes [B, K, F] with codebook k moved right by k + 1, `pad` elsewhere: [B, K, F + K]."""
    batch, books, frames = codes.shape
    tokens = codes.new_full((batch, books, frames + books), pad)
    for book in range(books):
        tokens[:, book, book + 1 : book + 1 + frames] = codes[:, book]
    return tokens


class MuonAdamW(torch.optim.Optimizer):
    """Muon for matrices (groups with muon=True): momentum, orthogonalised by a quintic Newton-Schulz iteration; AdamW for the rest."""

    def __init__(self, matrices: list[Tensor], others: list[Tensor], rate: float, decay: float):
        groups = [{"params": matrices, "muon": True, "scale": 1.0}, {"params": others, "muon": False, "scale": 0.15}]
        super().__init__(groups, {"lr": rate, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            rate = group["lr"] * group["scale"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                gradient = parameter.grad
                if group["muon"]:
                    momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                    momentum.lerp_(gradient, 0.05)
                    direction = orthogonal(gradient.lerp(momentum, 0.95))
                    parameter.mul_(1 - rate * group["decay"])
                    parameter.add_(direction, alpha=-rate * max(1, parameter.shape[0] / parameter.shape[1]) ** 0.5)
                else:
                    first = state.setdefault("first", torch.zeros_like(parameter))
                    second = state.setdefault("second", torch.zeros_like(parameter))
                    state["count"] = count = state.get("count", 0) + 1
                    first.lerp_(gradient, 0.1)
                    second.lerp_(gradient.square(), 0.02)
                    step = (first / (1 - 0.9**count)) / ((second / (1 - 0.98**count)).sqrt() + 1e-8)
                    parameter.add_(step, alpha=-rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are all 1."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def make_optimizer(model: LanguageModel, settings: Settings) -> MuonAdamW:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inside = (".layers." in name or ".block." in name) and "relative_attention_bias" not in name
        (matrices if parameter.ndim == 2 and inside else others).append(parameter)
    return MuonAdamW(matrices, others, settings.lm_rate, decay=0.05)


class Batches:
    """Draws batches: clips with codes, one of their captions, text dropped now and then."""

    def __init__(self, split: str, settings: Settings):
        tokenizer = load_tokenizer(settings)
        self.labels = read_labels(split, settings)[: encoded(split, settings)]
        self.text = [[encoding.ids for encoding in tokenizer.encode_batch(row["captions"])] for row in self.labels]
        self.codes, self.settings = open_codes(split, settings), settings

    def texts(self, rows: list[list[int]], dropped: np.ndarray) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        text = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = (text != 0).long() * torch.from_numpy(~dropped)[:, None].long()
        return text, mask

    def draw(self, rng: np.random.Generator, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Whole clips; as many frames in pieces of a quarter, since what is first heard after a text is where the text counts most; or
        such pieces that stutter, a few frames over and over: they teach in hundreds of steps to look for where something was heard
        before and go on from there, which loops a hundred frames long don't in thousands."""
        size, length, frames = self.settings.lm_batch, self.settings.frames, self.settings.frames
        diet = diet_at(step)
        stutter = rng.random() < diet.stuttering
        if stutter or rng.random() < diet.pieces:
            size, length = 4 * size, length // 4
        clips = rng.integers(0, len(self.labels), size)
        rows = [self.text[clip][int(rng.integers(len(self.text[clip])))] for clip in clips]
        text, mask = self.texts(rows, rng.random(size) < self.settings.text_dropout)
        starts = [int(rng.integers(0, frames - length + 1)) if rng.random() < 0.5 else 0 for _ in clips]
        codes = np.stack([self.codes[clip, :, start : start + length] for clip, start in zip(clips, starts)])
        if stutter:
            places = np.arange(length) % rng.integers(6, 40, size)[:, None]  # [B, F]
            codes = np.take_along_axis(codes, places[:, None], 2)  # [B, K, F]
        return text, mask, torch.from_numpy(codes.astype(np.int64))


@torch.no_grad()
def validate(model: LanguageModel, held: Batches, settings: Settings) -> dict:
    """Cross-entropy of each codebook on held-out clips, with their text, without it, and with another clip's."""
    model.eval()
    clips = np.linspace(0, len(held.labels) - 1, min(24, len(held.labels))).astype(int)
    out = {}
    for name, shift, drop in (("text", 0, False), ("no_text", 0, True), ("other_text", 5, False)):
        total = torch.zeros(QUANTISERS)
        for chunk in np.array_split(clips, 3):
            rows = [held.text[(clip + shift) % len(held.text)][0] for clip in chunk]
            text, mask = held.texts(rows, np.full(len(chunk), drop))
            codes = torch.from_numpy(held.codes[chunk].astype(np.int64))
            total += model(*(t.to(settings.device) for t in (text, mask, codes))).cpu() * len(chunk)
        out[name] = [round(float(v), 4) for v in total / len(clips)]
    model.train()
    return out


def load_language_model(settings: Settings) -> LanguageModel:
    """What has been trained so far, averaged over the last steps: good at any moment of the training."""
    model = LanguageModel(settings)
    state = torch.load(settings.work / "lm" / "state.pt", map_location="cpu", weights_only=False)
    model.load_state_dict(state["model"])
    copy_average(state["average"], model)
    return model.eval()


@torch.no_grad()
def copy_average(average: dict[str, Tensor], model: LanguageModel) -> None:
    """By parameters, not by the names of a state: tied weights have two names there and one average."""
    for name, parameter in model.named_parameters():
        parameter.copy_(average[name])


def run(settings: Settings) -> None:
    folder = settings.work / "lm"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = LanguageModel(settings).to(settings.device)
    optimizer = make_optimizer(model, settings)
    rng = np.random.default_rng((settings.seed, 12))
    state = load_state(folder / "state.pt", model=model, optimizer=optimizer, rng=rng)
    average = Average(model, folder / "state.pt")
    averaged = LanguageModel(settings).to(settings.device)
    step, clock, log = state["step"], Clock(state["seconds"]), Log(folder / "log.jsonl", state["step"])
    batches, held = Batches("train", settings), Batches("heldout", settings)
    budget, saved = settings.lm_minutes * 60, time.monotonic()
    model.train()
    while clock.seconds() < budget:
        rate = settings.lm_rate * warm_hold_decay(step, clock.seconds() / budget, warm=60, hold=0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        text, mask, codes = (t.to(settings.device) for t in batches.draw(rng, step))
        own = float(rng.uniform(0.1, 0.5)) if step > OWN_AFTER and rng.random() < diet_at(step).own else 0.0
        losses = model(text, mask, codes, own, diet_at(step).first)
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        if step > DIETS[0].until:
            # What repeats tells by itself how it goes on: the text's share of the loss is then so small that updates of full size,
            # as Muon makes them, wear the text encoder away.
            model.text_encoder.zero_grad(set_to_none=True)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
            average.update(model)
        step += 1
        log.add(step, loss=losses.mean(), norm=norm, **{f"book{k}": loss for k, loss in enumerate(losses)})
        if step % 20 == 0:
            log.write(step, clock.seconds(), rate=round(rate, 6), clips=len(batches.labels))
        if time.monotonic() - saved > SAVE_SECONDS or clock.seconds() >= budget:
            save_state(folder / "state.pt", step, clock.seconds(), model=model, optimizer=optimizer, rng=rng, average=average.values)
            saved = time.monotonic()
            if len(held.labels) >= 24:
                averaged.load_state_dict(model.state_dict())
                copy_average(average.values, averaged)
                found = {"step": step, "seconds": round(clock.seconds()), **validate(averaged, held, settings)}
                write_json(folder / "validation.json", found)
                with open(folder / "validation.jsonl", "a") as file:
                    file.write(json.dumps(found) + "\n")
            if encoded("train", settings) > len(batches.labels):
                batches = Batches("train", settings)  # more clips have been encoded meanwhile
