"""What keeping a run's state costs it: `python -m benchmarks.speed.checkpoint`.

Two runs as the command line makes them: the quickstart, whose tasks take a second, so that what is done a
task counts most; and a ResNet-18 on the same digits as images, whose checkpoints hold 11 million weights and
as many momenta. Timed inside each: all that is done to keep the state, after every iteration and at every
task's beginning and end, over the rest of the run's time. Taking and writing a checkpoint (fsync included) is
timed on those that the run writes, and counts as often as by default: once in ten minutes. Wall clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from dsn.experiment.base.quiet import importing_avalanche
from dsn.experiment.config.experiment import CheckpointConfig, Config, load
from dsn.experiment.run.checkpoint import LATEST, Checkpoints

QUICKSTART = Path(__file__).parent.parent.parent / "configs" / "quickstart.yaml"
RUNS = {
    "ResNet-18": [
        "stream={name: split_digits, tasks: 2, classes_per_task: 5, flatten: false, validation: 0.1}",
        "backbone={name: resnet18}",
        "train.epochs=1",
        "checkpoint={minutes: null, iterations: 10}",
    ],
    "quickstart": ["checkpoint={minutes: null, iterations: 100}"],
}


def main() -> None:
    """Run, time, print."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for name, overrides in RUNS.items():
        share, size, written = cost(load(QUICKSTART, overrides))
        print(f"{name}: a checkpoint of {size / 1e6:.2f} MB takes {written:.3f} s")
        print(f"{name}: keeping the state over the rest of the run: ratio {share:.5f}")


def cost(config: Config) -> tuple[float, int, float]:
    """The share of keeping the state at the default interval; bytes and seconds of one checkpoint."""
    with importing_avalanche():
        from dsn.experiment.run.run import run

    original, seconds, sizes = Checkpoints.rest, {False: 0.0, True: 0.0}, []

    def timed(self: Checkpoints, before: str, make: Callable[[], Any]) -> None:
        known, began = inode(self.folder / LATEST), time.perf_counter()
        original(self, before, make)
        took = time.perf_counter() - began
        wrote = inode(self.folder / LATEST) != known
        seconds[wrote] += took
        if wrote:
            sizes.append((self.folder / LATEST).stat().st_size)

    setattr(Checkpoints, "rest", timed)  # noqa: B010  (a method)
    try:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run(config, Path(folder) / "out", console=Console(quiet=True))
            total = time.perf_counter() - began
    finally:
        setattr(Checkpoints, "rest", original)  # noqa: B010
    written = seconds[True] / len(sizes)
    interval = 60 * (CheckpointConfig().minutes or float("inf"))
    always = seconds[False] / (total - sum(seconds.values()))
    return always + written / interval, max(sizes), written


def inode(path: Path) -> int | None:
    """What tells a file from one that has taken its place."""
    return path.stat().st_ino if path.exists() else None


if __name__ == "__main__":
    main()
