"""The best state of a task while it is learnt, judged on validation data, and when to stop."""

from typing import Any

import torch
from torch import Tensor

from ..masking import MaskedModel


class BestState:
    """Keeps what training of ``task`` changes, as it was at the highest score so far."""

    def __init__(self, model: MaskedModel, task: int) -> None:
        self.tensors = [*model.task_parameters(task), *model.task_buffers(task)]
        self._kept: list[Tensor] = []
        self.score = self.latest = float("-inf")
        self.epochs_since = 0

    @torch.no_grad()
    def offer(self, score: float) -> None:
        """Keep the present state if ``score`` is higher than every one before."""
        self.latest = score
        self.epochs_since += 1
        if score > self.score:
            self.score, self.epochs_since = score, 0
            self._kept = [tensor.detach().clone() for tensor in self.tensors]

    def take_state(self) -> dict[str, Any]:
        """The kept state and its score, to go on from."""
        return {
            "score": self.score,
            "latest": self.latest,
            "epochs_since": self.epochs_since,
            "kept": [tensor.clone() for tensor in self._kept],
        }

    def put_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`take_state` took."""
        self.score, self.latest = state["score"], state["latest"]
        self.epochs_since = state["epochs_since"]
        pairs = zip(self.tensors, state["kept"], strict=False)  # none is kept before the first offer
        self._kept = [torch.empty_like(tensor).copy_(kept) for tensor, kept in pairs]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept state back, if any."""
        for tensor, kept in zip(self.tensors, self._kept, strict=False):
            tensor.copy_(kept)
