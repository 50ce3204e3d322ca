"""Annealed gates: what training sends through the network in place of the bits it will commit.

Shapes: logits, gates and free [n], the neurons of one layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

COSH_LIMIT = 50.0
SMALLEST = 1e-12  # of a gate that is not 0


class Prices:
    """What a task pays for the neurons: for a free one its share of all free ones, for a used one nothing.

    Args:
        free: of each layer, [n]: 1.0 where no earlier task uses the neuron, else 0.0.
    """

    def __init__(self, free: Sequence[Tensor]) -> None:
        self.free = free
        self.total = torch.stack([layer.sum() for layer in free]).sum().clamp(min=1)
        self.each = [layer / self.total for layer in free]


class _AnnealedSigmoid(torch.autograd.Function):
    """sigma(s e), whose gradient is compensated for the annealing scale s (HAT, eq. 5; METHOD.md, section 1).

    HAT multiplies the gradient of the logits by
    s_max/s * (cosh(clamp(s e, +-50)) + 1) / (cosh(e) + 1). With d sigma(x)/dx = 1 / (2 (cosh(x) + 1)), the
    product of both is s_max / (2 (cosh(e) + 1)) wherever the clamp does not bite: independent of s.

    A gate under :data:`SMALLEST` is exactly 0: what it lets through changes nothing, but its products with
    weights, activations and gradients would be denormal numbers, which a CPU multiplies a hundred times more
    slowly. The gradient is that of the logits, so such a gate can open again.

    One call for all layers, and for what the gates cost too: so gates and price share a slope. Nothing is
    saved by autograd's own means, so that the two may also go backward one after the other.
    """

    @staticmethod
    def forward(ctx: Any, scale: float, s_max: float, prices: Prices | None, *logits: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.s_max, ctx.prices = scale, s_max, prices
        ctx.logits, ctx.versions = logits, [layer._version for layer in logits]
        gates = [_without_denormals(torch.sigmoid(scale * layer)) for layer in logits]
        if prices is None:
            return tuple(gates)
        return *gates, sum(torch.dot(gate, each) for gate, each in zip(gates, prices.each, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if [layer._version for layer in ctx.logits] != ctx.versions:
            raise RuntimeError("gate logits were changed between the forward and the backward pass")
        price = None if ctx.prices is None or grads[-1] is None else grads[-1] / ctx.prices.total
        found: list[Tensor | None] = []
        for index, (logits, grad) in enumerate(zip(ctx.logits, grads, strict=False)):
            # (cosh(clamp(x, +-50)) + 1) / (cosh(x) + 1), without the overflow of cosh
            slope = torch.rsub(ctx.scale * logits.abs(), COSH_LIMIT).clamp_(max=0).exp_()
            slope.mul_(ctx.s_max / 2).div_(torch.cosh(logits).add_(1))
            total = None if grad is None else grad * slope
            if price is not None:
                cost = slope.mul_(price * ctx.prices.free[index])
                total = cost if total is None else total.add_(cost)
            found.append(total)
        return None, None, None, *found


def _without_denormals(gates: Tensor) -> Tensor:
    return gates.masked_fill_(gates < SMALLEST, 0.0)


def annealed_sigmoid(logits: Tensor, scale: float, s_max: float) -> Tensor:
    """Soft gates [n] in [0, 1] from gate logits [n] at annealing scale ``scale``; compensated gradient."""
    return _AnnealedSigmoid.apply(scale, s_max, None, logits)[0]


def priced_gates(
    logits: Sequence[Tensor], prices: Prices, scale: float, s_max: float
) -> tuple[list[Tensor], Tensor]:
    """:func:`annealed_sigmoid` of every layer, and the share of the free neurons they take, a scalar."""
    *gates, price = _AnnealedSigmoid.apply(scale, s_max, prices, *logits)
    return gates, price
