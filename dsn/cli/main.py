"""All commands, and how they end."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from . import (
    ablation,
    compare,
    forget,
    impressions,
    report,
    reproduce,
    run,
    settings,
    subnetwork,
    topology,
    transfer_lab,
    verify,
)
from .options import shown
from .standard_streams import with_standard_streams
from .status import BAD_INPUT

COMMANDS = (
    run,
    verify,
    transfer_lab,
    impressions,
    subnetwork,
    forget,
    ablation,
    settings,
    topology,
    compare,
    reproduce,
    report,
)
"""as ``--help`` lists them"""
OURS = ("dsn", "benchmarks")


def main(arguments: list[str] | None = None, program: str = "run.py") -> int:
    """Run a command; returns the exit status: 0, 1 when a run of several failed, 2 for bad input, 130 when
    interrupted, 143 or 129 when ended by SIGTERM or SIGHUP."""
    options = make_parser(program).parse_args(arguments)
    words = [program, *(sys.argv[1:] if arguments is None else arguments)]
    try:
        return _do(options, words)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        print(
            f"error: the package {error.name} is missing; install what this needs with pip install -e . in "
            f"{Path(__file__).resolve().parents[2]}",
            file=sys.stderr,
        )
        return BAD_INPUT


def _do(options: argparse.Namespace, words: list[str]) -> int:
    from ..errors import InputError, Stopped
    from ..experiment.base.interrupts import Ending

    try:
        with Ending() as ending:
            options.do(options, words)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped(signal.SIGINT)
        if stopped.kept:
            print(f"stopped; go on with: {_to_go_on(words, stopped.out)}", file=sys.stderr)
        else:
            print("interrupted, nothing was written", file=sys.stderr)
        return 128 + stopped.signal
    return 0 if ending.came is None else 128 + ending.came


def make_parser(program: str) -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Task-incremental continual learning with subnetworks that are never forgotten.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _to_go_on(command: list[str], out: str) -> str:
    """The command that resumes the run that ``command`` began in ``out``."""
    named = any(word == "--out" or word.startswith("--out=") for word in command)
    resumed = "--resume" in command
    return shown([*command, *([] if named else ["--out", out]), *([] if resumed else ["--resume"])])


def command_line() -> int:
    """The command ``dsn``."""
    return with_standard_streams(lambda: main(program="dsn"))
