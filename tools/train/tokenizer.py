"""A T5 tokenizer trained on the captions: SentencePiece unigram, ids 0 <pad>, 1 </s>, 2 <unk>, Unicode NFKC and case folding.

SentencePiece's pruning leaves few whole words of so small a corpus, so the captions' words join its pieces as they are.
tokenizer.json is written in the form of T5's own (Precompiled normaliser, white-space split, Metaspace, </s> at the end).
"""

from __future__ import annotations

import base64
import io
import math
import re
import shutil
import string
from collections import Counter
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

from .render import read_labels
from .settings import Settings, write_json

METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def caption_texts(settings: Settings) -> list[str]:
    return [text for row in read_labels("train", settings) for text in row["captions"]]


def train_pieces(captions: list[str], settings: Settings) -> bytes:
    """The SentencePiece model of the captions, serialised. Every printable ASCII character is a piece."""
    letters = "".join(c for c in string.printable if not c.isspace() and not c.isupper())
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=out,
        model_type="unigram",
        vocab_size=settings.vocab,
        hard_vocab_limit=False,
        required_chars=letters,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


def tokenizer_json(model: bytes, captions: list[str]) -> dict:
    """tokenizer.json for a serialised SentencePiece model and the captions' whole words."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    pieces = {p.piece: p.score for p in proto.pieces}
    words = Counter("▁" + word for text in captions for word in re.findall(r"[a-z-]+", text.lower()))
    for word, count in sorted(words.items()):
        pieces.setdefault(word, math.log(count / words.total()))
    specials = [
        {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for number, text in enumerate(("<pad>", "</s>", "<unk>"))
    ]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": {
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode(),
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, end],
            "pair": [first, end, second, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": METASPACE,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [list(item) for item in pieces.items()], "byte_fallback": False},
    }


def load_tokenizer(settings: Settings) -> Tokenizer:
    """The run's tokenizer, trained on first use and kept."""
    folder = settings.work / "lm"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        if settings.start_from:
            shutil.copy(Path(settings.start_from) / "tokenizer.json", folder / "tokenizer.json")
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        captions = caption_texts(settings)
        write_json(folder / "tokenizer.json", tokenizer_json(train_pieces(captions, settings), captions))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def write_tokenizer(settings: Settings, folder: Path) -> None:
    load_tokenizer(settings)
    (folder / "tokenizer.json").write_bytes((settings.work / "lm" / "tokenizer.json").read_bytes())
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "T5Tokenizer", **special, "extra_ids": 0, "additional_special_tokens": [], "model_max_length": 512}
    write_json(folder / "tokenizer_config.json", config)
