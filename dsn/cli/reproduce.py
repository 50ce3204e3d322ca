"""``reproduce``: exit status 1 when a run failed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .options import add_jobs, add_settings, engine, settings, shown
from .status import FAILED, INTERRUPTED


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser(
        "reproduce", help="a published protocol: the papers' figures and ours in one table, reproduced.md"
    )
    command.set_defaults(do=do)
    command.add_argument(
        "protocol", metavar="PROTOCOL", help="e.g. permuted_mnist_10, or a YAML file; a wrong one lists all"
    )
    command.add_argument(
        "--strategies", metavar="NAME,NAME,...", help="dsn,wsn,supsup,packnet,hat,independent,joint"
    )
    command.add_argument("--seeds", default="0,1,2", metavar="N,N,...", help="default: 0,1,2")
    command.add_argument("--epochs", type=int, metavar="N", help="at most N a task; said in the table")
    add_settings(command)
    add_jobs(command)
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the same folder goes on where it was stopped; default: results/<protocol>-reproduce",
    )
    command.add_argument(
        "--published", type=Path, metavar="FILE", help="published numbers; default: configs/published.yaml"
    )


def do(options: argparse.Namespace, words: list[str]) -> None:
    """Its call."""

    chosen = engine(options)
    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.report.reproduce import STRATEGIES, reproduce

    try:
        comparison, table = reproduce(
            options.protocol,
            options.strategies or STRATEGIES,
            options.seeds,
            settings(options),
            epochs=options.epochs,
            out=options.out,
            engine=chosen,
            published=options.published,
            command=shown(words),
        )
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    print(f"papers and ours side by side: {table}")
    if comparison.failed:
        sys.exit(FAILED)
