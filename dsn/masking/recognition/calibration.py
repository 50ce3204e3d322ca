"""Temperature scaling (Guo et al., ICML 2017)."""

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURES = torch.logspace(-1, 1.5, 101)


@torch.no_grad()
def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """The T of :data:`TEMPERATURES`, 0.1 to 32, with the least cross-entropy of logits [n, C] / T and y [n].

    That loss is convex in 1/T, so where it no longer falls from one T to the next it does not fall again: a
    bisection finds the least one.
    """
    logits = logits.float()

    def loss(index: int) -> Tensor:
        return F.cross_entropy(logits / float(TEMPERATURES[index]), y)

    low, high = 0, len(TEMPERATURES) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if bool(loss(middle) > loss(middle + 1)) else (low, middle)
    return float(TEMPERATURES[low])
