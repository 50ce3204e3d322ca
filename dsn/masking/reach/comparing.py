"""What two passes brought, held against each other.

Shapes: as in ``sending.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..structure import Structure
from .sending import Arrivals


def felt(model: Structure, arrivals: Arrivals, flagged: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Which columns [d] of each place something ``flagged`` arrives at in any call; places that no call
    reached are missing."""
    dims = {path: gate.neuron_dim for path, gate in model.gates_by_path.items()}
    return {
        place: torch.stack([any_along(flagged(t), dims.get(place, -1)) for t in arrived]).any(0)
        for place, arrived in arrivals.places().items()
        if arrived
    }


def any_along(flags: Tensor, dim: int) -> Tensor:
    """Reduce bool ``flags`` to one flag for each index of dimension ``dim``."""
    return flags.movedim(dim, 0).flatten(1).any(1)


def changed(model: Structure, before: Arrivals, after: Arrivals) -> dict[str, Tensor]:
    """Where two passes brought something else, bool [d] by place; NaN equals NaN."""
    dims = {path: gate.neuron_dim for path, gate in model.gates_by_path.items()}
    later = after.places()

    def of(place: str, one: Tensor, other: Tensor) -> Tensor:
        dim = dims.get(place, -1)
        if torch.equal(one, other):  # mostly, and soon found
            return torch.zeros(one.shape[dim], dtype=torch.bool, device=one.device)
        return any_along(differ(one, other), dim)

    return {
        place: torch.stack([of(place, *calls) for calls in zip(arrived, later[place], strict=False)]).any(0)
        for place, arrived in before.places().items()
        if arrived and later[place]
    }


def differ(one: Tensor, other: Tensor) -> Tensor:
    """Where two tensors are not the same, bool; NaN equals NaN."""
    return one.ne(other) & ~(one.isnan() & other.isnan())
