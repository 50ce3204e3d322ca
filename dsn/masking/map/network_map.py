"""The map of a network: which neurons arrive at which columns, and what is live whatever is masked.

Found once for a network as wide as it is (``mapping.py``). Everything else reads it: live inputs for any
masks are one OR over it.

Shapes: masks and neurons [n] a layer; columns [d] a place, that is a layer's inputs (the columns of a
Linear's weight, the input channels of a Conv) or the "features".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

NONE, SEVERAL = -1, -2
FEATURES = "features"


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

    def linked(self) -> Tensor:
        """The columns, bool [d], at which any neuron arrives."""
        return self.neurons.ne(NONE)


@dataclass
class NetworkMap:
    """``links``: by place, then by layer; ``always``, bool [d] by place: live whatever is masked.

    ``widths``: neurons of the layers that it was found for. ``why``: where the backbone does not run on
    values that are not finite, its error; nothing is known then, and everything counts as live. ``arrived``:
    by the bits of masks, a layer each: what was seen to arrive under them, bool [d] by place.
    """

    widths: dict[str, int]
    always: dict[str, Tensor]
    links: dict[str, dict[str, Link]] = field(default_factory=dict)
    why: str | None = None
    arrived: dict[tuple[bytes, ...], dict[str, Tensor]] = field(default_factory=dict)

    def live(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which columns, bool [d] by place, can differ from 0 if only the neurons in ``masks`` are open.

        Masks shorter than their layer are filled up with zeros.
        """
        full = {path: _as_long(masks[path], n) for path, n in self.widths.items()}
        live = {}
        for place, flags in self.always.items():
            live[place] = flags.clone()
            for path, link in self.links.get(place, {}).items():
                live[place] |= link.live(full[path])
        return live

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
        paths = list(self.widths)
        groups = [[path] for path in paths]
        for links in self.links.values():
            for one, link in links.items():
                for other, more in links.items():
                    if one != other and bool((link.linked() & more.linked()).any()):
                        groups = _joined(groups, one, other, paths)
        return groups


def _joined(groups: list[list[str]], one: str, other: str, paths: list[str]) -> list[list[str]]:
    together = [group for group in groups if one in group or other in group]
    rest = [group for group in groups if group not in together]
    return [*rest, sorted({path for group in together for path in group}, key=paths.index)]


def _as_long(mask: Tensor, n: int) -> Tensor:
    full = torch.zeros(n, dtype=torch.bool)
    full[: len(mask)] = mask.to(full)
    return full
