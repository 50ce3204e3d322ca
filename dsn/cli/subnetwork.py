"""``subnetwork``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser("subnetwork", help="a task's subnetwork, cut out, as a file of its own")
    command.set_defaults(do=do)
    command.add_argument("run", type=Path, metavar="RUN", help="folder that run.py run wrote")
    command.add_argument("--task", type=int, required=True, metavar="N")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="new file")
    command.add_argument(
        "--format",
        choices=["safetensors", "torchscript", "onnx"],
        help="default: by the ending of FILE, .safetensors, .pt or .onnx",
    )


def do(options: argparse.Namespace, _words: list[str]) -> None:
    """Its call."""
    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.result.subnetwork import export_subnetwork

    export_subnetwork(options.run, options.task, options.out, kind=options.format)
