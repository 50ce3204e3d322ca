"""Options that several commands have, and the command as it can be typed again."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..experiment.engine.options import Choice


def add_config(command: argparse.ArgumentParser) -> None:
    """A config, and what changes it."""
    command.add_argument(
        "config", type=Path, metavar="CONFIG", help="YAML file, e.g. configs/quickstart.yaml"
    )
    add_settings(command)


def add_settings(command: argparse.ArgumentParser) -> None:
    """What changes a config."""
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the config, e.g. train.epochs=5; may be repeated",
    )
    command.add_argument("--device", metavar="D", help="auto, cpu, cuda, ..., instead of the config's")


def add_lab(command: argparse.ArgumentParser, suffix: str, varied: str | None = None) -> None:
    """What every lab has: a config, seeds, variants of what is ``varied``, a folder to write, an engine."""
    add_config(command)
    command.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N,...", help="default: 0,1,2,3,4")
    if varied is not None:
        command.add_argument(
            "--vary",
            action="append",
            required=True,
            metavar="'KEY=VALUE ...'",
            help=f"a variant: {varied} parted by spaces; may be repeated",
        )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help=f"new or empty folder; default: results/<config>-{suffix}"
    )
    add_jobs(command)


def add_jobs(command: argparse.ArgumentParser) -> None:
    """What makes the runs, and how many at once."""
    command.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="at once; default: 1 on this machine, on ray and slurm as many as there is room for",
    )
    command.add_argument(
        "--engine", default="local", metavar="NAME", help="local, ray or slurm; default: local"
    )
    command.add_argument(
        "--engine-args",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the engine, e.g. address=auto, partition=long; may be repeated; docs/scale.md",
    )


def engine(options: argparse.Namespace) -> Choice:
    """What makes the runs. Raises InputError for what no engine can be told."""
    from ..experiment.engine.options import parse_choice

    return parse_choice(options.engine, options.jobs, options.engine_args)


def seeds_of(options: argparse.Namespace, command: str) -> list[int]:
    """The seeds of a lab; says which keys of its config ``command`` does not use."""
    from ..experiment.config.seeds import parse_seeds
    from ..experiment.config.unused import say_unused

    seeds = parse_seeds(options.seeds)
    say_unused(options.config, options.overrides, command, seeds)
    return seeds


def settings(options: argparse.Namespace) -> list[str]:
    """``--set`` and ``--device`` as settings of the config."""
    return [*options.overrides, *device(options)]


def device(options: argparse.Namespace) -> list[str]:
    """``--device`` as a setting of the config."""
    return [] if options.device is None else [f"device={options.device}"]


def shown(command: list[str]) -> str:
    """The command as it can be typed again, the home folder as ``~``."""
    from ..experiment.base.paths import shortened

    return shortened(shlex.join([*(["python"] if command[0].endswith(".py") else []), *command]))
