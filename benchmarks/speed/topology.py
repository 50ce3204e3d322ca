"""Topology of every task's subnetwork beside the run that measures it: `python -m benchmarks.speed.topology`.

A whole run of a config (by default configs/quickstart.yaml, the shortest there is) in CPU time on one
thread; then what it spends on topology once more, on a copy of its model: the wiring, found once, the
topology of each task after it is learnt, and that of all tasks for result.json. The last line is the second
over the first.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

from rich.console import Console

from benchmarks import streams
from dsn.experiment.config.experiment import load
from dsn.experiment.config.machine import set_up
from dsn.experiment.run.learn import Session, learn
from dsn.masking import MaskedModel
from dsn.topology.tasks import task_topologies, task_topology

CONFIG = Path(__file__).parent.parent.parent / "configs" / "quickstart.yaml"


def main() -> None:
    """Run, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", default=CONFIG)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of the topology; one run is made")
    arguments = parser.parse_args()

    config = load(arguments.config, [*arguments.overrides, "threads=1", "device=cpu"])
    device, benchmark = set_up(config), streams.build(config.stream, config.seed)
    began = time.process_time()
    learnt = learn(Session(config, benchmark, device, Console(quiet=True)))
    spent = time.process_time() - began
    assert learnt.model is not None, "only dsn's network has subnetworks"
    topology = statistics.median(topology_seconds(learnt.model) for _ in range(arguments.rounds))
    print(
        f"{config.stream.name}, {config.backbone.name}, {len(learnt.model.tasks)} tasks: "
        f"{spent:.2f} s, topology {topology:.3f} s"
    )
    print(f"ratio: {topology / spent:.4f}")


def topology_seconds(model: MaskedModel) -> float:
    """CPU time of all that a run measures of ``model``'s subnetworks, with nothing known beforehand."""
    model = copy.deepcopy(model)  # whose wiring has not been looked for
    began = time.process_time()
    for task in model.committed:
        task_topology(model, task)
    task_topologies(model)
    return time.process_time() - began


if __name__ == "__main__":
    main()
