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
    """The ``count`` tasks committed before ``source`` whose masks are most like its, most similar first.

    Of equally similar ones, those learnt first.
    """
    earlier = model.committed[: model.committed.index(source)]
    if not earlier or not count:
        return []
    if model.edges is not None and model.edges.chooses:
        alike = [similarity(model, task, source) for task in earlier]
    else:
        alike = _similarities(model, len(earlier)).tolist()
    order = sorted(range(len(earlier)), key=lambda place: round(alike[place], 9), reverse=True)
    return [earlier[place] for place in order[:count]]


def _similarities(model: MaskedModel, row: int) -> Tensor:
    """:func:`similarity` of the ``row``-th committed task to each before it [row], all at once."""
    layers = []
    for gate in model.gates_by_path.values():
        bits = gate.all_masks(row + 1)
        sizes = bits.sum(1)
        layers.append((bits[:row] & bits[row]).sum(1) / (sizes[:row] * sizes[row]).double().sqrt())
    return torch.stack(layers).log().mean(0).exp()


def neurons_opened(masks: dict[str, Tensor], others: dict[str, Tensor]) -> int:
    """How many neurons ``others`` has that ``masks`` has not."""
    return sum(
        int(other.sum() - (other[: len(masks[path])] & masks[path][: len(other)]).sum())
        for path, other in others.items()
    )
