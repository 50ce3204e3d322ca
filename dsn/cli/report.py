"""``report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser("report", help="a page, tables and figures of a run or a comparison")
    command.set_defaults(do=do)
    command.add_argument("folder", type=Path, metavar="DIR", help="folder that run.py run or compare wrote")
    command.add_argument("--out", type=Path, metavar="DIR", help="where it is written; default: DIR itself")
    command.add_argument(
        "--impressions", type=int, default=10, metavar="N", help="pictures a task; 0: none; default: 10"
    )
    command.add_argument(
        "--published", type=Path, metavar="FILE", help="published numbers; default: configs/published.yaml"
    )


def do(options: argparse.Namespace, _words: list[str]) -> None:
    """Its call."""
    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.report import report

    usual = Path(__file__).parents[2] / "configs" / "published.yaml"
    published = options.published or (usual if usual.is_file() else None)
    page = report(options.folder, options.out, impressions=options.impressions, published=published)
    print(f"written to {page}")
