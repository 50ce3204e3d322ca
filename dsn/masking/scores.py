"""Scores that choose, with gradients that pass straight through: the largest of a layer, or signs.

Shapes: scores and masks [...], all alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _TopK(torch.autograd.Function):
    """The mask of the k largest scores; its gradient goes to the scores as it is (straight-through)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        return top_k(scores, k).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Sign(torch.autograd.Function):
    """1 for scores of 0 or more, else -1; its gradient goes to the scores as it is (straight-through)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return (scores >= 0).to(scores.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def straight_through(scores: Tensor, k: int) -> Tensor:
    """1.0 for the ``k`` largest scores, 0.0 for the others; scores take the mask's gradient."""
    return _TopK.apply(scores, k)


def straight_through_sign(scores: Tensor) -> Tensor:
    """1.0 for scores of 0 or more, -1.0 for the others; scores take the signs' gradient."""
    return _Sign.apply(scores)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Bool mask of exactly the k largest scores."""
    flat = scores.detach().flatten()
    if flat.device.type == "cpu" and flat.dtype == torch.float32 and k < len(flat):
        return torch.from_numpy(_top_k(flat.numpy(), k)).view_as(scores)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.topk(k, sorted=False).indices] = True
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
