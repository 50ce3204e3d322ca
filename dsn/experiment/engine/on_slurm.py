"""Jobs on SLURM, through submitit: arrays of jobs, each with what its config asks for.

What is known of a job lies in a file: the name of its batch and its place in it. So a driver that was killed
finds its jobs again, by their names in SLURM's queue, and hands none in twice.
"""

import getpass
import hashlib
import json
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from dsn.errors import InputError

from ..result.key import ROOT
from ..result.result import write_whole
from .job import Job, Outcome
from .options import Choice
from .remote import (
    VISIBLE_SECONDS,
    Origin,
    attempt_remotely,
    begun,
    origin_of,
    read_outcome,
    resources_of,
    write_outcome,
)

OPTIONS = (
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "nodelist",
    "gres",
    "exclusive",
    "comment",
    "signal_delay_s",
)
"""of submitit; any other argument is an option of sbatch"""
ALIVE = (
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "STAGE_OUT",
)
TAKEN_AWAY = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "TIMEOUT", "DEADLINE")
"""states of jobs that SLURM ended for reasons of its own"""
SIGNAL_SECONDS = 90
"""between the signal that a time limit is near and the limit"""
POLL_SECONDS, STOP_SECONDS = 3.0, 60.0
ARRAY, MANY = 500, 10_000


@dataclass
class Going:
    """The ``index``-th job of ``batch`` in SLURM; ``gone``: since when the queue has it no more."""

    job: Job
    batch: str
    index: int
    future: "Future[Outcome]" = field(default_factory=Future)
    gone: float | None = None


class SlurmEngine:
    """Jobs of SLURM; they go on when their driver dies, and end where it is told to stop by Ctrl-C."""

    def __init__(self, choice: Choice, folder: Path) -> None:
        self._submitit = _installed()
        _squeue()
        self.at_once = choice.jobs or MANY
        self._arguments = choice.arguments
        self._origin: Origin = origin_of(folder)
        self._folder = self._origin.mark.parent
        self._going: list[Going] = []
        self._since = time.time()
        self._polled = 0.0
        self._states: dict[tuple[str, int], tuple[str, str]] = {}

    def submit(self, jobs: Sequence[Job]) -> list["Future[Outcome]"]:
        """As the protocol says; a job that runs already is waited for. Raises InputError: SLURM refuses."""
        self._states = _squeue()
        going = {job: known for job in jobs if (known := self._known(job)) is not None}
        alike = defaultdict(list)
        for job in jobs:
            if job not in going:
                alike[resources_of(job).model_dump_json()].append(job)
        for group in alike.values():
            for first in range(0, len(group), ARRAY):
                going |= self._hand_in(group[first : first + ARRAY])
        self._going += going.values()
        return [going[job].future for job in jobs]

    def wait(self, seconds: float) -> list[Job]:
        """As the protocol says."""
        time.sleep(seconds)
        if time.monotonic() - self._polled >= POLL_SECONDS:
            self._poll()
        for known in list(self._going):
            if (outcome := self._ended(known)) is not None:
                self._going.remove(known)
                self._forget(known.job)
                known.future.set_result(outcome)
        return begun((known.job for known in self._going), self._since)

    def close(self, error: BaseException | None) -> None:
        """Cancel what is going on, which keeps its state, after Ctrl-C alone: else it goes on."""
        if not self._going:
            return
        if not isinstance(error, KeyboardInterrupt):
            print(f"{len(self._going)} jobs go on in SLURM; the same command waits for them")
            return
        for batch in {known.batch for known in self._going}:
            subprocess.run(["scancel", "--name", batch, "--user", getpass.getuser()], check=False)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end and any(self._is_alive(known) for known in self._going):
            time.sleep(1.0)
            self._poll()

    def _poll(self) -> None:
        self._polled = time.monotonic()
        with suppress(InputError):  # what does not answer now is asked again
            self._states = _squeue()

    def _is_alive(self, known: Going) -> bool:
        return self._states.get((known.batch, known.index), ("", ""))[0] in ALIVE

    def _known(self, job: Job) -> Going | None:
        """The job of an earlier driver that does ``job``, where it is alive or has ended by itself."""
        try:
            kept = json.loads(self._file(job, "job").read_text(encoding="utf-8"))
            known = Going(job, kept["batch"], kept["index"])
        except (OSError, ValueError, KeyError):
            return None
        outcome = read_outcome(self._file(job, "outcome"))
        if self._is_alive(known) or (outcome is not None and outcome.error is None):
            return known
        self._forget(job)
        return None

    def _hand_in(self, jobs: list[Job]) -> dict[Job, Going]:
        """One array of jobs that ask for the same."""
        batch = f"dsn-{uuid4().hex[:12]}"
        executor = self._executor(batch, jobs[0])
        for index, job in enumerate(jobs):  # first: a driver that dies here finds what it has handed in
            write_whole(self._file(job, "job"), json.dumps({"batch": batch, "index": index}) + "\n")
        try:
            files = [self._file(job, "outcome") for job in jobs]
            executor.map_array(do_in_slurm, jobs, [self._origin] * len(jobs), files)
        except (self._submitit.core.utils.FailedJobError, OSError) as error:
            for job in jobs:
                self._forget(job)
            told = [line for line in str(error).splitlines() if "sbatch: error" in line] or [str(error)]
            raise InputError(f"--engine slurm: {told[0].strip()}; see resources and --engine-args") from error
        return {job: Going(job, batch, index) for index, job in enumerate(jobs)}

    def _executor(self, batch: str, job: Job) -> Any:
        wanted = resources_of(job)
        delay = min(SIGNAL_SECONDS, 30 * wanted.minutes)
        options: dict[str, Any] = {"signal_delay_s": delay}
        options |= {key: value for key, value in self._arguments.items() if key in OPTIONS}
        options["signal_delay_s"] = int(options["signal_delay_s"])
        more = {key: value for key, value in self._arguments.items() if key not in OPTIONS}
        if wanted.gpus:
            options["gpus_per_node"] = wanted.gpus
        if wanted.memory is not None:
            more["mem"] = f"{max(1, round(wanted.memory * 1e9 / 2**20))}M"
        executor = self._submitit.SlurmExecutor(folder=self._folder / "slurm")
        executor.update_parameters(
            job_name=batch,
            time=wanted.minutes,
            cpus_per_task=wanted.cpus,
            array_parallelism=ARRAY,
            setup=[f"export PYTHONPATH={ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"],
            stderr_to_stdout=True,
            additional_parameters={"requeue": True, **more},
            **options,
        )
        return executor

    def _ended(self, known: Going) -> Outcome | None:
        """How ``known`` ended, once that is certain."""
        outcome = read_outcome(self._file(known.job, "outcome"))
        if outcome is not None and not outcome.stopped:
            return outcome
        state, number = self._states.get((known.batch, known.index), ("", ""))
        if state in ALIVE:
            known.gone = None
            return None
        if state == "CANCELLED":
            return Outcome(0.0, f"its job {number} was cancelled in SLURM")
        if outcome is not None:
            return outcome
        known.gone = known.gone or time.monotonic()
        if time.monotonic() - known.gone < VISIBLE_SECONDS:
            return None
        told = (
            f"its job {number} ended as {state}"
            if state
            else "SLURM has its job no more, and it left nothing"
        )
        return Outcome(0.0, told, stopped=state in TAKEN_AWAY)

    def _forget(self, job: Job) -> None:
        for kind in ("job", "outcome"):
            self._file(job, kind).unlink(missing_ok=True)

    def _file(self, job: Job, kind: str) -> Path:
        """The file of what is known of ``job`` by code, config and place."""
        text = "\0".join((self._origin.code, job.name, job.call, job.config, str(job.log)))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.{kind}.json"


def do_in_slurm(job: Job, origin: Origin, file: Path) -> None:
    """What a job of SLURM does; ``file``: where its outcome goes."""
    with suppress(OSError):
        file.unlink(missing_ok=True)  # of a piece of it that was stopped
    write_outcome(file, attempt_remotely(job, origin))


def _squeue() -> dict[tuple[str, int], tuple[str, str]]:
    """State and number of this user's jobs, by name and place in their array. Raises InputError."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}"]
    try:
        found = subprocess.run([*command, "--format=%j|%K|%T|%i"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise InputError(
            "--engine slurm: there is no squeue here; start this where jobs are handed in"
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError("--engine slurm: SLURM does not answer within a minute") from None
    if found.returncode:
        raise InputError(f"--engine slurm: SLURM does not answer: {found.stderr.strip().splitlines()[-1]}")
    states = {}
    for line in found.stdout.splitlines():
        name, index, state, number = line.split("|")
        states[name, int(index) if index.isdigit() else 0] = state, number
    return states


def _installed() -> Any:
    try:
        import submitit
        import submitit.core.utils
    except ImportError as error:
        raise InputError("--engine slurm: submitit is not installed; pip install 'dsn[slurm]'") from error
    if shutil.which("sbatch") is None:
        raise InputError("--engine slurm: there is no sbatch here; start this where jobs are handed in")
    return submitit
