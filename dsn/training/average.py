"""Means over the path of training: what a task keeps is the mean of its last epochs' weights.

At a constant learning rate the weights wander about a minimum, and their mean lies nearer to it than any of
them (Polyak and Juditsky 1992; Izmailov et al. 2018, "Averaging weights leads to wider optima", of which this
is the exponential form). Scores and gate logits are averaged as weights are, before they become bits.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def running_mean(strategy: Any, tensors: Iterable[Tensor]) -> "RunningMean":
    """Of ``tensors`` over the strategy's ``average_epochs``, for the phase of training that begins."""
    return RunningMean(tensors, round(strategy.schedule.average_epochs * len(strategy.dataloader)))


class RunningMean:
    """The mean of ``tensors`` over training steps: of all so far, and of about the last ``steps`` once there
    have been so many (older ones fade as exp(-age / steps)).

    Tensors of whole numbers are left as they are; with ``steps`` 0 all are.
    """

    def __init__(self, tensors: Iterable[Tensor], steps: int) -> None:
        self._tensors = [tensor for tensor in tensors if tensor.is_floating_point()] if steps else []
        self._steps, self._taken = steps, 0
        self._means: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the tensors as they are after a step."""
        if not self._steps:
            return
        self._taken += 1
        now = [tensor.detach() for tensor in self._tensors]
        if self._taken == 1:
            self._means = [tensor.clone() for tensor in now]
        else:
            torch._foreach_lerp_(self._means, now, 1 / min(self._taken, self._steps))

    @torch.no_grad()
    def put(self) -> None:
        """Put the means in the place of the tensors; what never changed keeps its bits, -0.0 too."""
        for tensor, mean in zip(self._tensors, self._means, strict=False):  # none before the first step
            tensor.copy_(torch.where(mean == tensor, tensor, mean))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within ``with`` the tensors are their means; afterwards training goes on from where it was."""
        kept = [tensor.detach().clone() for tensor in self._tensors] if self._means else []
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(self._tensors, kept, strict=False):
                    tensor.copy_(value)

    def take_state(self) -> dict[str, Any]:
        """The means and how many steps they are of, to go on from."""
        return {"taken": self._taken, "means": [mean.clone() for mean in self._means]}

    def put_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`take_state` took."""
        self._taken = state["taken"]
        pairs = zip(self._tensors, state["means"], strict=False)
        self._means = [torch.empty_like(tensor).copy_(mean) for tensor, mean in pairs]
