"""Which neurons and inputs of each layer a task's subnetwork keeps.

Shapes: as in layout.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..map import FEATURES, INPUT, Stage
from .layout import Arrival, Layout, match


@dataclass
class Cut:
    """What is left of each layer.

    ``needed``: bool [n], the neurons that are computed. ``kept``: [e], those that are handed on, some of them
    as zeros. ``columns``: [d], for each input that arrives, the input of the full layer it is, -1 for zeros.
    """

    needed: dict[str, Tensor]
    kept: dict[str, Tensor]
    columns: dict[str, Tensor]

    def emitted(self, path: str) -> Tensor:
        """[e] the neuron that a layer hands on at each place, -1 for zeros."""
        kept = self.kept[path]
        return torch.where(self.needed[path][kept], kept, -1)


def plan(
    masks: Mapping[str, Tensor],
    layout: Layout,
    meeting: list[list[str | Stage]],
    weights: Mapping[str, Tensor],
    head: Tensor,
) -> Cut:
    """What to keep of a task with ``masks``, given each layer's weight and the weight on the features.

    ``meeting``: groups of layers, as the map has them (:meth:`NetworkMap.meeting`).
    """
    masks = {path: mask.cpu() for path, mask in masks.items()}
    weights = {path: weight.cpu() for path, weight in weights.items()}
    needed, full = _needed(layout, masks, weights, head.cpu())
    whole = {path: torch.arange(n) for path, n in layout.widths.items()}
    narrow: list[dict[str, Tensor]] = []
    for group in meeting:
        paths = [path for path in group if isinstance(path, str)]
        # the input keeps its width; neurons may also be added to a tensor of another width than their layer's
        if INPUT not in group and len({layout.widths[path] for path in paths}) == 1:
            union = torch.stack([needed[path] for path in paths]).any(0).nonzero().flatten()
            narrow.append(dict.fromkeys(paths, union))
    kept = {path: index for group in narrow for path, index in group.items()}
    columns = _columns(layout, needed, whole | kept, full)
    if columns is not None:
        return Cut(needed, whole | kept, columns)
    kept = whole  # not all at once: each group by itself, where it does no harm
    columns = _columns(layout, needed, kept, full)
    for narrower in narrow:
        found = _columns(layout, needed, kept | narrower, full)
        if found is not None:
            kept, columns = kept | narrower, found
    assert columns is not None
    return Cut(needed, kept, columns)


def _columns(
    layout: Layout, needed: dict[str, Tensor], kept: dict[str, Tensor], full: dict[str, Arrival]
) -> dict[str, Tensor] | None:
    """Which input of the full layer arrives where, if layers hand on ``kept`` alone; None if not the same."""
    try:
        arrivals = layout.run(needed, kept)
    except Exception:  # the model's own code, on tensors it was not written for
        return None
    columns = {path: match(full[path], arrival) for path, arrival in arrivals.items()}
    if any(index is None for index in columns.values()):
        return None
    return cast(dict[str, Tensor], columns)


def _needed(
    layout: Layout, masks: dict[str, Tensor], weights: dict[str, Tensor], head: Tensor
) -> tuple[dict[str, Tensor], dict[str, Arrival]]:
    """The neurons of the masks, bool [n], that reach an input with a weight not 0; and what arrives of them.

    Found by gradients, and taken only if without the others the same arrives at all such inputs.
    """
    everything = layout.run(masks)
    needed = masks
    while True:
        gains = {path: mask.double().requires_grad_() for path, mask in needed.items()}
        read = {path: _read(weights[path], mask) for path, mask in needed.items()} | {FEATURES: _read(head)}
        try:
            with torch.enable_grad():
                arrivals = layout.run(gains)
                felt = torch.stack([(arrivals[path].signature * used).sum() for path, used in read.items()])
                grads = torch.autograd.grad(felt.sum(), list(gains.values()), allow_unused=True)
        except RuntimeError:  # the model's code has no gradient: it detaches, or writes in place
            return masks, everything
        fewer = {}
        for (path, mask), grad in zip(needed.items(), grads, strict=True):
            left = mask & (torch.zeros_like(mask) if grad is None else grad.ne(0))
            fewer[path] = left if bool(left.any()) else _first(mask)
        if all(torch.equal(fewer[path], mask) for path, mask in needed.items()):
            break
        needed = fewer
    arrivals = layout.run(needed)
    for path, used in read.items():
        if not torch.allclose(arrivals[path].signature[used], everything[path].signature[used], rtol=1e-10):
            return masks, everything
    return needed, arrivals


def _read(weight: Tensor, rows: Tensor | None = None) -> Tensor:
    """Bool [d]: the inputs that a weight [out, d, ...], or some of its rows, multiplies by anything but 0."""
    weight = weight if rows is None else weight[rows]
    return weight.transpose(0, 1).flatten(1).ne(0).any(1)


def _first(mask: Tensor) -> Tensor:
    """The first neuron of a mask alone."""
    return mask & (mask.cumsum(0) == 1)
