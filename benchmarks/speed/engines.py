"""What an engine adds to short runs: `python -m benchmarks.speed.engines --engine local`.

A comparison of many short runs of scikit-learn digits, two at once, as a user would start it. Printed: wall
seconds from one run's end to that of the run that took its place (median); of these the run's own; the rest
(starting, imports, pictures, handing over); of the whole command; and the peak memory of the command.
Servers for Ray and SLURM: docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent
AT_ONCE = 2
CONFIG = {
    "stream": {"name": "split_digits", "tasks": 2, "train_per_class": 40, "validation": 0.2},
    "backbone": {"name": "mlp", "widths": [32, 16]},
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.1, "momentum": 0.9},
    "threads": 1,
    "device": "cpu",
}
HEAD = ("engine", "runs", "a place, s", "the run, s", "overhead, s", "all, s", "command's memory, MB")


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", default="local")
    parser.add_argument("--engine-args", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where, if not among the machine's temporary files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        row = measured(Path(folder), given.engine, given.engine_args, given.runs)
    print("| " + " | ".join(HEAD) + " |")
    print("|---|" + "---:|" * (len(HEAD) - 1))
    print("| " + " | ".join(row) + " |")


def measured(folder: Path, engine: str, arguments: list[str], runs: int) -> tuple[str, ...]:
    """The cells of a row."""
    config, out = folder / "short.yaml", folder / "out"
    config.write_text(yaml.safe_dump(CONFIG))
    seeds = ",".join(map(str, range(runs)))
    words = [str(config), "--strategies", "naive", "--seeds", seeds, "--out", str(out), "--engine", engine]
    words += ["--jobs", str(AT_ONCE), *(word for one in arguments for word in ("--engine-args", one))]
    began = time.time()
    with (folder / "said").open("w") as said:
        command = subprocess.Popen([sys.executable, str(ROOT / "run.py"), "compare", *words], stdout=said)
        memory = 0.0
        while command.poll() is None:
            memory = max(memory, peak_memory(command.pid))
            time.sleep(0.2)
    if command.returncode:
        raise SystemExit((folder / "said").read_text())
    results = list(out.rglob("result.json"))
    assert len(results) == runs
    ends = sorted(path.stat().st_mtime for path in results)
    place = statistics.median(end - start for start, end in zip(ends, ends[AT_ONCE:], strict=False))
    own = statistics.median(json.loads(path.read_text())["timings"]["total"] for path in results)
    numbers = (place, own, place - own, time.time() - began, memory)
    return (engine, str(runs), *(f"{number:.3g}" for number in numbers))


def peak_memory(process: int) -> float:
    """MB that a process of Linux has had at most; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
