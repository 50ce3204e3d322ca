"""Hostile configs, damaged and forged result folders: whatever comes in, one clear answer comes out.

    python -m benchmarks.fuzz configs --count 200 --seed 0
    python -m benchmarks.fuzz damaged --count 200 --seed 0
    python -m benchmarks.fuzz forged --count 200 --seed 0

Each case is a command line, run by ``run.py``'s ``main`` in a forked child. What counts as a fault: a
traceback, no end within 20 seconds of processor time, a status other than 0, 1 (of verify alone) or 2, a
refusal that changed the number of threads, and whatever else of the process or the files beside ``--out``
changed. ``--only N`` makes the one case N and prints what it says.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .cases import KINDS
from .child import attempt, last_line, load_command_line, make_base
from .values import (
    Case,
    Ended,
)


def main(arguments: list[str] | None = None) -> int:
    """Make the cases, print the faults and a count; the exit status is 1 where there is a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N")
    options = parser.parse_args(arguments)
    command = load_command_line()
    with tempfile.TemporaryDirectory() as made:
        base = Path(made) / "base"
        base.mkdir()
        if options.kind != "configs":
            make_base(base, command)
        numbers = range(options.count) if options.only is None else [options.only]
        counts: Counter[str] = Counter()
        faults, slowest = 0, 0.0
        for number in numbers:
            folder = Path(made) / "case"
            shutil.copytree(base, folder, symlinks=True)
            case = KINDS[options.kind](random.Random(f"{options.kind} {options.seed} {number}"), folder)
            ended = attempt(case, folder, command)
            shutil.rmtree(folder)
            counts[f"status {ended.status}"] += 1
            slowest = max(slowest, ended.seconds)
            if options.only is not None:
                print(case.arguments, case.told, ended.said, sep="\n")
            if wrong := faults_of(case, ended):
                faults += 1
                print(f"{number}: {case.told}: {'; '.join(wrong)}: {last_line(ended.said)}", flush=True)
    told = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
    print(f"{options.kind}: {len(numbers)} cases, {told}; slowest {slowest:.1f} s; faults: {faults}")
    return 1 if faults else 0


def faults_of(case: Case, ended: Ended) -> list[str]:
    """What is wrong with how a case ended, in words."""
    wrong = list(ended.changed)
    if "Traceback (most recent call last)" in ended.said:
        wrong.append("a traceback")
    allowed = (0, 1, 2) if case.arguments[0] == "verify" else (0, 2)
    if ended.status not in allowed:
        wrong.append(f"status {ended.status}")
    if ended.status == 2 and "error: " not in ended.said:
        wrong.append("refused without a word")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
