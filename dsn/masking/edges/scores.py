"""Scores that choose, with gradients that pass straight through: the largest of a layer, or signs.

Shapes: scores and masks [...], all alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    """What was chosen, in the place of the scores; its gradient goes to the scores as it is."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, chosen: Tensor) -> Tensor:
        return chosen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(scores: Tensor, chosen: Tensor) -> Tensor:
    """The factors ``chosen`` by ``scores``, e.g. 0 and 1; the scores take their gradient as it is."""
    return _StraightThrough.apply(scores, chosen.to(scores.dtype))


def top_k(scores: Tensor, k: int) -> Tensor:
    """Bool mask of exactly the k largest scores."""
    flat = scores.detach().flatten()
    if flat.device.type == "cpu" and flat.dtype == torch.float32 and k < len(flat):
        return torch.from_numpy(_top_k(flat.numpy(), k)).view_as(scores)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask.index_fill_(0, flat.topk(k, sorted=False).indices, True)  # of a number, this asks the host nothing
    return mask.view_as(scores)


def _top_k(values: np.ndarray[Any, np.dtype[np.float32]], k: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The same by a partition, which on a CPU takes a seventh of the time of ``torch.topk``."""
    bar = np.partition(values, len(values) - k)[-k]  # NaN counts as largest, as in torch
    chosen = ~(values <= bar)
    if (missing := k - np.count_nonzero(chosen)) > 0:
        chosen[np.flatnonzero(values == bar)[:missing]] = True
    return chosen


def how_many(density: float, n: int) -> int:
    """ceil(density * n), not fooled by the last binary digit of a decimal density."""
    return math.ceil(round(density * n, 9))
