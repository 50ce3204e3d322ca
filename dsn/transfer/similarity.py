"""How alike the committed masks of two tasks are; where edges have bits, how alike those are."""

import torch
from torch import Tensor

from ..masking import MaskedModel


def similarity(model: MaskedModel, first: int, second: int) -> float:
    """Cosine |a and b| / sqrt(|a| |b|) of the masks a layer, geometric mean over the layers, in [0, 1].

    Where edges have bits, the same of the edges that the tasks own or read: masks then say who learnt when.
    """
    if model.edges is not None and model.edges.chooses:
        return float(model.edges.similarity(model, (first, second))[0, 1])
    cosines = []
    second_masks = model.masks(second)
    for path, mask in model.masks(first).items():
        other = second_masks[path]
        width = min(len(mask), len(other))
        shared = (mask[:width] & other[:width]).sum()
        cosines.append(shared / (mask.sum() * other.sum()).sqrt())
    values = torch.stack(cosines)
    return float(values.log().mean().exp()) if bool((values > 0).all()) else 0.0


def most_similar(model: MaskedModel, source: int, count: int) -> list[int]:
    """The ``count`` tasks committed before ``source`` whose masks are most like its, most similar first."""
    earlier = model.committed[: model.committed.index(source)]
    return sorted(earlier, key=lambda task: similarity(model, task, source), reverse=True)[:count]


def neurons_opened(masks: dict[str, Tensor], others: dict[str, Tensor]) -> int:
    """How many neurons ``others`` has that ``masks`` has not."""
    return sum(
        int(other.sum() - (other[: len(masks[path])] & masks[path][: len(other)]).sum())
        for path, other in others.items()
    )
