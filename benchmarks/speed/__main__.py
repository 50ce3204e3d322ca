"""Run the speed scripts and write the table in docs/speed.md: `python -m benchmarks.speed`.

Each script runs ``--runs`` times in a process of its own; the table has the median and all values, and below
it stands what the last run printed. With ``--only`` what the file holds of other scripts stays as it is. The
file is written after each script, to a temporary name first.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent.parent.parent / "docs" / "speed.md"


@dataclass(frozen=True)
class Claim:
    """``text`` and ``aim`` stand in the table; group 1 of ``pattern`` in the output is what was measured."""

    text: str
    aim: str
    pattern: str


CLAIMS: dict[str, list[Claim]] = {
    "step": [
        Claim(
            "DSN training steps over dense ones, the whole annealing, AlexNet, first task",
            "<= 1.05",
            r"task 1, whole.*ratio (.+)",
        ),
        Claim("the same, at its slowest progress", "", r"task 1, slowest.*ratio (.+)"),
        Claim("the whole annealing, fifth task", "<= 1.05", r"task 5, whole.*ratio (.+)"),
        Claim("the same, at its slowest progress", "", r"task 5, slowest.*ratio (.+)"),
    ],
    "epoch": [
        Claim("an epoch through DSN over a plain loop, MLP, 10,000 images", "<= 1.3", r"^ratio: (.+)"),
        Claim("the same with Avalanche's Naive", "", r"Naive.* ms, (\S+) times"),
    ],
    "tasks": [
        Claim("a training step at task 101 over task 1", "<= 1.05", r"^ratio: (.+)"),
        Claim(
            "bytes of masks a task, two layers of 400",
            "100, then as they grow",
            r"task 1:.* (\d+) bytes of masks",
        ),
        Claim("the same, task 100", "a bit a neuron", r"task 100:.* (\d+) bytes of masks"),
    ],
    "protection": [
        Claim(
            "putting protected weights back: the sweep over the fastest way, at its worst",
            "",
            r"^ratio: (.+)",
        )
    ],
    "start": [
        Claim("`run.py --help`, seconds", "< 1", r"run.py --help: (\S+) s"),
        Claim("`import dsn` without Avalanche, seconds", "< 3", r"import dsn: (\S+) s"),
    ],
    "wrap": [
        Claim("masking ResNet-50 at 224 pixels, CPU seconds", "< 5", r"resnet50: (\S+) CPU s"),
        Claim("the same, ViT-B/16", "< 10", r"vit_b_16: (\S+) CPU s"),
        Claim("the same, on the wall", "< 10", r"vit_b_16: .*; (\S+) s of the wall"),
    ],
    "subnetwork": [
        Claim("full network over a task's subnetwork of half the neurons", ">= 2", r"^ratio: (.+)"),
        Claim("FLOPs ratio over speed-up, small CNN", "<= 1.5", r"small_cnn:.*over speed-up (.+)"),
        Claim("the same, ResNet-18", "<= 1.5", r"resnet18:.*over speed-up (.+)"),
    ],
    "topology": [
        Claim("topology of all subnetworks over the whole run, quickstart", "< 0.01", r"^ratio: (.+)"),
    ],
    "impressions": [
        Claim("1,000 impressions, AlexNet: the reference's CPU time over ours", ">= 50", r"^ratio: (.+)"),
        Claim("their agreement", ">= 0.99", r"agreement: ([0-9.]+)"),
    ],
    "checkpoint": [
        Claim(
            "keeping a run's state over the rest of the run, quickstart", "< 0.01", r"quickstart:.*ratio (.+)"
        ),
        Claim("the same, ResNet-18", "< 0.01", r"ResNet-18:.*ratio (.+)"),
        Claim("a checkpoint of it, seconds", "", r"ResNet-18:.* takes (\S+) s"),
    ],
}
NOTES = {
    "step": """\
Earlier versions of this document had 1.002 and 1.034 here, at progress 0 alone. That left out the rest of the
annealing, where small gates were denormal numbers and a step took 1.4 to 3.9 times as long on this AlexNet,
up to 10 times on a small CNN. Such gates are exactly 0 now.""",
}
"""by script, what to know of what it printed"""

ARGUMENTS = {"epoch": ["--naive"], "impressions": ["--steps", "70"]}


def main() -> None:
    """Run, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(CLAIMS), help="may be repeated")
    arguments = parser.parse_args()

    text = FILE.read_text(encoding="utf-8") if FILE.is_file() else ""
    rows, printed = read_rows(text), read_printed(text)
    for script in arguments.only or CLAIMS:
        command = ["-m", f"benchmarks.speed.{script}", *ARGUMENTS.get(script, [])]
        shown = "python " + " ".join(command)
        print(f"$ {shown}", flush=True)
        outputs = [output_of(command) for _ in range(arguments.runs)]
        rows[shown] = [row(claim, outputs, shown) for claim in CLAIMS[script]]
        printed[shown] = outputs[-1]
        write(rows, printed)
    print(f"written to {FILE}")


def output_of(command: list[str]) -> str:
    """What Python prints with these arguments; it is shown too. Raises CalledProcessError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    print(done.stdout, flush=True)
    return done.stdout


def row(claim: Claim, outputs: list[str], command: str) -> str:
    """A line of the table. Raises ValueError where an output lacks what the claim asks for."""
    found = [re.search(claim.pattern, output, re.MULTILINE) for output in outputs]
    if None in found:
        raise ValueError(f"`{command}` printed nothing like {claim.pattern!r}")
    values = [match[1] for match in found if match]
    middle = f"{statistics.median(map(float, values)):g}"
    runs = f" ({', '.join(values)})" if len(values) > 1 else ""
    return f"| {claim.text} | {claim.aim} | {middle}{runs} | `{command}` |"


def read_rows(text: str) -> dict[str, list[str]]:
    """The rows of a table that :func:`write` wrote, by command."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        command = re.fullmatch(r"\|.*\| `(python .+)` \|", line)
        if command:
            rows.setdefault(command[1], []).append(line)
    return rows


def read_printed(text: str) -> dict[str, str]:
    """What :func:`write` wrote below the table, by command."""
    return dict(re.findall(r"^```console\n\$ (.+)\n((?:.*\n)*?)```$", text, re.MULTILINE))


def note_on(command: str) -> str:
    """The note below what ``command`` printed."""
    note = NOTES.get(command.split()[2].rpartition(".")[2])
    return f"\n\n{note}" if note else ""


def write(rows: dict[str, list[str]], printed: dict[str, str]) -> None:
    """The document with these rows and outputs, in the order of the claims."""
    order = [f"benchmarks.speed.{script}" for script in CLAIMS]
    commands = sorted(rows, key=lambda command: order.index(command.split()[2]))
    lines = [
        "# Speed",
        "",
        "Written by `python -m benchmarks.speed`; each script says in its first lines what it compares.",
        "Medians of CPU time on one thread, both sides in turn in one process; in brackets the single runs.",
        "",
        "| claim | aim | measured | command |",
        "|---|---|---|---|",
        *(line for command in commands for line in rows[command]),
        "",
        "## What the last run of each printed",
        *(
            f"\n```console\n$ {command}\n{printed[command]}```" + note_on(command)
            for command in commands
            if command in printed
        ),
    ]
    partial = FILE.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(FILE)


if __name__ == "__main__":
    main()
