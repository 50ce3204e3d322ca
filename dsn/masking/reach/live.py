"""What is live under given masks, read off the network's map.

A weight that is taken for dead by mistake is not protected, and earlier tasks change. So what is live must be
so for *any* values. What cannot be decided is live: that costs plasticity, not memory.

Shapes: as in ``network_map.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ...errors import InputError
from ..layers import evaluating
from ..map import FEATURES, Alone, NetworkMap, Wiring
from ..structure import Structure
from .mapping import arrived_under, find_map
from .wiring import find_wiring


def map_of(model: Structure) -> NetworkMap:
    """The map of ``model``, found once for its widths."""
    if model.network_map is None or model.network_map.widths != model.layers:
        with _as_selected(model):
            model.network_map = find_map(model)
    return model.network_map


def wiring_of(model: Structure) -> Wiring:
    """The wiring between the layers of ``model``, found once for its widths."""
    found = map_of(model)
    if found.wiring is None:
        with _as_selected(model):
            found.wiring = find_wiring(model)
    return found.wiring


@contextmanager
def _as_selected(model: Structure) -> Iterator[None]:
    """Send values, and let gates and norms be as some task has selected them afterwards."""
    with evaluating(model):
        values = [gate.values for gate in model.gates_by_path.values()]
        norm_tasks = [norm.task for norm in model.norms()]
        try:
            yield
        finally:
            for gate, value in zip(model.gates_by_path.values(), values, strict=True):
                gate.values = value
            for norm, selected in zip(model.norms(), norm_tasks, strict=True):
                norm.task = selected


def live_inputs(model: Structure, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Which inputs of each layer [d], and which features [d], can differ from 0 under ``masks``.

    The network's own input counts as live, and so does what a norm gives that stands behind no layer, since
    its state is each task's own. Masks shorter than their layer (it has grown since) are filled up with
    zeros.
    """
    live = map_of(model).live(masks)
    moved = {place: flags.to(model.device) for place, flags in live.items()}
    return {path: moved[path] for path in model.gates_by_path}, moved[FEATURES]


def read_inputs(model: Structure, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which columns [d] of each layer's weight the neurons under ``masks`` may depend on.

    Those of the live inputs; those that were not seen live even with all neurons open, since nothing is known
    of them (a threshold that hardly any values pass); and all of them where a layer's own forward may mix the
    columns of a row, as weight standardisation does. And what values bring under these very masks:
    the map was tried under random ones, and what several neurons do together may have escaped it.
    """
    live, _ = live_inputs(model, masks)
    seen, arrived = map_of(model).seen(), _arrived(model, masks)
    return {
        path: torch.ones_like(flags)
        if path in model.whole_rows
        else flags | (arrived[path] | ~seen[path]).to(flags.device)
        for path, flags in live.items()
    }


def needed_inputs(model: Structure, before: int | None = None) -> dict[str, Tensor]:
    """Which columns [d] of each layer's weight the used neurons depend on, for any committed task.

    ``before``: for the tasks committed before this one. What all masks together let through, and what each of
    them does alone: where neurons compete (top-k, a norm over them), fewer open ones can mean more felt.
    """
    tasks = model.committed if before is None else model.committed[: model.tasks.index(before)]
    needed = read_inputs(model, model.used(before))
    found = map_of(model)
    packed = [gate.masks[: len(tasks)].cpu().numpy().tobytes() for gate in model.gates_by_path.values()]
    alone = found.alone
    if alone is None or not all(map(bytes.startswith, packed, alone.masks)):
        alone = Alone(0, packed, {path: torch.zeros_like(flags) for path, flags in needed.items()})
    columns = {path: flags.to(model.device) for path, flags in alone.columns.items()}
    for task in tasks[alone.tasks :]:
        each = read_inputs(model, model.masks(task))
        columns = {path: flags | each[path] for path, flags in columns.items()}
    found.alone = Alone(len(tasks), packed, columns)
    return {path: flags | columns[path] for path, flags in needed.items()}


def _arrived(model: Structure, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which columns, bool [d] by place, values of any kind arrive at under ``masks``; found once for them."""
    found = map_of(model)
    if found.why is not None:
        return found.always
    if (kept := found.arrived_under(masks)) is not None:
        return kept
    with _as_selected(model):
        try:
            felt = arrived_under(model, masks)
        except InputError:  # what cannot be found out is live
            felt = {place: torch.ones_like(flags) for place, flags in found.always.items()}
    return found.keep_arrived(masks, felt)


def coupled_layers(model: Structure) -> list[list[str]]:
    """Groups of layers whose outputs meet in a sum or product: they must have equally many neurons."""
    return map_of(model).coupled()


def inputs_known_at(model: Structure, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Which of its inputs, bool [d], each layer had when the layers were ``widths`` wide.

    Raises InputError where the map does not know.
    """
    found = map_of(model)
    if found.why is not None:
        raise InputError(f"which inputs are new cannot be found: {found.why}")
    known = found.known_before(widths)
    return {path: known[path].to(model.device) for path in model.gates_by_path}
