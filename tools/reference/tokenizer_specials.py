"""Writes what Hugging Face's tokenizers make of prompts with literal special tokens and unusual white space: the fixture
tokenizer plus the special tokens that T5's has, which the fixture's own cases do without.

    python tokenizer_specials.py ../../test/fixtures/tokenizer

Made with tokenizers 0.23.3.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

# The flags of t5-base's own tokenizer.json. Ids from 3000 on follow the fixture's vocabulary.
SPECIALS = [("<pad>", 0, False), ("</s>", 1, False), ("<unk>", 2, False), ("<extra_id_1>", 3000, True), ("<extra_id_10>", 3001, True)]
BY_HAND = [
    "<extra_id_1> piano </s>", "</s></s>", "<unk>x", "a<pad>b", "<extra_id_100>", "<extra_id_10>", "<extra_id_2>",
    "＜/s＞ x", "x\u0085y", "x\ufeffy", "  <extra_id_1>  ", "\u00a0\u0308<extra_id_1>\u00a0\u0308", "<extra_id_1>\u00a0\u0301x", "▁a▁▁b", "▁", "",
    " ", "\t\n", "<", "</s", "a </s>",
]  # fmt: skip
SPACES = ["", " ", "  ", "\t", "\n", "\u0085", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff"]
WORDS = ["self", "model", "torch", "ﬁne", "½", "e\u0301\u0323", "日本", "🎵", "90s", "▁", "if"]


def main() -> None:
    directory = Path(sys.argv[1])
    file = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    file["added_tokens"] = [special_token(*special) for special in SPECIALS]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in BY_HAND + random_texts(150)]
    result = {"made_by": "tokenizer_specials.py", "added_tokens": file["added_tokens"], "cases": cases}
    (directory / "specials.json").write_text(json.dumps(result, ensure_ascii=True, indent=0) + "\n", encoding="utf-8")


def special_token(content: str, number: int, takes_space: bool) -> dict[str, object]:
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": takes_space,
        "rstrip": takes_space,
        "normalized": False,
        "special": True,
    }


def random_texts(count: int) -> list[str]:
    choose = random.Random(5)
    parts = [content for content, _, _ in SPECIALS] + WORDS
    return [
        "".join(choose.choice(parts) + choose.choice(SPACES) for _ in range(choose.randint(1, 7))) for _ in range(count)
    ]


if __name__ == "__main__":
    main()
