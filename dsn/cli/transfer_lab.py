"""``transfer-lab``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_config, device, shown


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser(
        "transfer-lab", help="measure backward transfer beside its controls and an oracle, over seeds"
    )
    command.set_defaults(do=do)
    add_config(command)
    command.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N,...", help="default: 0,1,2,3,4")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<config>-lab"
    )


def do(options: argparse.Namespace, words: list[str]) -> None:
    """Its call."""
    from ..experiment.config.experiment import load
    from ..experiment.config.seeds import parse_seeds
    from ..experiment.config.unused import say_unused

    seeds = parse_seeds(options.seeds)
    say_unused(options.config, options.overrides, "transfer-lab", seeds)
    config = load(options.config, [*options.overrides, *device(options)])

    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.labs.transfer import lab

    lab(config, seeds, options.out, name=options.config.stem, command=shown(words))
