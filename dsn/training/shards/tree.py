"""A batch cut into parts, and what is computed of each part summed in a fixed binary tree.

Which numbers are added first depends on how many parts there are, and not on who has them: so the sum is the
same to the last bit for any number of processes.
"""

from __future__ import annotations

from torch import Tensor

from ...ranks import Ranks

LEAST = 2
"""samples in a part: batch norm has no variance of one"""


def cut(n: int, parts: int) -> list[slice]:
    """The rows of each part of a batch of ``n`` samples, sizes that differ by one at most.

    A batch that is too small for ``LEAST`` samples a part has fewer parts, at least one.
    """
    parts = min(parts, max(1, n // LEAST))
    bounds = [n * part // parts for part in range(parts + 1)]
    return [slice(first, end) for first, end in zip(bounds, bounds[1:], strict=False)]


class TreeSum:
    """The sum over ``parts`` of one vector a part: ((v0 + v1) + (v2 + v3)) + ..., pairs of pairs.

    ``share``: how many parts a process has, in order. Sums of its own are made at once, so that a process
    keeps few vectors; then processes exchange theirs in pairs.
    """

    def __init__(self, parts: int, share: int, ranks: Ranks) -> None:
        self._parts, self._share, self._ranks = parts, share, ranks
        self._sums: dict[int, Tensor] = {}
        """by the first part that is in it"""

    @property
    def own(self) -> range:
        """The parts of this process."""
        first = self._ranks.number * self._share
        return range(min(first, self._parts), min(first + self._share, self._parts))

    @property
    def all_have_some(self) -> bool:
        """Whether each process has a part."""
        return (self._ranks.count - 1) * self._share < self._parts

    def add(self, part: int, vector: Tensor) -> None:
        """Take the vector of a part of one's own, in order; it is changed."""
        self._sums[part] = vector
        step = 1
        while part % (2 * step) == step and part - step in self._sums:
            self._join(part - step, self._sums.pop(part))
            part, step = part - step, 2 * step

    def total(self, like: Tensor) -> Tensor:
        """The sum of all, in every process; ``like`` has its shape and type, and is overwritten."""
        step = 1
        while step < self._parts:
            for left in range(0, self._parts - step, 2 * step):
                self._exchange(left, left + step, like)
            step *= 2
        return self._ranks.of_first(self._sums.pop(0, like))

    def _exchange(self, left: int, right: int, like: Tensor) -> None:
        keeper, giver = left // self._share, right // self._share
        if keeper == giver:
            if right in self._sums:
                self._join(left, self._sums.pop(right))
        elif self._ranks.number == keeper:
            self._join(left, self._ranks.receive(like, giver))
        elif self._ranks.number == giver:
            self._ranks.send(self._sums.pop(right), keeper)

    def _join(self, left: int, vector: Tensor) -> None:
        self._sums[left] += vector
