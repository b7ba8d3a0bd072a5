"""What transformers computes with the checkpoint that comes with the package: test/fixtures/demo/golden.safetensors.

    python tools/reference/make_demo.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

ROOT = Path(__file__).resolve().parents[2]
TEXT = "a slow trumpet melody"
FRAMES = 8


@torch.no_grad()
def main() -> None:
    folder = ROOT / "weights" / "demo"
    model = MusicgenForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")
    size = model.config.decoder.vocab_size
    codes = torch.randint(0, size, (4, FRAMES), generator=torch.Generator().manual_seed(0))  # [K, F]
    delayed = torch.full((4, FRAMES + 4), size)  # [K, T]: BOS before each codebook begins and after it ends
    for book in range(4):
        delayed[book, 1 + book : 1 + book + FRAMES] = codes[book]
    logits = model(**ids, decoder_input_ids=delayed).logits  # [K, T, V]
    audio = model.audio_encoder.decode(codes[None, None], [None]).audio_values[0, 0]  # [F * 640]
    golden = {"text": ids.input_ids[0].int(), "codes": codes.int(), "logits": logits, "audio": audio}
    path = ROOT / "test" / "fixtures" / "demo" / "golden.safetensors"
    save_file({name: value.contiguous() for name, value in golden.items()}, path, {"text": TEXT})


if __name__ == "__main__":
    main()
