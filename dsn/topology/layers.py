"""How many weights each layer keeps, and masks that need no more than that.

Shapes: weight [n, d, ...] of n neurons and d inputs, k taps a kernel; masks bool in the shape of the weight.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dsn.errors import InputError
from dsn.masking.kinds import is_layer

from .wiring import INPUT, OUTPUT, Wiring

Shapes = Mapping[str, torch.Size]
Masks = dict[str, Tensor]


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The weight of every Linear and Conv, by path. Raises InputError for a grouped convolution."""
    layers = {path: module for path, module in network.named_modules() if is_layer(module)}
    for path, module in network.named_modules():
        if (groups := getattr(module, "groups", 1)) != 1 and "weight" in module._parameters:
            raise InputError(
                f"'{path}' is a convolution of {groups} groups: paths are counted only where every neuron "
                "may read every input; use groups=1"
            )
    return {path: layer.get_parameter("weight") for path, layer in layers.items()}


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    """The shapes of those weights, by path."""
    return {path: weight.shape for path, weight in weights_of(network).items()}


def budget_of(shapes: Shapes, density: float) -> int:
    """How many weights of the whole network may stay: the share ``density``, rounded, at least one."""
    return max(1, round(density * sum(shape.numel() for shape in shapes.values())))


def densities(shapes: Shapes, density: float) -> dict[str, int]:
    """Weights that each layer keeps at ``density`` of all: Erdős-Rényi-kernel (Evci et al. 2020, RigL).

    A layer's density is proportional to (n + d + sizes of a kernel) / (n d k), but at most 1; layers that
    reach 1 are dense and the rest is shared among the others. The counts add up to the budget exactly.
    """
    return _whole(unrounded(shapes, density), budget_of(shapes, density))


def unrounded(shapes: Shapes, density: float) -> dict[str, float]:
    """The counts of :func:`densities` before they are rounded."""
    budget = budget_of(shapes, density)
    sizes = {path: shape.numel() for path, shape in shapes.items()}
    scores = {path: float(sum(shape)) for path, shape in shapes.items()}  # density times size, up to a factor
    dense: set[str] = set()
    while True:
        left = {path: score for path, score in scores.items() if path not in dense}
        room = budget - sum(sizes[path] for path in dense)
        factor = room / sum(left.values()) if left else 0.0
        above = {path for path, score in left.items() if factor * score > sizes[path]}
        if not above:
            break
        dense |= above
    return {path: sizes[path] if path in dense else factor * scores[path] for path in shapes}


def same_density(shapes: Shapes, density: float) -> dict[str, int]:
    """Weights that each layer keeps where all have the same density; they add up to the budget exactly."""
    return _whole(
        {path: density * shape.numel() for path, shape in shapes.items()}, budget_of(shapes, density)
    )


def _whole(exact: Mapping[str, float], budget: int) -> dict[str, int]:
    """``exact`` rounded so that the sum is ``budget``: those with the largest remainders up."""
    counts = {path: math.floor(value) for path, value in exact.items()}
    by_remainder = sorted(exact, key=lambda path: counts[path] - exact[path])
    for path in by_remainder[: budget - sum(counts.values())]:
        counts[path] += 1
    return counts


def regular(shape: torch.Size, count: int, random: np.random.Generator) -> Tensor:
    """A mask with ``count`` taps in which neurons have equally many, up to one, and so have inputs.

    Taps go along diagonals of [n, d k]: (t mod n, (t + t div lcm) mod d k), both sides shuffled.
    """
    n, columns = shape[0], shape[1:].numel()
    t = np.arange(count)
    rows, places = t % n, (t + t // math.lcm(n, columns)) % columns
    taps = columns // shape[1]
    tap, inputs = (places // shape[1]) % taps, places % shape[1]
    order, which = random.permutation(n), random.permutation(shape[1])
    kernels = random.permuted(np.tile(np.arange(taps), (n, shape[1], 1)), axis=2)
    mask = np.zeros((n, shape[1], taps), dtype=bool)
    mask[order[rows], which[inputs], kernels[rows, inputs, tap]] = True
    return torch.from_numpy(mask).view(shape)


def narrow(shapes: Shapes, wiring: Wiring, density: float) -> Masks:
    """Masks of a narrow and dense network: each layer keeps the same share of its neurons, as large as fits.

    The network's outputs all stay. Of a layer the first neurons are kept: they are alike before training.

    Raises InputError where one neuron a layer is more than fits.
    """
    budget, outputs = budget_of(shapes, density), {link.source[0] for link in wiring.links[OUTPUT]}
    best = _narrowed(shapes, wiring, 0.0, outputs)
    if (least := sum(int(mask.sum()) for mask in best.values())) > budget:
        raise InputError(
            f"narrow: density {density:g} leaves {budget} weights, one neuron a layer has {least}; choose a "
            "higher one"
        )
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        masks = _narrowed(shapes, wiring, middle, outputs)
        if sum(int(mask.sum()) for mask in masks.values()) <= budget:
            low, best = middle, masks
        else:
            high = middle
    return best


def _narrowed(shapes: Shapes, wiring: Wiring, share: float, outputs: set[str]) -> Masks:
    kept = {}
    for path, shape in shapes.items():
        keep = shape[0] if path in outputs else max(1, round(share * shape[0]))
        kept[path] = torch.arange(shape[0]) < keep
    masks = {}
    for stage in wiring.stages:
        path, shape = stage[0], shapes[stage[0]]
        live = torch.zeros(shape[1], dtype=torch.bool)
        for link in wiring.links[stage]:
            on = (
                torch.ones(1, dtype=torch.bool)
                if link.source == INPUT
                else kept[link.source[0]][link.neurons]
            )
            live[link.columns] |= on
        block = kept[path][:, None] & live
        masks[path] = block.view(*block.shape, *[1] * (len(shape) - 2)).expand(shape).contiguous()
    return masks
