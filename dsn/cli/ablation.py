"""``transfer-ablation``."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_lab, engine, seeds_of, settings, shown


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser(
        "transfer-ablation", help="what each setting of replay and transfer is worth, on the same networks"
    )
    command.set_defaults(do=do)
    add_lab(command, "ablation", varied="settings of transfer and replay,")


def do(options: argparse.Namespace, words: list[str]) -> None:
    """Its call."""
    chosen = engine(options)
    seeds = seeds_of(options, "transfer-ablation")

    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.labs.ablation import ablation, load_variants

    variants = load_variants(options.config, settings(options), options.vary)
    ablation(variants, seeds, options.out, name=options.config.stem, engine=chosen, command=shown(words))
