"""Scores that choose: the largest of a layer are taken, and their gradient passes straight through.

Shapes: scores and masks [...], all alike.
"""

from __future__ import annotations

import math
from typing import Any

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


def straight_through(scores: Tensor, k: int) -> Tensor:
    """1.0 for the ``k`` largest scores, 0.0 for the others; scores take the mask's gradient."""
    return _TopK.apply(scores, k)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Bool mask of exactly the k largest scores."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask.view(-1)[scores.flatten().topk(k, sorted=False).indices] = True
    return mask


def how_many(density: float, n: int) -> int:
    """ceil(density * n), not fooled by the last binary digit of a decimal density."""
    return math.ceil(round(density * n, 9))
