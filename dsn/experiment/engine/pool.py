"""Jobs through an engine: futures in, outcomes out, whatever the engine."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from .job import Job, Outcome

TICK_SECONDS = 0.5
RETRIES = 3
"""times that a job which was stopped with nothing kept is handed in again"""


class Engine(Protocol):
    """Something that does jobs."""

    at_once: int
    """how many jobs may be in its hands"""

    def submit(self, jobs: Sequence[Job]) -> list["Future[Outcome]"]:
        """Take jobs over; the future of each has its outcome once it has ended, never an exception."""

    def wait(self, seconds: float) -> list[Job]:
        """Settle the futures of what has ended, after ``seconds`` at most; returns what is going on."""

    def close(self, error: BaseException | None) -> None:
        """Nothing more is wanted; ``error``: why, where it is not that all is done."""


class Pool:
    """An engine that is closed at the end of a block."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        self.engine.close(error)

    def do(
        self,
        jobs: Iterable[Job],
        ended: Callable[[Job, Outcome], Iterable[Job]],
        tick: Callable[[list[Job]], None],
    ) -> None:
        """Do all jobs; ``ended`` may answer with more. ``tick`` is told, twice a second, what is going on.

        A job that was stopped is handed in again: for ever while it keeps something, else ``RETRIES`` times.
        """
        queue = deque(jobs)
        futures: dict[Future[Outcome], Job] = {}
        tries: Counter[Job] = Counter()
        while queue or futures:
            batch = [queue.popleft() for _ in range(min(len(queue), self.engine.at_once - len(futures)))]
            futures |= dict(zip(self.engine.submit(batch) if batch else [], batch, strict=True))
            tick(self.engine.wait(TICK_SECONDS))
            for future in [future for future in futures if future.done()]:
                job, outcome = futures.pop(future), future.result()
                tries[job] += outcome.stopped and not outcome.kept
                if outcome.stopped and (outcome.kept or tries[job] <= RETRIES):
                    queue.append(job)
                else:
                    queue.extend(ended(job, _told(outcome)))


def _told(outcome: Outcome) -> Outcome:
    if not outcome.stopped:
        return outcome
    error = f"{outcome.error}, {RETRIES + 1} times, and nothing was kept to go on from"
    return replace(outcome, error=error, stopped=False)
