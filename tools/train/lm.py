"""Trains the language model and its text encoder on codes: transformers' MusicgenForConditionalGeneration without its codec.

The delay pattern, the loss over valid positions of all codebooks and the dropped text for classifier-free guidance follow
Copet et al. 2023. Weight matrices inside the blocks are stepped by Muon (Jordan et al. 2024), all else by AdamW.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MusicgenConfig, MusicgenForConditionalGeneration, T5Config
from transformers.models.musicgen import MusicgenDecoderConfig

from .captions import NAMELESS, captions
from .codec import QUANTISERS, codec_config, part_of_checkpoint
from .encode import LOOP_FRAMES, encoded, open_codes
from .render import read_labels
from .settings import Settings, write_json
from .tokenizer import load_tokenizer
from .training import Average, Clock, Log, load_state, save_state, warm_hold_decay

SAVE_SECONDS = 150
HEAD_WIDTH = 32
OWN_AFTER = 1000  # steps from nothing; before, what the model says is no use to it
OWN = {"pieces": 0.5, "clips": 0.1}  # shares of the batches in which some of what is read was said by the model itself
PIECES = 0.3  # share of the batches that are pieces of clips; the rest are whole clips
BOOKS = (1.25, 1.75, 1.15, 0.7)  # how much each codebook counts: the notes, and their sound from the most to the least of its energy
LAGS = (95, 92, 89, 85)  # positions that the heads of the first layer look back by, from the next frame a bar ago to ten frames later
SHARPNESS = 3.5  # of the heads that look back: of what lies around the place that is meant they take in some frames
BANDS = 0.65  # share of bands among whole clips; of their takeovers there is more to learn
PATCHED = 0.85  # share of whole clips whose bar is put together from parts of others
ON_THE_BEAT = 0.4  # share of those bars whose parts are of one length and keep their place in the bar
PARTS = {"solo": (2, 3, 4, 6), "band": (2, 3, 4)}  # of a bar
TAKEOVERS = (0.15, 0.5, 0.35)  # shares of whole clips that are taken over never, once, twice
TAKEN_WEIGHT = 2.0  # times that the bar after a takeover counts: the same notes by another sound are harder than what is played again
FIRST, FIRST_WEIGHT = 20, 4.0  # frames, and how many times they count: there nothing but the text tells what it should be


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
    """The parts of MusicGen that are trained here; its state names are those of the whole model."""

    def __init__(self, settings: Settings):
        super().__init__()
        whole = MusicgenForConditionalGeneration(model_config(settings))
        self.text_encoder, self.enc_to_dec_proj, self.decoder = whole.text_encoder, whole.enc_to_dec_proj, whole.decoder
        self.pad = settings.codebook_size

    def forward(self, text: Tensor, mask: Tensor, codes: Tensor, own: float = 0.0) -> Tensor:
        """The cross-entropy [B, K, F] of every code, for text ids and mask [B, S] and codes [B, K, F]. The share `own` of the codes
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
        losses = []
        for book in range(targets.shape[1]):
            # Codebook k is valid from position k on, for F positions.
            valid = slice(book, book + codes.shape[2])
            losses.append(F.cross_entropy(logits[:, book, valid].transpose(1, 2), targets[:, book, valid], reduction="none"))  # [B, F]
        return torch.stack(losses, 1)

    def logits(self, inputs: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, K, F + K - 1, V] for the tokens after each of `inputs` [B, K, F + K - 1]."""
        found = self.decoder(
            input_ids=inputs.reshape(-1, inputs.shape[-1]),
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        return found.logits.reshape(*inputs.shape, -1)


def by_codebook(losses: Tensor, weights: Tensor) -> Tensor:
    """The mean of losses [B, K, F] for every codebook [K]; `weights` [B, F] tell how much each frame counts."""
    return (losses * weights[:, None]).mean((0, 2)) / weights.mean()


def delayed(codes: Tensor, pad: int) -> Tensor:
    """Codes [B, K, F] with codebook k moved right by k + 1, `pad` elsewhere: [B, K, F + K]."""
    batch, books, frames = codes.shape
    tokens = codes.new_full((batch, books, frames + books), pad)
    for book in range(books):
        tokens[:, book, book + 1 : book + 1 + frames] = codes[:, book]
    return tokens


class MuonAdamW(torch.optim.Optimizer):
    """Muon for matrices (groups with muon=True): momentum, orthogonalised by a quintic Newton-Schulz iteration; AdamW for the rest."""

    def __init__(self, matrices: list[Tensor], others: list[Tensor], text: list[Tensor], rate: float, text_rate: float, decay: float):
        groups = [{"params": matrices, "muon": True, "scale": 1.0}, {"params": others, "muon": False, "scale": 0.15}]
        groups.append({"params": text, "muon": False, "scale": text_rate})
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
    """The text encoder isn't left to Muon: what repeats tells by itself how it goes on, so that the text's share of the loss is small
    and steps of full size, as Muon makes them, would wear it away."""
    matrices, others, text = [], [], []
    for name, parameter in model.named_parameters():
        if name.startswith("text_encoder."):
            text.append(parameter)
        else:
            (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
    return MuonAdamW(matrices, others, text, settings.lm_rate, text_rate(settings), decay=0.05)


def text_rate(settings: Settings) -> float:
    return settings.text_rate * (0.1 if settings.start_from else 1)


@torch.no_grad()
def look_back(decoder: nn.Module, lags: tuple[int, ...]) -> None:
    """Sets one head of the first layer for each lag to attend, by position alone, to what was read `lag` positions ago: a query is the
    cosines and sines of its position turned back by the lag, a key those of its own, at the 16 highest frequencies. What they read there
    and write is left to training. In 436 steps next to no looking back had formed by itself. A bar ago the next frame was read 95
    positions ago; an attack doesn't tell its pitch, so that others look at frames that came after it. `sharpen` makes them exact."""
    body = decoder.model.decoder
    width = decoder.config.hidden_size
    pairs, half = HEAD_WIDTH // 2, width // 2
    places = torch.arange(pairs)
    scale, attention = body.layers[0].self_attn_layer_norm.weight, body.layers[0].self_attn
    for head, lag in enumerate(lags):
        turns = torch.exp(-math.log(10000) / (half - 1) * places) * lag
        rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        query, key = torch.zeros(HEAD_WIDTH, width), torch.zeros(HEAD_WIDTH, width)
        # cos(w(t - lag)) = cos(wt) cos(w lag) + sin(wt) sin(w lag); sin(w(t - lag)) = sin(wt) cos(w lag) - cos(wt) sin(w lag)
        key[places, places] = key[pairs + places, half + places] = 1
        query[places, places], query[places, half + places] = turns.cos(), turns.sin()
        query[pairs + places, half + places], query[pairs + places, places] = turns.cos(), -turns.sin()
        attention.q_proj.weight[rows] = SHARPNESS * query / scale
        attention.k_proj.weight[rows] = SHARPNESS * key / scale


def sharpen(model: LanguageModel, lags: tuple[int, ...], codes: Tensor, steps: int) -> float:
    """Fits the queries and keys of the heads that `look_back` has set, and nothing else, to attend to their places in spite of what
    codes [B, K, F] are read there. Returns the attention that they pay to them."""
    body = model.decoder.model.decoder
    layer, width = body.layers[0], body.config.hidden_size
    tokens = delayed(codes, model.pad)[..., :-1]  # [B, K, T]
    with torch.no_grad():
        read = sum(table(tokens[:, book]) for book, table in enumerate(body.embed_tokens))
        read = layer.self_attn_layer_norm(read + body.embed_positions(tokens, 0))  # [B, T, D]
    query, key = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
    optimizer = torch.optim.Adam([query, key], lr=3e-3)
    positions = torch.arange(tokens.shape[-1])
    later = positions[None, :] > positions[:, None]  # [T, T]
    for _ in range(steps):
        picked = read[torch.randint(0, len(read), (2,))]
        queries, keys = (F.linear(picked, weight).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for weight in (query, key))  # [2, H, T, D/H]
        shares = (queries @ keys.transpose(2, 3) * HEAD_WIDTH**-0.5).masked_fill(later, -torch.inf).log_softmax(-1)  # [2, H, T, T]
        paid = torch.stack([shares[:, head].diagonal(-lag, 1, 2).mean() for head, lag in enumerate(lags)])
        optimizer.zero_grad()
        (-paid.mean()).backward()
        optimizer.step()
    return float(paid.detach().exp().mean())


@torch.no_grad()
def load_start(model: LanguageModel, settings: Settings) -> bool:
    """Takes the weights of the checkpoint that training goes on from. Layers that it hasn't come before its own: copies of its first one
    that add nothing as yet, so that the model begins as good as it was. Returns whether there are such."""
    added = 0
    for part in ("text_encoder", "enc_to_dec_proj", "decoder"):
        state = part_of_checkpoint(settings.start_from, part)
        if part == "decoder":
            layers = 1 + max(int(name.split(".layers.")[1].split(".")[0]) for name in state if ".layers." in name)
            added = settings.layers - layers
            state = grown(state, added)
        for name in state:
            if name.startswith("lm_heads."):
                state[name] = state[name] * settings.temperature
        unknown = getattr(model, part).load_state_dict(state, strict=False)
        missing = [name for name in unknown.missing_keys if not name.endswith(("embed_positions.weights", "embed_tokens.weight"))]
        if missing or unknown.unexpected_keys:
            raise SystemExit(f"{settings.start_from} is not of these sizes: {missing} missing, {unknown.unexpected_keys} unknown")
    return added > 0


def grown(state: dict[str, Tensor], added: int) -> dict[str, Tensor]:
    """A decoder's weights with `added` layers before its own."""
    out = {}
    for name, value in state.items():
        before, layers, rest = name.partition(".layers.")
        number, _, inner = rest.partition(".")
        if not layers:
            out[name] = value
            continue
        out[f"{before}.layers.{int(number) + added}.{inner}"] = value
        if number == "0":
            writes = inner.endswith(("out_proj.weight", "fc2.weight"))
            out |= {f"{before}.layers.{layer}.{inner}": torch.zeros_like(value) if writes else value.clone() for layer in range(added)}
    return out


class Batches:
    """Draws batches: clips with codes, one of their captions, text dropped now and then."""

    def __init__(self, split: str, settings: Settings):
        self.tokenizer = load_tokenizer(settings)
        self.labels = read_labels(split, settings)[: encoded(split, settings)]
        self.text = [[encoding.ids for encoding in self.tokenizer.encode_batch(row["captions"])] for row in self.labels]
        self.codes = np.array(open_codes(split, settings))  # [clips, K, F]
        self.settings = settings
        # Clips that play the same notes: a melody by all instruments, a loop with the band of every genre.
        self.alike = defaultdict(list)
        for clip, row in enumerate(self.labels):
            self.alike[self.piece(row)].append(clip)
        # The clip of each piece that sounds as a given one does: by the same instrument, or with the band of the same genre.
        self.sounding = {(self.piece(row), self.sound(row)): clip for clip, row in enumerate(self.labels)}
        self.pieces = {kind: [piece for piece in self.alike if piece[0] == kind] for kind in ("solo", "band")}
        self.clips = {kind: np.array([clip for clip, row in enumerate(self.labels) if row["kind"] == kind]) for kind in ("solo", "band")}

    @staticmethod
    def piece(row: dict) -> tuple:
        return (row["kind"], *row["seed"])

    @staticmethod
    def sound(row: dict) -> str:
        return row["instrument" if row["kind"] == "solo" else "genre"]

    def bars(self, rng: np.random.Generator, kind: str):
        """From a clip to its codes [K, F], or to those of a bar over and over that is put together from parts of random pieces, the same
        ones for every clip of the kind that is asked for: a few hundred melodies would be learnt by heart, and not looked back for."""
        if rng.random() >= PATCHED:
            return lambda clip: self.codes[clip]
        count = int(rng.choice(PARTS[kind]))
        pieces = [self.pieces[kind][int(i)] for i in rng.integers(0, len(self.pieces[kind]), count)]
        frames, shifts = np.arange(LOOP_FRAMES), np.zeros(count, int)
        if rng.random() < ON_THE_BEAT:
            edges = frames[:: LOOP_FRAMES // count]
        else:
            edges = np.concatenate([[0], np.sort(rng.choice(frames[1:], count - 1, replace=False))])
            shifts = rng.integers(0, LOOP_FRAMES, count)
        part = np.searchsorted(edges, frames, side="right") - 1  # of every frame of the bar
        taken = LOOP_FRAMES + (frames + shifts[part]) % LOOP_FRAMES  # from the second bar on a loop repeats exactly

        def patched(clip: int) -> np.ndarray:
            sources = np.array([self.sounding.get((piece, self.sound(self.labels[clip])), clip) for piece in pieces])
            bar = self.codes[sources[part], :, taken].T  # [K, LOOP_FRAMES]
            return np.tile(bar, -(-self.settings.frames // LOOP_FRAMES))[:, : self.settings.frames]

        return patched

    def taken_over(self, rng: np.random.Generator, clip: int, times: int, codes_of) -> tuple[np.ndarray, list[int], np.ndarray]:
        """A clip's codes [K, F] that go on as another clip of the same notes from some frame on, once or twice, words for it, and how
        much each frame counts [F]: as codes stand for the same stretch of notes in both, what is heard is the melody handed over in
        mid-phrase."""
        frames, labels = self.settings.frames, self.labels
        turns = np.sort(rng.choice(np.arange(40, frames - 40), times, replace=False))
        codes, last, weights = codes_of(clip).copy(), clip, np.ones(frames, np.float32)
        for turn in turns:
            others = [other for other in self.alike[self.piece(labels[clip])] if other != last]
            if not others:
                break
            last = others[int(rng.integers(len(others)))]
            codes[:, turn:] = codes_of(last)[:, turn:]
            weights[turn : turn + LOOP_FRAMES] = TAKEN_WEIGHT
        then = {"then_instrument": labels[last]["instrument"], "then_genre": labels[last]["genre"]}
        words = captions({**labels[clip], **then, "kind": f"{labels[clip]['kind']} taken over"}, rng, 1, nameless=NAMELESS if times == 1 else 1)
        return codes, self.tokenizer.encode(words[0]).ids, weights

    def texts(self, rows: list[list[int]], dropped: np.ndarray) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        text = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = (text != 0).long() * torch.from_numpy(~dropped)[:, None].long()
        return text, mask

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Text ids and mask [B, S], codes [B, K, F] and how much each frame counts [B, F]. Whole clips, most of them taken over by others
        that play the same notes; or as many frames in pieces of a quarter, which end before a phrase comes again: there the text is all
        that tells what is to be heard."""
        size, frames = self.settings.lm_batch, self.settings.frames
        pieces = rng.random() < PIECES
        size, length = (4 * size, frames // 4) if pieces else (size, frames)
        if pieces:
            clips = rng.integers(0, len(self.labels), size)
        else:
            clips = [rng.choice(self.clips["band" if rng.random() < BANDS else "solo"]) for _ in range(size)]
        rows, codes, weights = [], [], np.ones((size, length), np.float32)
        dropped = rng.random(size) < self.settings.text_dropout
        for row, clip in enumerate(clips):
            times = 0 if pieces else int(rng.choice(len(TAKEOVERS), p=TAKEOVERS))
            codes_of = self.codes.__getitem__ if pieces else self.bars(rng, self.labels[clip]["kind"])
            if times > 0:
                whole, words, counts = self.taken_over(rng, clip, times, codes_of)
                dropped[row] |= rng.random() < 0.3
            else:
                whole, words, counts = codes_of(clip), self.text[clip][int(rng.integers(len(self.text[clip])))], np.ones(frames, np.float32)
            start = int(rng.integers(0, frames - length + 1)) if rng.random() < 0.5 else 0
            codes.append(whole[:, start : start + length])
            weights[row] = counts[start : start + length]
            rows.append(words)
        weights[:, :FIRST] = FIRST_WEIGHT
        text, mask = self.texts(rows, dropped)
        return text, mask, torch.from_numpy(np.stack(codes).astype(np.int64)), torch.from_numpy(weights)


@torch.no_grad()
def validate(model: LanguageModel, held: Batches, settings: Settings) -> dict:
    """Cross-entropy of each codebook on held-out clips: of the first quarter, with their text, without it, and with another clip's; of
    the second half without text, going on as the first one did or taken over in the middle by another clip of the same notes."""
    model.eval()
    clips = np.linspace(0, len(held.labels) - 1, min(24, len(held.labels))).astype(int)
    out, half, no_text = {}, settings.frames // 2, torch.zeros(12, 1, dtype=torch.long)
    for name, shift, drop in (("text", 0, False), ("no_text", 0, True), ("other_text", 5, False)):
        total = torch.zeros(QUANTISERS)
        for chunk in np.array_split(clips, 3):
            rows = [held.text[(clip + shift) % len(held.text)][0] for clip in chunk]
            text, mask = held.texts(rows, np.full(len(chunk), drop))
            codes = torch.from_numpy(held.codes[chunk, :, : half // 2].astype(np.int64))
            total += model(*(t.to(settings.device) for t in (text, mask, codes))).mean((0, 2)).cpu() * len(chunk)
        out[name] = [round(float(v), 4) for v in total / len(clips)]
    for kind in ("solo", "band"):
        clips = [clip for clip, row in enumerate(held.labels) if row["kind"] == kind][::11][:12]
        others = [max(held.alike[held.piece(held.labels[clip])], key=lambda other: (other - clip) % 8) for clip in clips]
        for name, second in (("loop", clips), ("takeover", others)):
            codes = np.concatenate([held.codes[clips][:, :, :half], held.codes[second][:, :, half:]], 2).astype(np.int64)
            text = no_text[: len(clips)]
            losses = model(*(t.to(settings.device) for t in (text, text, torch.from_numpy(codes))))[:, :, half + 4 :]
            out[f"{kind} {name}"] = [round(float(v), 4) for v in losses.mean((0, 2))]
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
    if not (folder / "state.pt").exists():
        if not settings.start_from or load_start(model, settings):
            look_back(model.decoder, LAGS)
            some = open_codes("train", settings)[:: max(1, encoded("train", settings) // 64)]
            paid = sharpen(model.cpu(), LAGS, torch.from_numpy(some[:64].astype(np.int64)), steps=500)
            print(f"lm: heads that look back pay {paid:.0%} of their attention to their places", flush=True)
            model.to(settings.device)
    optimizer = make_optimizer(model, settings)
    rng = np.random.default_rng((settings.seed, 12))
    state = load_state(folder / "state.pt", model=model, optimizer=optimizer, rng=rng)
    optimizer.param_groups[-1]["scale"] = text_rate(settings)  # a stored run brings the one it began with
    average = Average(model, folder / "state.pt")
    averaged = LanguageModel(settings).to(settings.device)
    step, clock, log = state["step"], Clock(state["seconds"]), Log(folder / "log.jsonl", state["step"])
    batches, held = Batches("train", settings), Batches("heldout", settings)
    budget, saved = settings.lm_minutes * 60, time.monotonic()
    model.train()
    while clock.seconds() < budget:
        rate = settings.lm_rate * warm_hold_decay(step, clock.seconds() / budget, warm=60, hold=0.25)
        for group in optimizer.param_groups:
            group["lr"] = rate
        text, mask, codes, weights = (t.to(settings.device) for t in batches.draw(rng))
        speaks = bool(settings.start_from) or step > OWN_AFTER
        kind = "clips" if codes.shape[2] == settings.frames else "pieces"  # in whole clips it would learn to distrust what it heard before
        own = float(rng.uniform(0.1, 0.5)) if speaks and rng.random() < OWN[kind] else 0.0
        losses = by_codebook(model(text, mask, codes, own), weights)
        optimizer.zero_grad(set_to_none=True)
        (losses * torch.tensor(BOOKS, device=losses.device)).mean().backward()
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
