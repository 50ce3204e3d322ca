"""Where one strategy has got to in its stream: taken for a checkpoint, and gone on from."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dsn.evaluation.plugin import TransferMetrics
from dsn.masking.state.fingerprint import Fingerprint
from dsn.ranks import Ranks
from dsn.storage import Tree

from ..result.certificate import changes, standing, unchanged
from ..result.result import Row, TaskTime, UnlabelledRow
from .terminal import TaskProgress

Keep = Callable[[str, Callable[[], Tree]], None]
"""(what follows, what gives the state): see :meth:`dsn.experiment.run.checkpoint.Checkpoints.rest`"""


@dataclass(frozen=True)
class Saved:
    """Where a course goes on, and the ``keep`` of the run it belongs to; see :class:`Course`."""

    keep: Keep
    state: Tree = None


@dataclass(frozen=True)
class Place:
    """How far a course has come. It is replaced as a whole, so that a signal never finds half a change.

    task: the one that is next, or going on
    evaluating: it is learnt, and to be evaluated
    trained: seconds that its training took so far
    times, certificate, unlabelled: one entry a task that is done, where it is asked for
    """

    task: int = 0
    evaluating: bool = False
    trained: float = 0.0
    times: tuple[TaskTime, ...] = ()
    certificate: tuple[Row, ...] = ()
    unlabelled: tuple[UnlabelledRow, ...] = ()


class Course:
    """The tasks of a stream, one after the other, by a strategy that has ``at_rest`` and ``take_state``.

    Any other strategy is never kept: its course begins anew.
    """

    def __init__(
        self, strategy: Any, metrics: TransferMetrics, progress: TaskProgress, saved: Saved | None
    ) -> None:
        self.strategy, self.metrics, self.progress = strategy, metrics, progress
        self.place = Place()
        self._standing: dict[int, Fingerprint] = {}
        """what each task is after the rows of the certificate"""
        self._started = time.perf_counter()
        self._keep = saved.keep if saved is not None and hasattr(strategy, "at_rest") else None
        self._within = False
        if self._keep is not None:
            strategy.at_rest = self._rest
            if saved is not None and saved.state is not None:
                self._put(saved.state)

    def __str__(self) -> str:
        task, done = self.place.task, " (learnt)" if self.place.evaluating else ""
        return f"at task {task} ({task + 1}/{self.progress.tasks}){done}"

    def train(self, experience: Any, eval_streams: list[Any]) -> None:
        """Learn the task, unless that is done."""
        if self.place.evaluating:
            return
        self._started = time.perf_counter()
        if not self._within:  # otherwise a state within the task is at hand, and is put back on the way
            self._rest("training")
        self.strategy.train(experience, eval_streams=eval_streams)
        self._within = False
        self.place = replace(self.place, evaluating=True, trained=self._seconds())
        self._rest("evaluation")

    def evaluate(
        self,
        experiences: Mapping[int, Any] | None,
        row: Callable[[], dict[int, Fingerprint]] | None,
        unlabelled: Callable[[], UnlabelledRow] | None = None,
    ) -> None:
        """Take ``row`` of the certificate and evaluate ``experiences``, by task label: the task is done.

        A task whose answers are bit for bit those of the row before has its accuracy from there.
        ``unlabelled``: gives the row of an evaluation without task labels.
        """
        started, place = time.perf_counter(), self.place
        now = None if row is None else row()
        before = self._standing
        if now is not None and (ranks := Ranks()).count > 1:
            ranks.refuse_different(f"the certificate of task {list(now)[-1]}", {}, str(now))
        if experiences is not None:
            carried = set() if now is None else self.metrics.carry_over(unchanged(before, now))
            self.strategy.eval([one for label, one in experiences.items() if label not in carried])
        seen = () if unlabelled is None else (unlabelled(),)
        kept = () if now is None else (changes(before, now),)
        taken = TaskTime(train=place.trained, evaluate=time.perf_counter() - started)
        self.place = Place(
            task=place.task + 1,
            times=(*place.times, taken),
            certificate=(*place.certificate, *kept),
            unlabelled=(*place.unlabelled, *seen),
        )
        self._standing = before | (now or {})

    def end(self) -> None:
        """The last task is done."""
        self._rest("result")

    def _seconds(self) -> float:
        return self.place.trained + time.perf_counter() - self._started

    def _rest(self, before: str) -> None:
        if self._keep is not None:
            self._keep(before, self._take)

    def _take(self) -> Tree:
        place = self.place
        return {
            "task": place.task,
            "evaluating": place.evaluating,
            "trained": place.trained if place.evaluating else self._seconds(),
            "times": [vars(seconds) for seconds in place.times],
            "certificate": [vars(row) for row in place.certificate],
            "unlabelled": [vars(row) for row in place.unlabelled],
            "metrics": self.metrics.take_state(),
            "progress": self.progress.take_state(),
            "strategy": self.strategy.take_state(),
        }

    def _put(self, state: Tree) -> None:
        self.place = Place(
            task=state["task"],
            evaluating=state["evaluating"],
            trained=state["trained"],
            times=tuple(TaskTime(**values) for values in state["times"]),
            certificate=tuple(Row(**values) for values in state["certificate"]),
            unlabelled=tuple(UnlabelledRow(**values) for values in state.get("unlabelled", ())),
        )
        self._standing = standing(self.place.certificate)
        # a task that is being learnt is counted when its training begins again
        begun = self.place.task + self.place.evaluating
        self.metrics.put_state(state["metrics"], begun)
        self.progress.put_state(state["progress"], begun)
        self.strategy.put_state(state["strategy"])
        self._within = state["strategy"]["within"] is not None
