"""``compare``: exit status 1 when a run failed."""

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
        "compare", help="several strategies over several seeds: what is missing is run, then statistics"
    )
    command.set_defaults(do=do)
    command.add_argument(
        "configs", type=Path, nargs="+", metavar="CONFIG", help="YAML file; several: one stream each"
    )
    command.add_argument("--strategies", required=True, metavar="NAME,NAME,...", help="e.g. dsn,ewc,naive")
    command.add_argument("--seeds", default="0,1,2", metavar="N,N,...", help="default: 0,1,2")
    add_settings(command)
    add_jobs(command)
    command.add_argument("--reference", metavar="NAME", help="strategy that others are compared with; dsn")
    command.add_argument(
        "--tune",
        type=int,
        metavar="N",
        help="choose hyper-parameters by validation accuracy on the first tasks, N trials a strategy",
    )
    command.add_argument("--tune-tasks", type=int, default=2, metavar="N", help="the first N tasks; 2")
    command.add_argument(
        "--tune-seeds", metavar="N,N,...", help="seeds of each trial; default: the first of --seeds"
    )
    command.add_argument(
        "--tune-only",
        action="store_true",
        help="with --tune: write and print what was chosen, and run nothing",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the same folder goes on where it was stopped; default: results/<config>-compare",
    )


def do(options: argparse.Namespace, words: list[str]) -> None:
    """Its call."""
    from ..experiment.compare.plan import make_plan
    from ..experiment.config.seeds import parse_seeds
    from ..experiment.config.unused import say_unused

    chosen = engine(options)
    seeds = parse_seeds(options.seeds)
    for path in options.configs:
        say_unused(path, options.overrides, "compare", seeds)
    plan = make_plan(
        options.configs,
        options.strategies,
        options.seeds,
        settings(options),
        reference=options.reference,
        tune=options.tune,
        tune_tasks=options.tune_tasks,
        tune_seeds=options.tune_seeds,
        tune_only=options.tune_only,
        command=shown(words),
    )
    out = options.out or Path("results") / ("+".join(path.stem for path in options.configs) + "-compare")

    from ..experiment.compare.compare import compare

    try:
        comparison = compare(plan, out, engine=chosen)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if comparison.failed:
        sys.exit(FAILED)
