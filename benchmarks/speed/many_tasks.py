"""What a run costs as its tasks become many: `python -m benchmarks.speed.many_tasks`.

Runs of scikit-learn digits, their pixels in a new order for each task, with transfer and a certificate, each
in a process of its own. Printed for each number of tasks: CPU seconds of a task (median of ten) to
train, its end included, and to evaluate (not the last evaluation of all, which takes every fingerprint anew);
of the whole run; the process's peak memory; a checkpoint's size and seconds when all is learnt; the size of
`result.json` and of the model.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

SETTINGS = {
    "stream": {"name": "permuted", "data": "digits", "train_per_class": 10, "validation": 0.2},
    "backbone": {"name": "mlp", "widths": [100, 100]},
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.1, "momentum": 0.9},
    "threads": 1,
    "device": "cpu",
}
HEAD = (
    "tasks",
    "train, s",
    "evaluate, s",
    "whole run, s",
    "memory, MB",
    "checkpoint, MB",
    "checkpoint, s",
    "result.json, MB",
    "model, MB",
)


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measured(given.one)))
        return
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---:|" * len(HEAD), flush=True)
    for tasks in given.tasks:
        command = [sys.executable, "-m", "benchmarks.speed.many_tasks", "--one", str(tasks)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        numbers = json.loads(said.splitlines()[-1])
        print("| " + " | ".join(f"{number:.4g}" for number in numbers) + " |", flush=True)


def measured(tasks: int) -> list[float]:
    """The numbers of a row."""
    from rich.console import Console

    from dsn.experiment.config.experiment import Config
    from dsn.experiment.run.checkpoint import Checkpoints
    from dsn.experiment.run.run import run

    kept: dict[str, float] = {}

    class Measured(Checkpoints):
        """Writes a checkpoint when all is learnt, and takes its time."""

        def rest(self, before: str, make: Any) -> None:
            """As ever, and at the end a checkpoint."""
            super().rest(before, make)
            if before == "result":
                began = time.perf_counter()
                self._write(make())
                kept["seconds"] = time.perf_counter() - began
                kept["bytes"] = (self.folder / "latest.safetensors").stat().st_size

    stream = {**SETTINGS["stream"], "tasks": tasks}  # type: ignore[dict-item]
    config = Config.model_validate({**SETTINGS, "stream": stream})
    with (
        # a run's own clock, too: other processes change nothing
        patch.object(time, "perf_counter", time.process_time),
        patch.dict(run.__globals__, Checkpoints=Measured),
        tempfile.TemporaryDirectory() as folder,
    ):
        out = Path(folder) / "run"
        result, _ = run(config, out, console=Console(quiet=True))
        sizes = [(out / name).stat().st_size / 1e6 for name in ("result.json", "model.safetensors")]
    last = result.timings.tasks[-11:-1]
    return [
        tasks,
        statistics.median(one.train for one in last),
        statistics.median(one.evaluate for one in last),
        result.timings.total,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        kept["bytes"] / 1e6,
        kept["seconds"],
        *sizes,
    ]


if __name__ == "__main__":
    main()
