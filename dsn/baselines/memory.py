"""What a strategy has to keep, in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ..masking import MaskedModel
from ..masking.reach import read_inputs


@dataclass(frozen=True)
class MemoryUse:
    """Bytes as stored: masks as packed bits, everything else in its own type. The backbone's weights, which
    every strategy has, are not counted."""

    bytes_per_task: list[int]
    """in the order of learning: mask, head, norm state and whatever else belongs to one task alone"""
    shared_bytes: int = 0
    """state that no one task owns: importances, a copy of the old network"""
    stored_samples: int = 0
    stored_sample_bytes: int = 0
    backbone_bytes: int | None = None
    """of the weights of one dense backbone's layers, biases left out"""
    used_bytes: int | None = None
    """of them, those that some task uses and no seed gives again; 0 where tasks have networks of their own"""


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the values of all ``tensors``."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def masked_model_memory(model: MaskedModel) -> MemoryUse:
    """Of DSN and HAT: packed masks, bits of edges, heads, norm state, records (activation statistics,
    assessment), lateral heads. Neurons that grew count as the backbone."""
    per_task = []
    for task in model.committed:
        row = model.committed.index(task)
        masks = [gate.masks[row] for gate in model.gates_by_path.values()]
        extra = [*model.record(task).buffers(), *model.laterals[str(task)].buffers()]
        bits = 0 if model.edges is None else model.edges.bytes_of(task)
        own = [*model.own_parameters(task), *model.task_buffers(task)]
        per_task.append(bits + bytes_of([*masks, *extra, *own]))
    return MemoryUse(per_task, backbone_bytes=_layer_bytes(model), used_bytes=_used_bytes(model))


def _layer_bytes(model: MaskedModel) -> int:
    return bytes_of(layer.weight for _, layer in model.layer_modules())


def _used_bytes(model: MaskedModel) -> int:
    """Of the weights between used neurons; with edges, of the rows that tasks own."""
    used = model.used()
    if not any(bool(mask.any()) for mask in used.values()):
        return 0
    inputs = read_inputs(model, used)
    total = 0
    for path, layer in model.layer_modules():
        weight = layer.weight
        window = weight[0, 0].numel() * weight.element_size()
        columns = weight.shape[1] if model.edges is not None else int(inputs[path].sum())
        total += int(used[path].sum()) * columns * window
    return total
