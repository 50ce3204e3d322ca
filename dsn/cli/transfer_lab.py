"""``transfer-lab``."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_lab, engine, seeds_of, settings, shown


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser(
        "transfer-lab", help="measure backward transfer beside its controls and an oracle, over seeds"
    )
    command.set_defaults(do=do)
    add_lab(command, "lab")


def do(options: argparse.Namespace, words: list[str]) -> None:
    """Its call."""
    from ..experiment.config.experiment import load

    chosen = engine(options)
    seeds = seeds_of(options, "transfer-lab")
    config = load(options.config, settings(options))

    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.labs.transfer import lab

    lab(config, seeds, options.out, name=options.config.stem, engine=chosen, command=shown(words))
