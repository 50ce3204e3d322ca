"""What a worker of a comparison is given, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One thing to do in a worker: a run into ``out``, or, with ``tune_tasks``, a trial.

    config: as JSON; a worker reads its own
    log: file for all it prints
    identity: what :func:`dsn.experiment.result.key.identity` says of the run, kept beside it at its end
    """

    name: str
    config: str
    log: Path
    out: Path | None = None
    identity: dict[str, Any] | None = None
    tune_tasks: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``error`` None and, of a trial, its accuracy; or the last line of what went wrong."""

    seconds: float
    error: str | None = None
    accuracy: float | None = None
