"""What an engine is given, and what it gives back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One thing to do: ``call``, a function as ``module:name``, with the job and its config.

    What it returns must be JSON: it may come back over a network, or through a file.

    config: as JSON; a worker reads its own
    log: file for all it prints; nothing in it is ever overwritten
    patience: seconds to wait for another process that has its folder
    """

    name: str
    config: str
    log: Path
    call: str
    patience: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with ``error`` None and its value, or with the last line of what went wrong.

    stopped: something ended it that says nothing about the job, so it is handed in again: a node that goes
        down, a time limit, a more urgent job
    kept: the stopped job left what it can go on from, so that it came closer to its end
    """

    seconds: float
    error: str | None = None
    value: Any = None
    stopped: bool = False
    kept: bool = False
