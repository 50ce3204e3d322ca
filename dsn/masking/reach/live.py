"""What masked neurons reach: found by sending values through the network instead of tracing it.

Each masked layer emits given values in place of its output, on an evaluation pass. What can arrive non-zero
at a layer's input is live. What is live must be so for *any* values: a weight that is taken for dead by
mistake is not protected, and earlier tasks change. So many kinds of values are sent (``values.py``), and what
any of them brings is live. What cannot be decided is live: that costs plasticity, not memory.

Shapes: as in ``sending.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .sending import Arrivals
from .values import BOUNDLESS, KINDS, Sender

if TYPE_CHECKING:
    from ..model import MaskedModel

InputsOfTask = tuple[dict[str, int], dict[str, Tensor], dict[str, Tensor]]
"""widths of the layers, masks of a task, and the inputs that these let through, by layer"""


def live_inputs(model: MaskedModel, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Which inputs of each layer [d], and which features [d], can differ from 0 under ``masks``.

    The network's own input counts as live, and so does what a norm gives that stands behind no layer, since
    its state is each task's own. Masks shorter than their layer (it has grown since) are filled up with
    zeros.
    """
    found = Flags()
    for kind, _ in enumerate(KINDS):
        try:
            arrivals = Sender(model, masks, kind).send()
        except Exception:  # the backbone's own code, on values that it may check
            if KINDS[kind] not in BOUNDLESS:
                raise
            found.everything()
            continue
        found.add(felt_inputs(model, arrivals, lambda arrived: arrived.ne(0)))
        if found.full(model):
            break
    return found.layers(model)


def read_inputs(model: MaskedModel, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which columns [d] of each layer's weight the neurons under ``masks`` may depend on.

    Those of the live inputs; those that were not seen live even with all neurons open, since nothing is known
    of them (a threshold that hardly any values pass); and all of them where a layer's own forward may mix the
    columns of a row, as weight standardisation does.
    """
    live, _ = live_inputs(model, masks)
    seen = _seen_live(model)
    return {
        path: torch.ones_like(flags) if path in model.whole_rows else flags | ~seen[path]
        for path, flags in live.items()
    }


def open_everywhere(model: MaskedModel) -> dict[str, Tensor]:
    """Masks [n] that let all neurons through."""
    return {path: torch.ones(n, dtype=torch.bool, device=model.device) for path, n in model.layers.items()}


def _seen_live(model: MaskedModel) -> dict[str, Tensor]:
    """The inputs [d] of each layer that were live with all neurons open, found once for its widths."""
    if model.seen_live is None or model.seen_live[0] != _key(model):
        return keep_seen_live(model, live_inputs(model, open_everywhere(model))[0])
    return model.seen_live[1]


def keep_seen_live(model: MaskedModel, live: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep, and return, what was live with all neurons open, for as long as the model stays as wide."""
    model.seen_live = (_key(model), live)
    return live


def _key(model: MaskedModel) -> tuple[dict[str, int], torch.device]:
    return model.layers, model.device


def needed_inputs(model: MaskedModel, before: int | None = None) -> dict[str, Tensor]:
    """Which columns [d] of each layer's weight the used neurons depend on, for any committed task.

    ``before``: for the tasks committed before this one. What all masks together let through, and what each of
    them does alone: where neurons compete (top-k, a norm over them), fewer open ones can mean more felt.
    """
    tasks = model.committed if before is None else model.committed[: model.tasks.index(before)]
    needed = read_inputs(model, model.used(before))
    for task in tasks:
        alone = _inputs_of(model, task)
        needed = {path: flags | alone[path] for path, flags in needed.items()}
    return needed


def _inputs_of(model: MaskedModel, task: int) -> dict[str, Tensor]:
    """:func:`read_inputs` under the mask of ``task``, found once a mask and widths."""
    masks = model.masks(task)
    known = model.inputs_of_tasks.get(task)
    if (
        known is None
        or known[0] != model.layers
        or any(m.device != known[1][p].device or not torch.equal(known[1][p], m) for p, m in masks.items())
    ):
        known = model.inputs_of_tasks[task] = (model.layers, masks, read_inputs(model, masks))
    return known[2]


class Flags:
    """Bool [d] by place, gathered over passes."""

    def __init__(self) -> None:
        self.flags: dict[str, Tensor] = {}
        self.all = False

    def add(self, more: Mapping[str, Tensor]) -> None:
        for place, flags in more.items():
            self.flags[place] = self.flags[place] | flags if place in self.flags else flags

    def everything(self) -> None:
        self.all = True

    def full(self, model: MaskedModel) -> bool:
        """Whether nothing more can be added."""
        return self.all or (
            set(self.flags) >= set(model.gates_by_path) and bool(torch.cat([*self.flags.values()]).all())
        )

    def layers(self, model: MaskedModel) -> tuple[dict[str, Tensor], Tensor]:
        """By layer, and those of the features; where nothing ever arrived, all could be live."""
        for path, layer in model.layer_modules():
            if path not in self.flags:
                self.flags[path] = torch.ones(layer.weight.shape[1], dtype=torch.bool, device=model.device)
        if self.all:
            self.flags = {place: torch.ones_like(flags) for place, flags in self.flags.items()}
        return {path: self.flags[path] for path in model.gates_by_path}, self.flags["features"]


def felt_inputs(
    model: MaskedModel, arrivals: Arrivals, felt: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Which inputs [d] of each place ``felt`` something in any call; places that no call
    reached are missing."""
    dims = {path: gate.neuron_dim for path, gate in model.gates_by_path.items()}
    return {
        place: torch.stack([any_along(felt(t), dims.get(place, -1)) for t in arrived]).any(0)
        for place, arrived in arrivals.places().items()
        if arrived
    }


def any_along(flags: Tensor, dim: int) -> Tensor:
    """Reduce bool ``flags`` to one flag for each index of dimension ``dim``."""
    return flags.movedim(dim, 0).flatten(1).any(1)


def changed(model: MaskedModel, before: Arrivals, after: Arrivals) -> dict[str, Tensor]:
    """Where two passes brought something else, bool [d] by place; NaN equals NaN."""
    dims = {path: gate.neuron_dim for path, gate in model.gates_by_path.items()}
    later = after.places()

    def of(place: str, one: Tensor, other: Tensor) -> Tensor:
        return any_along(differ(one, other), dims.get(place, -1))

    return {
        place: torch.stack([of(place, *calls) for calls in zip(arrived, later[place], strict=False)]).any(0)
        for place, arrived in before.places().items()
        if arrived and later[place]
    }


def differ(one: Tensor, other: Tensor) -> Tensor:
    """Where two tensors are not the same, bool; NaN equals NaN."""
    return one.ne(other) & ~(one.isnan() & other.isnan())


def coupled_layers(model: MaskedModel) -> list[list[str]]:
    """Groups of layers whose outputs meet in a sum or product, so that they must have
    equally many neurons."""
    paths = list(model.gates_by_path)
    reached: dict[str, Tensor] = {}
    none = {p: torch.zeros(g.n, dtype=torch.bool) for p, g in model.gates_by_path.items()}
    unreached = ~_flat(live_inputs(model, none))
    for path in paths:
        alone = none | {path: torch.ones(model.gates_by_path[path].n, dtype=torch.bool)}
        reached[path] = _flat(live_inputs(model, alone)) & unreached
    groups: list[list[str]] = []
    for path in paths:
        meets = [group for group in groups if any((reached[path] & reached[other]).any() for other in group)]
        groups = [group for group in groups if group not in meets]
        groups.append(sorted({path, *(p for group in meets for p in group)}, key=paths.index))
    return groups


def _flat(live: tuple[dict[str, Tensor], Tensor]) -> Tensor:
    return torch.cat([*live[0].values(), live[1]])
