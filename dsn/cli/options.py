"""Options that several commands have, and the command as it can be typed again."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


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


def device(options: argparse.Namespace) -> list[str]:
    """``--device`` as a setting of the config."""
    return [] if options.device is None else [f"device={options.device}"]


def shown(command: list[str]) -> str:
    """The command as it can be typed again, the home folder as ``~``."""
    from ..experiment.base.paths import shortened

    return shortened(shlex.join([*(["python"] if command[0].endswith(".py") else []), *command]))
