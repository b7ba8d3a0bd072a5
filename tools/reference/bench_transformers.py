"""The Python side of the speed comparison: what transformers needs for the work that `npm run bench` measures.

Prints JSON. Every measurement runs in a process of its own, so that its peak memory is its own. See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DTYPES = ("float32", "bfloat16")
TEXT = "a slow jazz trio with brushed drums and a walking bass, late at night"
SECONDS = 10


def main() -> None:
    options = parse_options()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    load = os.getloadavg()[0]  # above 0: something else is running, and times are worth less
    results = {}
    for name in options.only:
        for dtype in options.dtypes:
            if name == "codec" and dtype != "float32":
                continue  # EnCodec is kept in float32 everywhere
            results[f"{name}_{dtype}"] = in_own_process(name, dtype, options)
    about = {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "threads": options.threads,
        "model": options.model.name,
        "load_average_before": round(load, 2),
    }
    print(json.dumps(about | results, indent=2))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a checkpoint directory")
    parser.add_argument("--steps", type=int, default=60, help="guided steps to time")
    parser.add_argument("--frames", type=int, default=500, help="frames of the teacher-forced pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--repeats", type=int, default=3, help="how often the other measurements run; the median counts"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=tuple(MEASUREMENTS))
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(name: str, dtype: str, options: argparse.Namespace) -> Any:
    command = [sys.executable, __file__, "--measure", name, "--dtypes", dtype]
    for option in ("model", "steps", "frames", "threads", "repeats"):
        command += [f"--{option}", str(getattr(options, option))]
    # The variable rules over torch.set_num_threads in some libraries, and both must agree.
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return json.loads(run.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    imported = seconds_since_start()
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(
        options.model, dtype=getattr(torch, options.dtypes[0]), local_files_only=True
    ).eval()
    loaded = seconds_since_start()
    with torch.inference_mode():
        result = MEASUREMENTS[options.measure](model, options)
    return {
        "import_seconds": round(imported, 2),
        "load_seconds": round(loaded - imported, 2),
        **result,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def generation(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Guided greedy generation as a user runs it: one clip, guidance 3, key-value cache."""
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(options.model / "tokenizer.json"))
    text = tokenizer(TEXT, return_tensors="pt")
    ends: list[float] = []

    class Clock(transformers.StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            ends.append(seconds_since_start())
            return input_ids.new_zeros(input_ids.shape[0], dtype=bool)

    model.generate(
        input_ids=text.input_ids,
        attention_mask=text.attention_mask,
        do_sample=False,
        guidance_scale=3.0,
        max_new_tokens=options.steps + 1,
        stopping_criteria=[Clock()],
    )
    steps = [1000 * (end - start) for start, end in zip(ends, ends[1:], strict=False)]
    return {
        "start_to_first_token_seconds": round(ends[0], 2),
        "step_ms": round(statistics.median(steps), 1),
        "step_ms_fastest": round(min(steps), 1),
        "step_ms_quartiles": [round(value, 1) for value in statistics.quantiles(steps, n=4)],
        "steps": len(steps),
    }


def forward(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One teacher-forced pass of a clip that keeps the hidden states: what collecting activations costs."""
    import torch

    torch.manual_seed(0)
    codebooks = model.config.decoder.num_codebooks
    codes = torch.randint(model.config.decoder.vocab_size, (codebooks, options.frames))
    text = torch.randint(3, 32000, (1, 20))
    mask = torch.ones_like(text)

    def run() -> None:
        model(input_ids=text, attention_mask=mask, decoder_input_ids=codes, output_hidden_states=True, use_cache=False)

    seconds = median_seconds(run, options.repeats)
    return {
        "seconds": round(seconds, 3),
        "frames": options.frames,
        "frames_per_second": round(options.frames / seconds),
    }


def codec(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """EnCodec on ten seconds of mono audio."""
    import torch

    torch.manual_seed(0)
    encodec = model.audio_encoder
    wav = 0.1 * torch.randn(1, 1, SECONDS * 32000)
    codes = encodec.encode(wav).audio_codes
    return {
        "audio_seconds": SECONDS,
        "encode_seconds": round(median_seconds(lambda: encodec.encode(wav), options.repeats), 2),
        "decode_seconds": round(median_seconds(lambda: encodec.decode(codes, [None]), options.repeats), 2),
    }


MEASUREMENTS = {"generation": generation, "forward": forward, "codec": codec}


def median_seconds(run: Any, repeats: int) -> float:
    """The median time of a run, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_since_start() -> float:
    """Seconds since this process was started, before Python read its first line."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of the file: ticks since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
