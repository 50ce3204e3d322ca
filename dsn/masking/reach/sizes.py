"""At which size values are sent: on images as small as show the same structure as the true ones.

Where a sample is MANY values all the same, fewer are sent at once.
"""

from __future__ import annotations

import math

import torch

from ..layers import evaluating
from ..map import Size
from ..structure import Structure

SMALL = (64, 96, 128)  # pixels that are tried, of the shorter side
WORTH = 0.6  # a smaller size is taken if it is below this share of the true one
MANY, FEWEST = 2**23, 2  # from so many values of all layers for one sample on, so many samples at once
LEAST_MAP = 2  # a map has so many places a side, unless the true one has fewer


def true_size(model: Structure) -> Size:
    """As the backbone was wrapped for."""
    return Size(tuple(model.input_shape), model.map_sizes)


def small_size(model: Structure, features: int) -> Size:
    """The smallest at which the same layers are called in the same order and ``features`` are as many."""
    true, shape = true_size(model), model.input_shape
    if len(shape) != 4:
        return true
    side = min(shape[2:])
    for small in SMALL:
        if small > WORTH * side:
            break
        pixels = (max(small, round(n * small / side / 32) * 32) for n in shape[2:])
        found = _recorded(model, (1, *shape[1:2], *pixels), features)
        if found is not None and _alike(true, found):
            return found
    return true


def _recorded(model: Structure, shape: tuple[int, ...], features: int) -> Size | None:
    """What a pass shows; None where the backbone does not run, or gives features of another length."""
    calls: dict[str, list[torch.Size]] = {}
    handles = [
        layer.register_forward_hook(
            lambda _module, _args, output, path=path: calls.setdefault(path, []).append(output.shape[2:])
        )
        for path, layer in model.layer_modules()
    ]
    try:
        with evaluating(model):
            model.open_plainly()
            given = model.backbone(torch.zeros(shape, device=model.device, dtype=model.dtype))
    except Exception:  # the backbone's own code, at another size
        return None
    finally:
        for handle in handles:
            handle.remove()
    return Size(shape, calls) if given.shape == (1, features) else None


def _alike(true: Size, small: Size) -> bool:
    return list(true.maps) == list(small.maps) and all(
        len(small.maps[path]) == len(sizes)
        and all(_large_enough(a, b) for a, b in zip(sizes, small.maps[path], strict=True))
        for path, sizes in true.maps.items()
    )


def _large_enough(true: torch.Size, small: torch.Size) -> bool:
    return len(true) == len(small) and all(b >= min(a, LEAST_MAP) for a, b in zip(true, small, strict=True))


def values_a_row(model: Structure) -> int:
    """How many values all layers give for one sample."""
    return sum(
        model.layers[path] * max(1, math.prod(shape))
        for path, calls in model.size.maps.items()
        for shape in calls
    )


def at_once(model: Structure, most: int) -> int:
    """How many samples go through together: ``most``, or FEWEST where each is more than MANY values."""
    return FEWEST if values_a_row(model) > MANY else most
