"""A job on another machine: what is checked before it is done, and how a signal there ends it."""

import json
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from dsn.errors import InputError, Stopped

from ..base.interrupts import Interrupts
from ..config.experiment import ResourcesConfig
from ..result.key import code_version
from ..result.result import write_whole
from .attempt import attempt, printing_into
from .job import Job, Outcome

FOLDER, MARK = ".engine", "mark"
VISIBLE_SECONDS = 60.0
"""how long a file may take to be seen by another machine"""
PATIENCE_SECONDS = 600.0
"""how long a job waits for another process that still has its folder"""


@dataclass(frozen=True)
class Origin:
    """Where jobs come from.

    place: the driver's working directory, which relative paths of a config start from
    code: version of its code
    mark: a file that holds ``token``, by which a machine knows that it sees the driver's folder
    """

    place: str
    code: str
    mark: Path
    token: str


def origin_of(folder: Path) -> Origin:
    """The origin of jobs whose files lie in ``folder``, which is made; the same for each driver there."""
    mark = Path(os.path.abspath(folder)) / FOLDER / MARK
    mark.parent.mkdir(parents=True, exist_ok=True)
    token = _read(mark)
    if not token:
        token = uuid4().hex
        write_whole(mark, token)
    return Origin(os.getcwd(), code_version(), mark, token)


def resources_of(job: Job) -> ResourcesConfig:
    """What the config of ``job`` asks for."""
    return ResourcesConfig.model_validate(json.loads(job.config).get("resources", {}))


def attempt_remotely(job: Job, origin: Origin) -> Outcome:
    """Do ``job`` on this machine, wherever that is; whatever goes wrong, a signal too, is in the outcome."""
    started = time.perf_counter()
    try:
        with Interrupts() as interrupts:
            _come_from(origin)
            job = replace(job, patience=PATIENCE_SECONDS)
            with printing_into(job.log):
                try:
                    outcome = attempt(job, resources_of(job).cpus)
                finally:
                    interrupts.deferred = True  # what is said from here on must arrive
            return outcome
    except Stopped as stopped:
        error = f"stopped by signal {stopped.signal} on {socket.gethostname()}"
        return Outcome(time.perf_counter() - started, error, stopped=True, kept=stopped.kept)
    except InputError as wrong:
        return Outcome(0.0, str(wrong))
    except OSError as wrong:
        return Outcome(
            0.0, f"{wrong.filename or job.log}: {wrong.strerror or wrong} on {socket.gethostname()}"
        )


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Keep an outcome where the driver looks for it."""
    write_whole(path, json.dumps(asdict(outcome)) + "\n")


def read_outcome(path: Path) -> Outcome | None:
    """What :func:`write_outcome` wrote; None where it is not there yet."""
    try:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def begun(jobs: Iterable[Job], since: float) -> list[Job]:
    """The jobs that print something, as their logs tell; ``since``: when the first was handed in."""
    found = []
    for job in jobs:
        with suppress(OSError):
            if job.log.stat().st_mtime >= since - 1:
                found.append(job)
    return found


def _come_from(origin: Origin) -> None:
    """Make this process like the driver. Raises InputError where it cannot be."""
    host, folder = socket.gethostname(), origin.mark.parent.parent
    end = time.monotonic() + VISIBLE_SECONDS
    while _read(origin.mark) != origin.token:
        if time.monotonic() > end:
            raise InputError(f"{folder}: is not seen by {host}; choose an --out that all nodes share")
        time.sleep(1.0)
    if code_version() != origin.code:
        raise InputError(f"the code of dsn on {host} is another than the driver's; install the same there")
    try:
        os.chdir(origin.place)
    except OSError as error:
        raise InputError(
            f"{origin.place}: is not on {host} ({error.strerror}); start from a folder that all nodes share"
        ) from error


def _read(path: Path) -> str:
    with suppress(OSError):
        os.listdir(path.parent)  # a network's file system looks anew
        return path.read_text(encoding="utf-8")
    return ""
