"""What a part of a batch gives, as one vector: gradients, what norms measured, its loss and its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Layout:
    """How the vector is laid out, and the place where it is taken from and put to.

    Args:
        parameters: whose gradients are summed.
        buffers: the running statistics that a pass changes. Of numbers with a fraction the changes are
            summed, weighted by the samples of each part; whole numbers change as the first part changes them.
        rows: samples of the batch.

    ``classes``: of its logits, known once a part is taken.
    Each part begins with the statistics as they were before the batch, and normalises by its own.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor], rows: int) -> None:
        self._parameters, self._buffers = parameters, buffers
        self._before = [buffer.clone() for buffer in buffers]
        self._rows, self.classes = rows, 0
        like = parameters[0]
        self._kind = {"dtype": like.dtype, "device": like.device}

    def empty(self) -> Tensor:
        """A vector without content."""
        numbers = sum(tensor.numel() for tensor in (*self._parameters, *self._buffers))
        size = numbers + len(self._parameters) + 1 + self._rows * self.classes
        return torch.empty(size, **self._kind)  # type: ignore[call-overload]

    def weight(self, rows: slice) -> float:
        """The share of the batch that a part has."""
        return (rows.stop - rows.start) / self._rows

    @torch.no_grad()
    def take(self, part: int, rows: slice, loss: Tensor, logits: Tensor) -> Tensor:
        """The vector of the part with these ``rows`` of the batch, whose gradients and statistics are there.

        ``loss``: weighted, as it was when it went backwards. The statistics are put back as they were.
        """
        there = [0.0 if p.grad is None else 1.0 for p in self._parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        moved = []
        for buffer, before in zip(self._buffers, self._before, strict=True):
            change = buffer - before
            if buffer.is_floating_point():
                change *= self.weight(rows)
            elif part:
                change.zero_()
            moved.append(change)
            buffer.copy_(before)
        self.classes = logits.shape[1]
        whole = torch.zeros(self._rows, self.classes, **self._kind)  # type: ignore[call-overload]
        whole[rows] = logits.detach().to(whole.dtype)
        pieces = [*gradients, torch.tensor(there), *moved, loss.detach(), whole]
        return torch.cat([piece.to(**self._kind).reshape(-1) for piece in pieces])

    @torch.no_grad()
    def put(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """Set gradients and statistics to those of the whole batch; its loss [1] and logits."""
        count = len(self._parameters)
        sizes = [t.numel() for t in self._parameters] + [count] + [t.numel() for t in self._buffers]
        pieces = iter(total.split([*sizes, 1, self._rows * self.classes]))
        gradients = [torch.empty_like(p).copy_(next(pieces).view(p.shape)) for p in self._parameters]
        there = next(pieces).tolist()
        for parameter, gradient, known in zip(self._parameters, gradients, there, strict=True):
            parameter.grad = gradient if known else None
        for buffer in self._buffers:
            change = next(pieces).view(buffer.shape)
            buffer += change if buffer.is_floating_point() else change.round().to(buffer.dtype)
        return next(pieces).clone(), next(pieces).view(self._rows, self.classes).clone()
