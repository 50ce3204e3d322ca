"""Start-up: `python -m benchmarks.speed.start`.

``run.py --help`` and ``import dsn`` (with torch, without Avalanche) in fresh processes, ``import torch``
beside them; medians of CPU time, so that what else
the machine does counts little. The last line is ``import dsn``
over ``import torch``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COMMANDS = {
    "run.py --help": [str(ROOT / "run.py"), "--help"],
    "import dsn": ["-c", "import dsn, sys; assert 'avalanche' not in sys.modules"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    """Start, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():  # the first start reads files from the disk
        cpu_seconds(command)
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            seconds[name].append(cpu_seconds(command))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.2f} s")
    print(f"ratio: {medians['import dsn'] / medians['import torch']:.2f}")


def cpu_seconds(command: list[str]) -> float:
    """CPU time of Python with these arguments. Raises CalledProcessError where it fails."""
    before = os.times()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
