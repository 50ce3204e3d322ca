"""Long-lived worker processes: each imports Avalanche once (seconds) and then makes many runs.

Each is spoken to through a pipe of its own: when it dies, its one run has failed and the others go on.
``ProcessPoolExecutor`` would break as a whole, with every run in flight.
"""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

from dsn.errors import InputError, Stopped

from ..base.interrupts import signals_held
from .job import Job, Outcome

STOP_SECONDS = 5.0
TICK_SECONDS = 0.5


class Worker:
    """A process that does one job at a time."""

    def __init__(self, jobs: int) -> None:
        context = get_context("spawn")  # a fork would share torch's threads and locks
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, jobs))
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.started = 0.0

    def start(self, job: Job) -> None:
        """Hand over a job."""
        self.job, self.started = job, time.perf_counter()
        self.connection.send(job)

    def finish(self) -> Outcome:
        """The outcome of the job, once the connection is ready; a failed one when the process has died."""
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            seconds = time.perf_counter() - self.started
            return Outcome(seconds, f"its process died with exit status {self.process.exitcode}")
        finally:
            self.job = None
        return outcome

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


class Workers:
    """At most ``jobs`` workers, started when there is work; a context that stops them all."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._workers: list[Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_exception: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def do(
        self,
        jobs: Iterable[Job],
        ended: Callable[[Job, Outcome], Iterable[Job]],
        tick: Callable[[list[Job]], None],
    ) -> None:
        """Do all jobs; ``ended`` may answer with more. ``tick`` is told, twice a second, what is going on."""
        queue = deque(jobs)
        while queue or any(worker.job for worker in self._workers):
            while queue and (worker := self._idle()) is not None:
                job = queue.popleft()
                try:
                    worker.start(job)
                except OSError:  # it died while idle; the job has not begun
                    self._drop(worker)
                    queue.appendleft(job)
            busy = {worker.connection: worker for worker in self._workers if worker.job}
            tick([worker.job for worker in busy.values() if worker.job])
            for ready in connection.wait(list(busy), timeout=TICK_SECONDS):
                worker = busy[ready]  # type: ignore[index]
                job = worker.job  # type: ignore[assignment]
                outcome = worker.finish()
                if not worker.process.is_alive():
                    self._drop(worker)
                queue.extend(ended(job, outcome))

    def _idle(self) -> Worker | None:
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) < self.jobs:
            # a signal amid this would leave a child without what it waits for, or one that nobody stops; the
            # child inherits it: Ctrl-C is for the parent alone
            with signals_held():
                self._workers.append(Worker(self.jobs))
            return self._workers[-1]
        return None

    def _drop(self, worker: Worker) -> None:
        worker.stop()
        self._workers.remove(worker)


def work(mine: Any, jobs: int) -> None:
    """The life of a worker process: jobs come through ``mine``, outcomes go back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job: Job = mine.recv()
        except EOFError:
            return
        try:
            _print_into(job.log)
            outcome = attempt(job, jobs)
        except OSError as error:  # what it prints cannot be kept
            outcome = Outcome(0.0, f"{job.log}: cannot be written: {error.strerror or error}")
        mine.send(outcome)
        gc.collect()


def attempt(job: Job, jobs: int) -> Outcome:
    """Do ``job`` in this process, one of ``jobs`` at once; whatever goes wrong is in the outcome."""
    started = time.perf_counter()
    error = accuracy = None
    try:
        from ..base.quiet import importing_avalanche
        from ..config.experiment import Config

        config = Config.model_validate_json(job.config)
        with importing_avalanche():
            from .work import do

        accuracy = do(job, config, jobs)
    except InputError as wrong:
        print("\n".join(f"error: {line}" for line in str(wrong).splitlines()), file=sys.stderr)
        error = str(wrong).splitlines()[-1]
    except Stopped as stopped:
        print("stopped" + ("; kept, and gone on with next time" if stopped.kept else ""))
        sys.exit(128 + stopped.signal)
    except Exception:
        traceback.print_exc()
        error = traceback.format_exc().strip().splitlines()[-1]
    return Outcome(time.perf_counter() - started, error, accuracy)


def _print_into(log: Path) -> None:
    """Send all that this process prints, also from C and when it crashes, into the file ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", line_buffering=True)  # type: ignore[union-attr]


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers: they watch it instead."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
