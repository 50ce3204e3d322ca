"""Kill a small run at random moments and resume it: `python -m benchmarks.kills`.

One run goes through undisturbed. Then, --kills times, a run of the same config is killed by SIGKILL and
resumed to its end; every second one is killed a second time on the way. Kills of each kind take turns:
anywhere in the run, while a task is trained, at a task's end (taking stock, forward and backward transfer,
with impressions), while it is evaluated, and while a checkpoint is written. What must be equal: result.json
but for times and environment, so the accuracy matrix too, and the model file (masks, weights, heads, norm
state) byte for byte. Each kill, resume and loss is printed, the totals last; exit status 1 if any was lost.

A process that has imported everything is forked for each attempt, so that no kill costs an import.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("anywhere", "training", "task end", "evaluation", "checkpoint")
CONFIG: dict[str, Any] = {
    "stream": {
        "name": "rotated",
        "data": "digits",
        "tasks": 3,
        "angles": [0, 9, 5],
        "train_per_class": 20,
        "validation": 0.3,
    },
    "backbone": {"name": "mlp", "widths": [64, 48]},
    "train": {
        "epochs": 6,
        "consolidation_epochs": 2,
        "batch_size": 8,
        "lr": 0.03,
        "momentum": 0.9,
        "schedule": "plateau",
        "restore_best": True,
    },
    "selection": {"sparsity": 0.1, "annealing": "task", "logit_mean": 2.0},
    "transfer": {"acceptance": "held_out_impressions"},
    "replay": {"images": 20, "steps": 10},
    "checkpoint": {"minutes": None, "iterations": 5},
    "threads": 1,
}
LONGEST = 600.0


def main() -> int:
    """Kill, resume, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()

    import torch

    from dsn.experiment.base.quiet import importing_avalanche
    from dsn.experiment.config.experiment import Config

    with importing_avalanche():
        import dsn.experiment.run.run  # noqa: F401
    torch.set_num_threads(1)
    config = Config.model_validate(CONFIG)
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        return kill_all(config, arguments.kills, draw, Path(folder))


def kill_all(config: Any, kills: int, draw: random.Random, folder: Path) -> int:
    """See the head of this file. Returns the exit status."""
    whole = folder / "whole"
    began = time.monotonic()
    seen = attempt(config, whole, None)
    seconds = time.monotonic() - began
    places = {kind: sum(what == kind for what in seen) for kind in KINDS}
    print(f"undisturbed: {seconds:.1f} s, {places['checkpoint']} checkpoints written", flush=True)
    made = resumes = losses = 0
    for number in range(kills):
        out, kind, told = folder / f"run{number}", KINDS[number % len(KINDS)], []
        for again in range(2 if number % 2 else 1):
            moment = at_random(kind, places, seconds, draw)
            attempt(config, out, moment, resume=bool(again))
            if not moment.killed:  # it came to its end first
                break
            told.append(moment.told)
        made, resumes = made + len(told), resumes + 1
        attempt(config, out, None, resume=True)
        difference = compare(out, whole)
        losses += difference is not None
        print(f"{number + 1}: {kind}: {'; '.join(told) or 'not hit'}: {difference or 'same'}", flush=True)
        shutil.rmtree(out, ignore_errors=True)
    print(f"kills: {made}, resumes: {resumes}, losses: {losses}")
    return 1 if losses else 0


class Moment:
    """When to kill: ``delay`` seconds after the ``count``-th time that ``what`` begins, None: the start.

    killed: whether it came to that; told: what had begun last
    """

    def __init__(self, what: str | None, count: int, delay: float) -> None:
        self.what, self.count, self.delay = what, count, delay
        self.killed, self.told = False, ""


def at_random(kind: str, places: dict[str, int], seconds: float, draw: random.Random) -> Moment:
    """A moment of this kind: few milliseconds into what is short, anywhere in what is long."""
    if kind == "anywhere" or not places[kind]:
        return Moment(None, 0, draw.uniform(0, seconds))
    share = {"training": 0.2, "task end": 0.1, "evaluation": 0.005, "checkpoint": 0.003}[kind]
    return Moment(kind, draw.randint(1, places[kind]), draw.uniform(0, share * min(seconds, 3)))


def attempt(config: Any, out: Path, moment: Moment | None, *, resume: bool = False) -> list[str]:
    """Run ``config`` into ``out`` in a child; kill it at ``moment``. Returns what it began, in order.

    Raises RuntimeError where it fails by itself.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        work(config, out, resume, writing)
    os.close(writing)
    try:
        seen = watch(child, reading, moment)
    finally:
        os.close(reading)
    _, status = os.waitpid(child, 0)
    if moment is not None and os.WIFSIGNALED(status):
        moment.killed, moment.told = True, seen[-1] if seen else "before anything"
        return seen
    if status:
        raise RuntimeError(f"the run in {out} failed with status {status}")
    return seen


def watch(child: int, reading: int, moment: Moment | None) -> list[str]:
    """Read what the child says it begins, one line each, until it ends; kill it when its moment has come."""
    began, rest = time.monotonic(), b""
    seen: list[str] = []
    due = began + moment.delay if moment is not None and moment.what is None else None
    while time.monotonic() < began + LONGEST:
        left = LONGEST if due is None else max(due - time.monotonic(), 0)
        ready, _, _ = select.select([reading], [], [], left)
        if due is not None and time.monotonic() >= due:
            os.kill(child, signal.SIGKILL)
            return seen
        if not ready:
            continue
        part = os.read(reading, 4096)
        if not part:
            return seen
        *lines, rest = (rest + part).split(b"\n")
        seen += [line.decode() for line in lines]
        if moment is not None and due is None and seen.count(str(moment.what)) >= moment.count:
            due = time.monotonic() + moment.delay
    os.kill(child, signal.SIGKILL)
    raise RuntimeError(f"a run took longer than {LONGEST} s")


def work(config: Any, out: Path, resume: bool, writing: int) -> None:
    """The life of a child."""
    status = 1
    try:
        from rich.console import Console

        from dsn.experiment.run import checkpoint
        from dsn.experiment.run.run import run
        from dsn.training import DSN, strategy

        def told(name: str, holder: Any, kind: str) -> None:
            inner: Callable[..., Any] = getattr(holder, name)

            def outer(*arguments: Any, **options: Any) -> Any:
                os.write(writing, f"{kind}\n".encode())
                return inner(*arguments, **options)

            setattr(holder, name, outer)

        told("write_bytes", checkpoint, "checkpoint")
        told("end_task", strategy, "task end")
        told("_train_exp", DSN, "training")
        told("eval", DSN, "evaluation")
        with open(os.devnull, "w") as nowhere:
            run(config, out, console=Console(file=nowhere), resume=resume)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def compare(out: Path, whole: Path) -> str | None:
    """The first thing in which two finished runs differ, or None."""
    if not (out / "result.json").is_file():
        return "LOST: no result"
    one, other = (json.loads((path / "result.json").read_text()) for path in (out, whole))
    for key in other:
        if key not in ("timings", "environment") and one.get(key) != other[key]:
            return f"LOST: {key} differs"
    models = [(path / "model.safetensors").read_bytes() for path in (out, whole)]
    return None if models[0] == models[1] else "LOST: the model differs"


if __name__ == "__main__":
    sys.exit(main())
