"""What the committed masks of a model use: neurons a layer and task, overlap between tasks, bytes.

Shapes: T committed tasks in the order of their commits; n_l neurons in layer l.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dsn.masking import MaskedModel
from dsn.masking.bits import widened

Overlap = NDArray[np.float64]


@dataclass(frozen=True)
class Neurons:
    """Neurons of one layer, as counted at the commit of one task."""

    active: int
    """selected by the task: reused + fresh"""
    reused: int
    """selected, and used by an earlier task"""
    fresh: int
    """selected, and used by no earlier task"""
    free: int
    """used by no task up to and with this one"""
    total: int
    """all neurons of the layer"""


def neurons(model: MaskedModel) -> dict[int, dict[str, Neurons]]:
    """Counts for every committed task and masked layer: ``neurons(model)[task][layer]``."""
    counts: dict[int, dict[str, Neurons]] = {}
    # none, but those of a pretrained backbone
    used: dict[str, Tensor] = {path: gate.used(0) for path, gate in model.gates_by_path.items()}
    for task in model.committed:
        counts[task] = {}
        for layer, mask in model.masks(task).items():
            before = widened(used[layer][: len(mask)], len(mask))
            after = before | mask
            counts[task][layer] = Neurons(
                active=int(mask.sum()),
                reused=int((mask & before).sum()),
                fresh=int((mask & ~before).sum()),
                free=int((~after).sum()),
                total=len(mask),
            )
            used[layer] = after
    return counts


def mask_bytes(model: MaskedModel, task: int) -> int:
    """Bytes that the packed mask of a task takes, sum over layers of ceil(n_l / 8), and its bits of edges."""
    bits = 0 if model.edges is None else model.edges.bytes_of(task)
    return bits + sum(-(-len(mask) // 8) for mask in model.masks(task).values())


def jaccard(model: MaskedModel) -> dict[str, Overlap]:
    """Neurons shared over neurons used by either task, |a and b| / |a or b|: layer -> [T, T]."""
    overlap = {}
    for layer, masks in _stacked(model).items():
        shared = masks @ masks.T
        either = masks.sum(1)[:, None] + masks.sum(1)[None] - shared
        overlap[layer] = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    return overlap


def similarity(model: MaskedModel) -> Overlap:
    """Mask similarity [T, T]: cosine |a and b| / sqrt(|a| |b|) a layer, geometric mean over the layers.

    Where edges have bits, the same of the edges that the tasks own or read.
    """
    if model.edges is not None and model.edges.chooses:
        return model.edges.similarity(model, model.committed).cpu().numpy()
    cosines = []
    for masks in _stacked(model).values():
        shared = masks @ masks.T
        size = np.sqrt(np.outer(masks.sum(1), masks.sum(1)))
        cosines.append(np.divide(shared, size, out=np.zeros_like(shared), where=size > 0))
    return np.prod(np.stack(cosines) ** (1 / len(cosines)), axis=0)


def _stacked(model: MaskedModel) -> dict[str, NDArray[np.float64]]:
    """Committed masks a layer, as 0.0 and 1.0: layer -> [T, n_l]."""
    return {
        layer: gate.all_masks().cpu().numpy().astype(np.float64)
        for layer, gate in model.gates_by_path.items()
        if model.committed
    }
