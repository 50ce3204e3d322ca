"""The epochs of a phase of a task: train, measure norms, judge, schedule, keep the best or the mean.

Shapes: x [n, ...]; y [n] int64; logits [n, classes of the task].
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .average import RunningMean, running_mean
from .best_state import BestState
from .loading import Loading, no_validation
from .losses import Losses
from .precise_norm import measure_norms
from .schedule import Scheduler, summed_score
from .settings import Schedule


class Phases(Loading):
    """An Avalanche strategy with a ``schedule`` of settings."""

    schedule: Schedule
    _stop_training: bool
    phase_epoch = 0
    _best: BestState
    _mean: RunningMean
    _losses: Losses

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
            self._begin_epoch()
            self.training_epoch(**kwargs)
            self._refuse_bad_loss()
            self._after_training_epoch(**kwargs)
            if self.schedule.judges:
                with mean.in_place():
                    self._measure_norms(task)
                    best.offer(self.score_of_first(self._validation_score(task)))
            ended = scheduler.step(best.latest)
            if ended or best.epochs_since >= (self.schedule.patience or math.inf):
                break
        if self.schedule.restore_best:
            best.restore()
        else:
            mean.put()
            self._measure_norms(task)

    def backward(self) -> None:
        """Backward pass; whether the loss is finite is asked at the epoch's end."""
        self._take_loss()
        super().backward()

    def _take_loss(self) -> None:
        self._losses.add(self.loss)

    def _moving_buffers(self) -> list[Tensor]:
        tasks = self._trained_tasks(self.model.tasks[-1])
        return [buffer for each in tasks for buffer in self.model.task_buffers(each)]

    def _begin_epoch(self) -> None:
        """Right before an epoch's first batch."""
        self._losses = Losses()

    def _refuse_bad_loss(self) -> None:
        """Raise InputError where a loss of the epoch was not finite."""
        if (iteration := self._losses.first_bad()) is not None:
            raise InputError(
                f"task {self.model.tasks[-1]}, epoch {self.clock.train_exp_epochs}, iteration {iteration}: "
                "the loss is not finite; lower the learning rate, or look for such values in the data"
            )

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

    # ---- what epochs are judged by -----------------------------------------------------------------------

    def _validation_samples(self, task: int, wanted: bool = False) -> tuple[Tensor, Tensor] | None:
        """Those of ``task`` where epochs are judged, or where they are ``wanted`` and there are any."""
        if not (self.schedule.judges or wanted):
            return None
        samples = self.find_validation(task, self.count_classes())
        if samples is None and self.schedule.judges:
            raise no_validation(task)
        return samples

    def _validation_score(self, task: int) -> float:
        """What the epoch is judged by; higher is better."""
        raise NotImplementedError

    def _summed_score(self, x: Tensor, y: Tensor, task: int, judge: str) -> Tensor:
        """Sum over x [n, ...], y [n] of what ``judge`` says, a scalar on the device."""
        parts = zip(x.split(self.eval_mb_size), y.split(self.eval_mb_size), strict=True)
        device = self.device
        scores = [summed_score(self._logits(x.to(device), task), y.to(device), judge) for x, y in parts]
        return torch.stack(scores).sum()
