"""Node-Path Balancing as its authors' public code has it (Pham et al., NeurIPS 2023), beside npb.py's.

The same rule a layer, solved by the same closed form, and what that code does around it:

- Layers are solved in chunks of outputs, of ``chunk`` where a convolution has more than ``chunk_above``
  kernels, of 10 in a large Linear. Chunks do not know of each other, and each rounds its budget up.
- A kernel has at most ``cap`` taps, two fewer behind each shortcut while that is above 5; but all that there
  are in the first layer and in shortcuts.
- A kernel is worth ``beta`` in convolutions, 0.001 in shortcuts and nothing in Linears.
- An input that no path reaches counts as a node.
- Where a budget does not fill the kernels of one input, paths are measured against those of all inputs, which
  makes nodes win at high sparsity: ``all_inputs_below_one``, a slice of length 0 in that code.
- At the end the mask is tuned (:func:`tune`), convolutions alone.

That code leaves the rows behind the last full chunk dense; here the last chunk is a smaller one. Its solver
chooses among equals in an order of its own; here they are served in random order. Shortcuts, which it knows
by name, are convolutions of one tap. So masks keep the asked share of weights roughly: in all of the cases
that the tests try, within 4% and 20 weights.

Shapes: masks [n, d, ...] of n neurons, d inputs, k taps a kernel.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .balancing import balance
from .layers import Masks, shapes_of, unrounded
from .measures import WeightTaps, arriving, count_paths
from .npb import check, masks_of, refuse_no_path
from .wiring import INPUT, Wiring, find_wiring

SHORTCUT_BETA = 0.001
LINEAR_CHUNK, LARGE_LINEAR = 10, 5120  # outputs; weights
LEAST_CAP = 5


def npb_paper(
    network: nn.Module,
    density: float,
    *,
    input_shape: Sequence[int],
    random: np.random.Generator,
    alpha: float = 0.01,
    beta: float = 1.0,
    chunk: int = 32,
    chunk_above: int = 64 * 32,
    cap: int = 9,
    all_inputs_below_one: bool = True,
    tuned: bool = True,
    **_unused: Any,
) -> Masks:
    """The authors' masks, with the settings of their ResNet-20; for others ``chunk_above`` is 128 * 128.

    Raises InputError for alpha or beta out of range; a density at which no path survives.
    """
    check(alpha, beta)
    shapes, wiring = shapes_of(network), find_wiring(network, input_shape)
    exact = unrounded(shapes, density)
    forward = {INPUT: torch.zeros(wiring.widths[INPUT], dtype=torch.float64)}
    masks: Masks = {}
    for stage in wiring.stages:
        path, shape = stage[0], shapes[stage[0]]
        arrived = arriving(wiring, stage, forward)
        if path not in masks:
            taps, shortcut = shape[2:].numel(), len(shape) > 2 and shape[2:].numel() == 1
            if len(shape) == 2:
                size, worth = LINEAR_CHUNK if shape.numel() > LARGE_LINEAR else shape[0], 0.0
            else:
                size = chunk if shape[0] * shape[1] > chunk_above else shape[0]
                worth = SHORTCUT_BETA if shortcut else beta
            most = taps if shortcut or not masks else min(cap, taps)
            placed = np.zeros(shape[:2], dtype=np.int64)
            for rows in np.split(np.arange(shape[0]), range(size, shape[0], size)):
                count = math.ceil(exact[path] / shape[0] * len(rows) - 1e-9)
                placed[rows] = balance(
                    arrived.numpy(),
                    len(rows),
                    min(taps, max(most, -(-count // (len(rows) * shape[1])))),
                    count,
                    alpha=alpha,
                    beta=worth,
                    random=random,
                    credit_unreached=True,
                    all_inputs_below_one=all_inputs_below_one,
                    evenly=False,
                )
            masks[path] = masks_of(shape, placed, random)
            if shortcut and cap > LEAST_CAP:
                cap -= 2
        forward[stage] = WeightTaps(masks[path]).forward(arrived)
    if tuned:
        masks = tune(wiring, masks)
    counts = {path: int(mask.sum()) for path, mask in masks.items()}
    refuse_no_path(_on_path(wiring, masks)[1], counts, "npb_paper")
    return masks


def tune(wiring: Wiring, masks: Masks) -> Masks:
    """In convolutions, forwards: weights on no path leave, and as many fill up those that are.

    The kernels with most effective weights are filled first, whole ones, so a few weights more than left; in
    shortcuts the inputs with most, whole columns. What then still lies on no path goes to the next layer.
    """
    masks = dict(masks)
    before, carried = _on_path(wiring, masks)[0], 0
    for path in [path for path, mask in masks.items() if mask.dim() > 2]:
        lost = int(masks[path].sum() - before[path].sum()) + carried
        if lost > 1:
            masks[path] = _filled(before[path], lost)
            on_path = _on_path(wiring, masks)[0][path]
            carried = int(masks[path].sum() - on_path.sum())
            masks[path] = on_path
    return masks


def _filled(mask: Tensor, more: int) -> Tensor:
    """``mask`` with at least ``more`` taps, as far as there is room, the fullest kernels or columns first."""
    by_kernel = mask.flatten(2)  # [n, d, k]
    groups = by_kernel.flatten(0, 1) if by_kernel.shape[2] > 1 else by_kernel[..., 0].T  # [groups, taps]
    have = groups.sum(1)
    order = have.argsort(descending=True, stable=True)
    need = (groups.shape[1] - have[order]).cumsum(0)
    filled = groups.clone()
    filled[order[: int((need < more).sum()) + 1]] = True
    return (filled if by_kernel.shape[2] > 1 else filled.T).reshape(mask.shape)


def _on_path(wiring: Wiring, masks: Mapping[str, Tensor]) -> tuple[Masks, float]:
    """The weights of each layer that lie on a path, in any call of it; the logarithm of the paths' number."""
    flow = count_paths(wiring, {path: WeightTaps(mask) for path, mask in masks.items()})
    found = {path: torch.zeros_like(mask) for path, mask in masks.items()}
    for stage in wiring.stages:
        ends = flow.effective(stage)[:, None] & flow.inputs[stage].isfinite()
        found[stage[0]] |= masks[stage[0]] & ends.view(*ends.shape, *[1] * (masks[stage[0]].dim() - 2))
    return found, flow.log_paths
