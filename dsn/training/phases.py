"""The epochs of a phase of a task: train, measure norms, judge, schedule, keep the best or the mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .average import RunningMean, running_mean
from .best_state import BestState
from .precise_norm import measure_norms
from .schedule import Scheduler
from .settings import Schedule


class Phases:
    """Mix-in before an Avalanche strategy, with a ``schedule`` of settings."""

    if TYPE_CHECKING:
        schedule: Schedule
        model: Any
        device: Any
        dataloader: Any
        _stop_training: bool

        def _logits(self, x: Any, task: int) -> Any: ...
        def training_epoch(self, **kwargs: Any) -> None: ...
        def _before_training_epoch(self, **kwargs: Any) -> None: ...
        def _after_training_epoch(self, **kwargs: Any) -> None: ...

    phase_epoch = 0
    _best: BestState
    _mean: RunningMean

    def _train_phase(
        self, task: int, epochs: int, scheduler: Scheduler, *, go_on: int | None = None, **kwargs: Any
    ) -> None:
        """The epochs of a phase of ``task``, from its start or from epoch ``go_on``."""
        best = self._best = BestState(self._restorable(), task)
        mean = self._mean = running_mean(self, best.tensors)
        if go_on is None:
            scheduler.begin_phase()
        for self.phase_epoch in range(go_on or 0, epochs):
            self._before_training_epoch(**kwargs)
            if self._stop_training:
                self._stop_training = False
                break
            self._begin_losses()
            self.training_epoch(**kwargs)
            self._refuse_bad_loss()
            self._after_training_epoch(**kwargs)
            if self.schedule.judges:
                with mean.in_place():
                    self._measure_norms(task)
                    best.offer(self._validation_score(task))
            ended = scheduler.step(best.latest)
            if ended or best.epochs_since >= (self.schedule.patience or math.inf):
                break
        if self.schedule.restore_best:
            best.restore()
        else:
            mean.put()
            self._measure_norms(task)

    def _measure_norms(self, task: int) -> None:
        """Give the trained batch norms the statistics of the weights as they are now, if it is asked for."""
        if self.schedule.norm_samples:
            measure_norms(
                self.model,
                {each: self.model.task_buffers(each) for each in self._trained_tasks(task)},
                ((x, tasks) for x, _, tasks in self.dataloader),
                self.schedule.norm_samples,
                lambda x, each: self._logits(x.to(self.device), each),
            )

    def _trained_tasks(self, task: int) -> list[int]:
        """Those whose norms training ``task`` changes."""
        return [task]

    def _restorable(self) -> Any:
        """What has the task's tensors, for BestState."""
        raise NotImplementedError

    def _begin_losses(self) -> None:
        """Before an epoch: forget what losses the last one had."""
        raise NotImplementedError

    def _refuse_bad_loss(self) -> None:
        """After an epoch: raise InputError where a loss was not finite."""
        raise NotImplementedError

    def _validation_score(self, task: int) -> float:
        """What the epoch is judged by; higher is better."""
        raise NotImplementedError
