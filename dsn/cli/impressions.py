"""``impressions``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser("impressions", help="synthetic inputs of a finished run's tasks")
    command.set_defaults(do=do)
    command.add_argument("run", type=Path, metavar="RUN", help="folder that run.py run wrote")
    command.add_argument("--images", type=int, metavar="N", help="a task, instead of the config's")
    command.add_argument("--generator", metavar="NAME", help="instead of the config's")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<run>-impressions"
    )


def do(options: argparse.Namespace, _words: list[str]) -> None:
    """Its call."""
    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.result.impressions import show_impressions

    show_impressions(options.run, options.out, images=options.images, generator=options.generator)
