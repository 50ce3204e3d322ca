"""Long-lived worker processes on this machine: each imports Avalanche once (seconds), then does many jobs.

Each is spoken to through a pipe of its own: when it dies, its one job has failed and the others go on, and
when the driver is killed, they end. ``ProcessPoolExecutor`` and loky's break as a whole, with every job in
flight; pebble's survives, but its workers go on without their driver, and it is under the LGPL.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any

from dsn.errors import Stopped

from ..base.interrupts import signals_held
from .attempt import attempt, printing_into, processors
from .job import Job, Outcome

STOP_SECONDS = 5.0
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Worker:
    """A process that does one job at a time, with at most ``threads``; sees ``gpu`` alone unless None."""

    def __init__(self, threads: int, gpu: str | None = None) -> None:
        context = get_context("spawn")  # a fork would share torch's threads and locks
        self.connection, theirs = context.Pipe()
        self.gpu = gpu
        self.process = context.Process(target=work, args=(theirs, threads))
        with _seeing(gpu):
            self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.future: Future[Outcome] = Future()
        self.started = 0.0

    def start(self, job: Job) -> "Future[Outcome]":
        """Hand over a job. Raises OSError where the process has died."""
        self.connection.send(job)
        self.job, self.started, self.future = job, time.perf_counter(), Future()
        return self.future

    def finish(self) -> None:
        """Settle the future of the job, once the connection is ready: failed, when the process has died."""
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            seconds = time.perf_counter() - self.started
            outcome = Outcome(seconds, f"its process died with exit status {self.process.exitcode}")
        self.job = None
        self.future.set_result(outcome)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


class LocalEngine:
    """At most ``jobs`` workers, started when there is work; of several GPUs, each sees one."""

    def __init__(self, jobs: int) -> None:
        self.at_once = jobs
        self._workers: list[Worker] = []

    def submit(self, jobs: Sequence[Job]) -> list["Future[Outcome]"]:
        """As the protocol says."""
        return [self._start(job) for job in jobs]

    def wait(self, seconds: float) -> list[Job]:
        """As the protocol says."""
        busy = {worker.connection: worker for worker in self._workers if worker.job}
        for ready in connection.wait(list(busy), timeout=seconds):
            worker = busy[ready]  # type: ignore[index]
            worker.finish()
            if not worker.process.is_alive():
                self._drop(worker)
        return [worker.job for worker in self._workers if worker.job]

    def close(self, error: BaseException | None) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _start(self, job: Job) -> "Future[Outcome]":
        while True:
            worker = self._idle()
            try:
                return worker.start(job)
            except OSError:  # it died while idle; the job has not begun
                self._drop(worker)

    def _idle(self) -> Worker:
        for worker in self._workers:
            if worker.job is None:
                return worker
        threads = max(1, processors() // self.at_once)
        # a signal amid this would leave a child without what it waits for, or one that nobody stops; the
        # child inherits it: Ctrl-C is for the parent alone
        with signals_held():
            self._workers.append(Worker(threads, self._free_gpu()))
        return self._workers[-1]

    def _free_gpu(self) -> str | None:
        """Of several, the one that the fewest workers have; None leaves the choice to the config."""
        gpus = visible_gpus()
        if len(gpus) < 2 or self.at_once < 2:
            return None
        taken = [worker.gpu for worker in self._workers]
        return min(gpus, key=taken.count)

    def _drop(self, worker: Worker) -> None:
        worker.stop()
        self._workers.remove(worker)


def visible_gpus() -> list[str]:
    """The GPUs of this machine, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    named = [part for part in os.environ.get(VISIBLE, "").split(",") if part]
    return named[:count] if named else [str(number) for number in range(count)]


@contextmanager
def _seeing(gpu: str | None) -> Iterator[None]:
    """Processes that are started in this block see ``gpu`` alone."""
    before = os.environ.get(VISIBLE)
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        if gpu is not None and before is None:
            del os.environ[VISIBLE]
        elif before is not None:
            os.environ[VISIBLE] = before


def work(mine: Any, threads: int) -> None:
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
            with printing_into(job.log):
                outcome = _attempt(job, threads)
        except OSError as error:  # what it prints cannot be kept
            outcome = Outcome(0.0, f"{job.log}: cannot be written: {error.strerror or error}")
        mine.send(outcome)
        gc.collect()


def _attempt(job: Job, threads: int) -> Outcome:
    try:
        return attempt(job, threads)
    except Stopped as stopped:
        print("stopped" + ("; kept, and gone on with next time" if stopped.kept else ""))
        sys.exit(128 + stopped.signal)


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers: they watch it instead."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
