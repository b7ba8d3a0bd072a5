"""`python -m tools.train STAGE... --work DIR [--set name=value ...]`; stages run in the order given."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from .settings import load

STAGES = ("render", "codec", "listen", "encode", "lm", "decoder", "export", "judge", "evaluate", "material")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train", description=__doc__)
    parser.add_argument("stages", nargs="+", choices=(*STAGES, "all"))
    parser.add_argument("--work", type=Path, required=True, help="folder for data, checkpoints and logs (outside the repository)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of settings.py")
    arguments = parser.parse_args()
    settings = load(arguments.work, dict(pair.split("=", 1) for pair in arguments.set))
    for stage in STAGES if "all" in arguments.stages else arguments.stages:
        importlib.import_module(f".{stage}", __package__).run(settings)


if __name__ == "__main__":
    main()
