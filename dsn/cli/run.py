"""``run``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_config, device


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser("run", help="learn one stream, evaluate, write the result")
    command.set_defaults(do=do)
    add_config(command)
    command.add_argument("--seed", type=int, metavar="N", help="seed, instead of the config's")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<config>-seed<N>"
    )
    command.add_argument(
        "--verbose",
        action="store_true",
        help="also print each epoch's loss, each task's topology, each transfer",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run that was interrupted in --out; without one, begin",
    )


def do(options: argparse.Namespace, _words: list[str]) -> None:
    """Its call."""
    from ..experiment.base.ranks import joined
    from ..experiment.config.experiment import load

    seed = [] if options.seed is None else [f"seed={options.seed}"]
    with joined() as ranks:
        config = load(options.config, [*options.overrides, *seed, *device(options)])

        from ..experiment.base.quiet import importing_avalanche

        with importing_avalanche():
            from ..experiment.run.run import follow, run

        if ranks.number:
            follow(config)
            return
        run(
            config,
            options.out,
            name=options.config.stem,
            verbose=options.verbose,
            resume=options.resume,
            page=None if config.tracker in ("none", "tensorboard") else _page,
        )


def _page(folder: Path, out: Path) -> Path:
    from ..experiment.report.write import report

    return report(folder, out)
