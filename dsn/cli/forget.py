"""``forget``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser("forget", help="a finished run without one of its tasks, in a new folder")
    command.set_defaults(do=do)
    command.add_argument("run", type=Path, metavar="RUN", help="folder that run.py run wrote; it stays")
    command.add_argument("--task", type=int, required=True, metavar="N")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<run>-without-<N>"
    )
    others = command.add_mutually_exclusive_group()
    others.add_argument(
        "--cascade", action="store_true", help="remove the tasks that compute with its weights, too"
    )
    others.add_argument(
        "--keep-shared", action="store_true", help="leave the weights that others compute with"
    )


def do(options: argparse.Namespace, _words: list[str]) -> None:
    """Its call."""
    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.result.forget import forget_task

    forget_task(
        options.run, options.task, options.out, cascade=options.cascade, keep_shared=options.keep_shared
    )
