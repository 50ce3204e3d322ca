"""The map of a network: which neurons arrive at which columns, and what is live whatever is masked.

Found once for a network as wide as it is (``mapping.py``). Everything else reads it: live inputs for any
masks are one OR over it.

Shapes: masks and neurons [n] a layer; columns [d] a place, that is a layer's inputs (the columns of a
Linear's weight, the input channels of a Conv) or the "features".
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ..bits import widened
from .wiring import INPUT, Stage, Wiring

N = TypeVar("N", bound=Hashable)
NONE, SEVERAL = -1, -2
FEATURES = "features"
ARRIVED_BYTES = 2**26  # of what is kept of what was seen to arrive under masks; the oldest goes first


@dataclass
class Link:
    """What arrives of one layer at one place.

    ``neurons`` [d]: the neuron that a column brings, NONE where it brings none, SEVERAL where more than one
    can be felt there: these, bool [k, n], stand in ``sets``, a row for each such column in their order.
    """

    neurons: Tensor
    sets: Tensor

    def live(self, mask: Tensor) -> Tensor:
        """The columns, bool [d], at which one of the neurons in ``mask``, bool [n], arrives."""
        live = self.neurons.ge(0) & mask[self.neurons.clamp(min=0)]
        live[self.neurons.eq(SEVERAL)] = (self.sets & mask).any(1)
        return live

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Neurons and the columns that they arrive at, int64 [k] each: neuron i at column i."""
        one, several = self.neurons.ge(0).nonzero()[:, 0], self.neurons.eq(SEVERAL).nonzero()[:, 0]
        if not len(several):
            return self.neurons[one], one
        at, more = self.sets.nonzero().unbind(1)
        neurons, columns = torch.cat([self.neurons[one], more]), torch.cat([one, several[at]])
        order = (neurons * len(self.neurons) + columns).argsort()
        return neurons[order], columns[order]

    def linked(self) -> Tensor:
        """The columns, bool [d], at which any neuron arrives."""
        return self.neurons.ne(NONE)


@dataclass(frozen=True)
class Alone:
    """Which ``columns``, bool [d] by layer, any of the first ``tasks`` needs by itself; ``masks``: theirs, a
    layer each, packed."""

    tasks: int
    masks: list[bytes]
    columns: dict[str, Tensor]


@dataclass
class NetworkMap:
    """``links``: by place, then by layer; ``always``, bool [d] by place: live whatever is masked.

    ``widths``: neurons of the layers that it was found for. ``why``: where the backbone does not run on
    values that are not finite, its error; nothing is known then, and everything counts as live. ``arrived``:
    by the bits of masks, a layer each: what was seen to arrive under them, bool [d] by place. ``alone`` and
    ``wiring``: once they were asked for.
    """

    widths: dict[str, int]
    always: dict[str, Tensor]
    links: dict[str, dict[str, Link]] = field(default_factory=dict)
    why: str | None = None
    arrived: dict[tuple[bytes, ...], dict[str, Tensor]] = field(default_factory=dict)
    alone: Alone | None = None
    wiring: Wiring | None = None

    def live(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which columns, bool [d] by place, can differ from 0 if only the neurons in ``masks`` are open.

        Masks shorter than their layer are filled up with zeros.
        """
        full = {path: widened(masks[path].to("cpu", torch.bool), n) for path, n in self.widths.items()}
        live = {}
        for place, flags in self.always.items():
            live[place] = flags.clone()
            for path, link in self.links.get(place, {}).items():
                live[place] |= link.live(full[path])
        return live

    def arrived_under(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """What was seen to arrive under ``masks``, bool [d] by place; None where that is not kept."""
        return self.arrived.get(_key(masks))

    def keep_arrived(self, masks: Mapping[str, Tensor], felt: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep what was seen to arrive under ``masks``, and give it back; ``felt``: of places called."""
        key = _key(masks)
        kept = self.arrived[key] = {place: felt.get(place, flags) for place, flags in self.always.items()}
        entry = sum(map(len, key)) + sum(flags.numel() for flags in self.always.values())
        while len(self.arrived) > max(1, ARRIVED_BYTES // entry):
            self.arrived.pop(next(iter(self.arrived)))
        return kept

    def seen(self) -> dict[str, Tensor]:
        """The columns, bool [d] by place, at which anything was ever seen to arrive."""
        return self.live({path: torch.ones(n, dtype=torch.bool) for path, n in self.widths.items()})

    def known_before(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """Which columns, bool [d] by place, there were when layers had only the first ``widths`` neurons.

        Not those at which only neurons arrive that have been added since.
        """
        first = {path: torch.arange(n) < widths[path] for path, n in self.widths.items()}
        known = {}
        for place, flags in self.always.items():
            links = self.links.get(place, {})
            linked, old = torch.zeros_like(flags), torch.zeros_like(flags)
            for path, link in links.items():
                linked |= link.linked()
                old |= link.live(first[path])
            known[place] = old | ~linked
        return known

    def coupled(self) -> list[list[str]]:
        """Groups of layers that meet in a column, in forward order."""
        return _groups(list(self.widths), self._linked())

    def meeting(self, wiring: Wiring) -> list[list[str | Stage]]:
        """The same, but norms that stand behind no layer are passed too, and the INPUT is one more."""
        wired = [
            [(wire.source if wire.source == INPUT else wire.source[0], wire.reached(d)) for wire in wires]
            for wires, d in ((wires, wiring.inputs[stage]) for stage, wires in wiring.links.items())
        ]
        return _groups([INPUT, *self.widths], [*self._linked(), *wired])

    def _linked(self) -> list[list[tuple[str, Tensor]]]:
        """For each place the layers that arrive there, and at which columns, bool [d]."""
        return [[(path, link.linked()) for path, link in by.items()] for by in self.links.values()]


def _groups(names: list[N], places: Sequence[Sequence[tuple[N, Tensor]]]) -> list[list[N]]:
    """``names`` in groups of those that meet in a column of one of the ``places``, in their order."""
    group = {name: {name} for name in names}
    for arriving in places:
        for at, (one, columns) in enumerate(arriving):
            for other, more in arriving[:at]:
                if other not in group[one] and bool((columns & more).any()):
                    joined = group[one] | group[other]
                    group |= dict.fromkeys(joined, joined)
    return [
        sorted(found, key=names.index) for name, found in group.items() if name == min(found, key=names.index)
    ]


def _key(masks: Mapping[str, Tensor]) -> tuple[bytes, ...]:
    return tuple(mask.cpu().numpy().tobytes() for mask in masks.values())
