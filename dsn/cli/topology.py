"""``topology``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_lab, engine, seeds_of, settings, shown


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser(
        "topology", help="masks chosen before training: accuracy beside effective nodes and paths"
    )
    command.set_defaults(do=do)
    add_lab(command, "topology")
    command.add_argument("--densities", default="0.1,0.03,0.01", metavar="D,D,...", help="0.1,0.03,0.01")
    command.add_argument(
        "--pruners",
        default="random,uniform,regular,narrow,synflow,phew,npb,snip,magnitude",
        metavar="NAME,NAME,...",
        help="default: random,uniform,regular,narrow,synflow,phew,npb,snip,magnitude",
    )
    command.add_argument(
        "--reference", metavar="NAME", help="the pruner that all others are compared with; default: random"
    )
    command.add_argument("--task", type=int, default=0, metavar="N", help="of the stream; default: 0")
    command.add_argument(
        "--rescale", action="store_true", help="start from weights scaled to each neuron's active fan-in"
    )
    command.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="of measures, a file a network: what is there is not repeated",
    )
    command.add_argument("--alpha", type=float, default=0.01, metavar="A", help="of npb, nodes; 0.01")
    command.add_argument("--beta", type=float, default=1.0, metavar="B", help="of npb, kernels; 1")


def do(options: argparse.Namespace, words: list[str]) -> None:
    """Its call."""
    from ..experiment.config.experiment import load

    chosen = engine(options)
    seeds = seeds_of(options, "topology")
    config = load(options.config, settings(options))

    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.labs.topology import parse_densities, parse_pruners, parse_reference, topology_lab

    pruners = parse_pruners(options.pruners)
    topology_lab(
        config,
        pruners,
        parse_densities(options.densities),
        seeds,
        options.out,
        reference=parse_reference(options.reference, pruners),
        task=options.task,
        rescale=options.rescale,
        npb={"alpha": options.alpha, "beta": options.beta},
        kept=options.keep,
        name=options.config.stem,
        engine=chosen,
        command=shown(words),
    )
