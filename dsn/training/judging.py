"""What a DSN's epochs are judged by: its validation data, with the committed bits.

Shapes: x [n, ...], y [n], logits [n, classes of the task].
"""

import torch
from torch import Tensor

from ..masking.layers import evaluating
from .tasks import TaskByTask


class Judging(TaskByTask):
    """A strategy whose tasks are judged one by one."""

    channels_last = False
    _validation: tuple[Tensor, Tensor] | None

    def _validation_score(self, task: int) -> float:
        assert self._validation is not None  # or the task would not have begun
        return self._mean_score(*self._validation, task, self.schedule.judge)

    def accuracy(self, x: Tensor, y: Tensor, task: int) -> float:
        """Share of x [n, ...] that ``task`` gives the class y [n], with the committed bits, in [0, 1]."""
        return self._mean_score(x, y, task, "accuracy")

    @torch.no_grad()
    def _mean_score(self, x: Tensor, y: Tensor, task: int, judge: str) -> float:
        """Mean of what ``judge`` says over x [n, ...], y [n], with the committed bits."""
        with evaluating(self.model):
            return float(self._summed_score(x, y, task, judge)) / len(y)

    def _logits(self, x: Tensor, task: int) -> Tensor:
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.precision == "float32":
            return self.model(x, task)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.model(x, task).float()
