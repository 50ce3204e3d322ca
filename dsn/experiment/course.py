"""Where one strategy has got to in its stream: taken for a checkpoint, and gone on from."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dsn.evaluation.plugin import TransferMetrics
from dsn.storage import Tree

from .result import Row, TaskTime
from .terminal import TaskProgress

Keep = Callable[[str, Callable[[], Tree]], None]
"""(what follows, what gives the state): see :meth:`dsn.experiment.checkpoint.Checkpoints.rest`"""


@dataclass(frozen=True)
class Saved:
    """Where a course goes on, and the ``keep`` of the run it belongs to; see :class:`Course`."""

    keep: Keep
    state: Tree = None


class Course:
    """The tasks of a stream, one after the other, by a strategy that has ``at_rest`` and ``take_state``.

    Any other strategy is never kept: its course begins anew.

    task: the one that is next, or going on
    evaluating: it is learnt, and to be evaluated
    """

    def __init__(
        self, strategy: Any, metrics: TransferMetrics, progress: TaskProgress, saved: Saved | None
    ) -> None:
        self.strategy, self.metrics, self.progress = strategy, metrics, progress
        self.task, self.evaluating = 0, False
        self.times: list[TaskTime] = []
        self.certificate: list[Row] = []
        self._trained = 0.0
        self._started = time.perf_counter()
        self._keep = saved.keep if saved is not None and hasattr(strategy, "at_rest") else None
        self._within = False
        if self._keep is not None:
            strategy.at_rest = self._rest
            if saved is not None and saved.state is not None:
                self._put(saved.state)

    def __str__(self) -> str:
        done = " (learnt)" if self.evaluating else ""
        return f"at task {self.task} ({self.task + 1}/{self.progress.tasks}){done}"

    def train(self, experience: Any, eval_streams: list[Any]) -> None:
        """Learn the task, unless that is done."""
        if self.evaluating:
            return
        self._started = time.perf_counter()
        if self._within:  # a state within the task is at hand, and no other can be taken yet
            self._within = False
        else:
            self._trained = 0.0
            self._rest("training")
        self.strategy.train(experience, eval_streams=eval_streams)
        self._trained += time.perf_counter() - self._started
        self.evaluating = True
        self._rest("evaluation")

    def evaluate(self, stream: Any) -> None:
        """Evaluate the tasks of ``stream``; without one, there is nothing to evaluate yet."""
        started = time.perf_counter()
        if stream is not None:
            self.strategy.eval(stream)
        self.times.append(TaskTime(train=self._trained, evaluate=time.perf_counter() - started))
        self.task, self.evaluating = self.task + 1, False

    def end(self) -> None:
        """The last task is done."""
        self._rest("result")

    def _rest(self, before: str) -> None:
        if self._keep is not None:
            self._keep(before, self._take)

    def _take(self) -> Tree:
        running = 0.0 if self.evaluating else time.perf_counter() - self._started
        return {
            "task": self.task,
            "evaluating": self.evaluating,
            "trained": self._trained + running,
            "times": [time.model_dump() for time in self.times],
            "certificate": [row.model_dump() for row in self.certificate],
            "metrics": self.metrics.take_state(),
            "progress": self.progress.take_state(),
            "strategy": self.strategy.take_state(),
        }

    def _put(self, state: Tree) -> None:
        self.task, self.evaluating = state["task"], state["evaluating"]
        self._trained = state["trained"]
        self.times[:] = [TaskTime(**values) for values in state["times"]]
        self.certificate[:] = [Row(**values) for values in state["certificate"]]
        # a task that is being learnt is counted when its training begins again
        begun = self.task + self.evaluating
        self.metrics.put_state(state["metrics"], begun)
        self.progress.put_state(state["progress"], begun)
        self.strategy.put_state(state["strategy"])
        self._within = state["strategy"]["within"] is not None
