"""Whose the rows of a layer are for a committed task, and which of its edges are read.

Shapes: as in ``layer.py``.
"""

from __future__ import annotations

from torch import Tensor

from ..bits import unpack_bits
from ..kinds import per_neuron
from ..structure import Structure


class Owners:
    """Whose the rows of a layer are for a committed task: ``own``, ``earlier`` and ``read``, bool [n]."""

    def __init__(self, model: Structure, path: str, task: int) -> None:
        gate, row = model.gates_by_path[path], model.committed.index(task)
        width = gate.widths[row]
        self.earlier = gate.used(row)[:width]
        self.own = gate.mask(row) & ~self.earlier
        self.read = gate.open_mask(row) & ~self.own


def bits_of(packed: Tensor | None, read: Tensor, weight: Tensor) -> Tensor:
    """Bool, shaped as ``weight``: which edges are read of the rows ``read`` [n]; all if none are packed."""
    chosen = per_neuron(read, weight).expand_as(weight).clone()
    if packed is not None:
        places = read.nonzero().flatten()
        chosen[places] = unpack_bits(packed, len(places) * weight[0].numel()).view(-1, *weight.shape[1:])
    return chosen
