"""Which columns of its weights a layer had when a task was committed, before the network grew.

Shapes: columns bool [d] a layer; weights [n, d, ...].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..structure import Structure
from .live import inputs_known_at


def narrow_columns(model: Structure, task: int) -> dict[str, Tensor] | None:
    """Which inputs, bool [d], each layer had when ``task`` was committed; None if nothing has grown since."""
    if task not in model.committed:
        return None
    row = model.committed.index(task)
    widths = {path: gate.widths[row] for path, gate in model.gates_by_path.items()}
    if widths == model.layers:
        return None
    with model.lock:
        if row not in model.narrow_columns:
            model.narrow_columns[row] = inputs_known_at(model, widths)
        return model.narrow_columns[row]


def narrow_parameters(model: Structure, task: int) -> dict[str, Tensor]:
    """Weights and biases as wide as when ``task`` was committed, by name; {} if nothing has grown."""
    columns = narrow_columns(model, task)
    if columns is None:
        return {}
    row = model.committed.index(task)
    narrow = {}
    for path, layer in model.layer_modules():
        width = model.gates_by_path[path].widths[row]
        narrow[f"{path}.weight"] = laid_out(layer.weight[:width, columns[path]], layer.weight)
        if layer.bias is not None:
            narrow[f"{path}.bias"] = layer.bias[:width].contiguous()
    return narrow


def laid_out(part: Tensor, weight: Tensor) -> Tensor:
    """``part`` in the memory format of ``weight``: in another one it would be summed in another order."""
    if weight.dim() == 4 and weight.stride(1) == 1 and weight.stride(3) == weight.shape[1]:
        return torch.empty_like(part, memory_format=torch.channels_last).copy_(part)
    return part.contiguous()
