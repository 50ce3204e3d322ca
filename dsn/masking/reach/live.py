"""What is live under given masks, read off the network's map.

A weight that is taken for dead by mistake is not protected, and earlier tasks change. So what is live must be
so for *any* values. What cannot be decided is live: that costs plasticity, not memory.

Shapes: as in ``network_map.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...errors import InputError
from ..map import FEATURES, NetworkMap
from ..structure import Structure
from .comparing import felt
from .mapping import find_map
from .values import KINDS, Sender

_SENT: WeakKeyDictionary[Structure, dict[tuple[str, bytes], dict[str, Tensor]]] = WeakKeyDictionary()


def map_of(model: Structure) -> NetworkMap:
    """The map of ``model``, found once for its widths."""
    if model.network_map is None or model.network_map.widths != model.layers:
        with model.lock:
            values = [gate.values for gate in model.gates_by_path.values()]
            norm_tasks = [norm.task for norm in model.norms()]
            model.network_map = find_map(model)
            for gate, value in zip(model.gates_by_path.values(), values, strict=True):
                gate.values = value
            for norm, selected in zip(model.norms(), norm_tasks, strict=True):
                norm.task = selected
    return model.network_map


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
    arrived = _sent(model, masks)
    seen = map_of(model).seen()
    return {
        path: torch.ones_like(flags)
        if path in model.whole_rows
        else flags | arrived[path] | ~seen[path].to(flags.device)
        for path, flags in live.items()
    }


def _sent(model: Structure, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which inputs [d] of each layer values of any kind arrive at under ``masks``; found once for them."""
    key = (str(model.layers), b"".join(mask.cpu().numpy().tobytes() for mask in masks.values()))
    known = _SENT.setdefault(model, {})
    if key not in known:
        found = {
            p: torch.zeros(layer.weight.shape[1], dtype=torch.bool) for p, layer in model.layer_modules()
        }
        values = [gate.values for gate in model.gates_by_path.values()]
        norm_tasks = [norm.task for norm in model.norms()]
        with model.lock:
            for kind, _ in enumerate(KINDS):
                try:
                    arrivals = Sender(model, masks, kind).send()
                except (
                    Exception
                ):  # the backbone's own code, on values that it may check: the map says all is live
                    continue
                for path, flags in felt(model, arrivals, lambda arrived: arrived.ne(0)).items():
                    if path in found:
                        found[path] |= flags.cpu()
            for gate, value in zip(model.gates_by_path.values(), values, strict=True):
                gate.values = value
            for norm, selected in zip(model.norms(), norm_tasks, strict=True):
                norm.task = selected
        known[key] = found
    return {path: flags.to(model.device) for path, flags in known[key].items()}


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
