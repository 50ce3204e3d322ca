"""The jobs of a comparison."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.job import Job

RUN, TRIAL = (f"{__package__}.work:{name}" for name in ("make_run", "make_trial"))
"""what a worker calls"""


@dataclass(frozen=True)
class RunJob(Job):
    """A run into ``out``.

    identity: what :func:`dsn.experiment.result.key.identity` says of the run, kept beside it at its end
    """

    out: Path
    identity: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class TrialJob(Job):
    """Trial ``number`` with one ``seed``, on the first ``tasks`` tasks; its value is the accuracy."""

    tasks: int
    number: int
    seed: int
