"""Writes what julius, audiocraft's resampler, makes of a chirp at several rates.

    pip install julius
    python resampled.py ../../test/fixtures/resampled.json
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import julius
import torch

SAMPLES = 300
RATES = ((44100, 32000), (32000, 44100), (48000, 32000), (32000, 48000), (22050, 32000), (8000, 7999))


def main() -> None:
    index = torch.arange(SAMPLES, dtype=torch.float64)
    chirp = 0.5 * torch.sin(0.002 * index.square()) + 0.2
    torch.Tensor.float = torch.Tensor.double  # julius makes its kernels in float32, which costs it 2e-5
    results = []
    for old, new in RATES:
        samples = julius.resample_frac(chirp, old, new)
        results.append({"from": old, "to": new, "samples": [float(f"{value:.8g}") for value in samples.tolist()]})
    source = f"julius {version('julius')}; see tools/reference"
    Path(sys.argv[1]).write_text(json.dumps({"source": source, "results": results}) + "\n")


if __name__ == "__main__":
    main()
