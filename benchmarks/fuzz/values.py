"""What a user may write by mistake or by malice, a case, and how it ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CPU_SECONDS, WALL_SECONDS = 20, 300
CONFIG: dict[str, Any] = {
    "stream": {"name": "split_digits", "tasks": 2, "train_per_class": 4, "validation": 0.3},
    "backbone": {"name": "mlp", "widths": [8, 6]},
    "train": {"epochs": 1, "batch_size": 8, "lr": 0.05},
    "selection": {"sparsity": 0.1},
    "replay": {"images": 10, "steps": 2},
    "transfer": {"tasks": 1, "forward": 0},
    "checkpoint": {"minutes": None, "iterations": None},
    "seed": 0,
    "device": "cpu",
    "threads": 1,
}
NUMBERS = [0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e30, 1e308, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400, True]
TEXTS = ["", ".", "..", "/", "~", "~nosuchuser/x", "x[/]", ":smile:", "=1+1", "a\nb", "\u202e", "é", "-1"]
TEXTS += ["meta", "cuda:99", "cpu:5", "xla", "privateuseone", "dsn", "auto", "1:30", "010", "1_0", "x" * 5000]
OTHERS: list[Any] = [
    None,
    [],
    {},
    [[]],
    {"": 1},
    {"name": "mlp"},
    [0] * 30_000,
    [1] * 2000,
    {"a": {"b": {"c": 1}}},
]
VALUES = [*NUMBERS, *TEXTS, *OTHERS, float("inf"), float("nan")]
WORK = ("epochs", "steps", "images", "tasks", "iterations", "batch_size", "samples")
"""large numbers of these ask for work that takes long, and get it"""
RAW = [
    "",
    "null",
    "[1]",
    "\t",
    "\x00",
    "a: &a [*a]",
    "&a {stream: *a}",
    "a: 1\na: 2",
    "!!python/object/apply:os.system [true]",
    "a: " + "[" * 3000 + "]" * 3000,
    "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    "backbone: {name: mlp, widths: [" + "1," * 100_000 + "1]}",
    "x: " + "9" * 6000,
    "stream: !!set {a}",
    "x" * 2_000_000,
    "%YAML 9.9\n---\na: 1",
    "--- 1\n--- 2\n",
    "? {a: b}\n: 1",
    "date: 2001-99-99",
]
OUTS = [
    "",
    ".",
    "..",
    "/",
    "a/..",
    "x[/]",
    "x" * 300,
    "=x",
    "-x",
    "file",
    "file/x",
    "dangling",
    "link",
    "used",
]
OUTS += ["/proc/x", "/dev/null/x", "a\nb", "é", "~nosuchuser/x", "\udcff", "out", "deep/er/out"]
CONTENTS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"format_version": 1}',
    b'"\\ud800"',
]
CONTENTS += [b"9" * 5000, b"NaN", bytes(range(256)) * 20]


OF_LIBRARIES = ("KMP_", "TORCHINDUCTOR_")
"""what scikit-learn and torch set in the environment when they are first used"""


@dataclass
class Case:
    """A command line; ``outs``: what it may write, beside which nothing may change."""

    arguments: list[str]
    told: str
    outs: tuple[str, ...] = ("out",)


@dataclass
class Ended:
    """How a case ended; ``said``: all it printed; ``changed``: what it should have left as it was."""

    status: int | str
    said: str
    changed: list[str]
    seconds: float
