"""``settings-ablation``."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_lab, engine, seeds_of, settings, shown


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser(
        "settings-ablation", help="what any settings are worth: ACC of variants, paired by seed"
    )
    command.set_defaults(do=do)
    add_lab(command, "settings", varied="settings")


def do(options: argparse.Namespace, words: list[str]) -> None:
    """Its call."""
    chosen = engine(options)
    seeds = seeds_of(options, "settings-ablation")

    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.labs.settings import load_settings, settings_ablation

    variants = load_settings(options.config, settings(options), options.vary)
    settings_ablation(
        variants, seeds, options.out, name=options.config.stem, engine=chosen, command=shown(words)
    )
