"""Node-Path Balancing of a whole network (Pham et al., NeurIPS 2023), with a repair where layers meet.

Layer by layer in forward order each layer is solved exactly (balancing.py). The layers before cannot know
which of their neurons the next one will use: what the others read is wasted. The repair measures the
effective neurons and places each layer's budget again on their rows alone, by the same closed form, until
every weight lies on a path; it need not come to that, and then the best round is kept.

Shapes: taps a kernel [n, d] int64 a layer; rows, the neurons that may have taps, bool [n].
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsn.errors import InputError

from .balancing import Counts, balance, relative
from .layers import Masks, Shapes, densities, shapes_of
from .measures import Flow, KernelTaps, arriving, count_paths
from .wiring import INPUT, OUTPUT, Wiring, find_wiring

Flags = NDArray[np.bool_]
ROUNDS = 10  # of the repair at most; four are mostly enough


def npb(
    network: nn.Module,
    density: float,
    *,
    input_shape: Sequence[int],
    random: np.random.Generator,
    alpha: float = 0.01,
    beta: float = 1.0,
    repair: bool = True,
    **_unused: Any,
) -> Masks:
    """Node-Path Balancing, layer by layer in forward order at ERK densities, then repaired.

    Args:
        alpha: what nodes weigh against paths, in [0, 1]; 0.01 is the authors' default.
        beta: what a kernel that is not empty is worth beside, 0 or more.
        repair: place each layer again where its neurons are effective, at most :data:`ROUNDS` times.

    Raises:
        InputError: alpha or beta out of range; a density at which no path survives.
    """
    check(alpha, beta)
    shapes, wiring = shapes_of(network), find_wiring(network, input_shape)
    counts = densities(shapes, density)
    layers = balanced(shapes, wiring, counts, random, alpha, beta, ROUNDS if repair else 0)
    return {path: masks_of(shapes[path], placed, random) for path, placed in layers.items()}


def check(alpha: float, beta: float) -> None:
    """Raise InputError unless alpha lies in [0, 1] and beta is 0 or more."""
    if not (0 <= alpha <= 1 and beta >= 0):
        raise InputError(
            f"npb: alpha is {alpha} and beta {beta}: alpha must lie in [0, 1], beta be 0 or more"
        )


def balanced(
    shapes: Shapes,
    wiring: Wiring,
    counts: Mapping[str, int],
    random: np.random.Generator,
    alpha: float,
    beta: float,
    rounds: int,
    *,
    refuse: bool = True,
    full: Mapping[str, Flags] | None = None,
) -> dict[str, Counts]:
    """Taps a kernel [n, d] of each layer, by path, where layer l keeps ``counts[l]`` weights.

    ``full``: by path, bool [n], neurons that keep every weight beside these.

    Of the first placement and at most ``rounds`` repaired ones: the first in which every weight lies on a
    path, else the best by nodes and paths of the whole network, the latter against the most of any round.
    Raises InputError where no path survives, unless told not to ``refuse`` that.
    """
    rows = {path: np.ones(shape[0], dtype=bool) for path, shape in shapes.items()}
    outputs = {link.source[0] for link in wiring.links[OUTPUT]}
    full = full or {path: np.zeros_like(flags) for path, flags in rows.items()}
    total = sum(counts.values()) + sum(int(full[path].sum()) * shapes[path][1:].numel() for path in shapes)
    tried: list[tuple[dict[str, Counts], float, float]] = []  # with nodes and the logarithm of the paths
    for _ in range(rounds + 1):
        layers = _forwards(shapes, wiring, counts, rows, full, random, alpha, beta)
        flow = count_paths(wiring, {path: KernelTaps(placed) for path, placed in layers.items()})
        tried.append((layers, sum(float(flow.effective(s).sum()) for s in wiring.widths), flow.log_paths))
        on_path = effective_taps(wiring, layers, flow)
        if sum(int(taps.sum()) for taps in on_path.values()) == total:
            return layers
        rows = {path: on_path[path].any(axis=1) | np.full(len(rows[path]), path in outputs) for path in rows}
    most = relative(np.array([paths for _, _, paths in tried]))
    nodes = np.array([found for _, found, _ in tried]) / sum(wiring.widths.values())
    best = tried[int((alpha * nodes + (1 - alpha) * most).argmax())]
    if refuse:
        refuse_no_path(best[2], counts, "npb")
    return best[0]


def effective_taps(wiring: Wiring, layers: Mapping[str, Counts], flow: Flow) -> dict[str, Counts]:
    """Taps a kernel [n, d] that lie on a path, in any call of their layer, by path."""
    found = {path: np.zeros_like(placed) for path, placed in layers.items()}
    for stage in wiring.stages:
        ends = flow.effective(stage).numpy()[:, None] & flow.inputs[stage].isfinite().numpy()
        found[stage[0]] = np.maximum(found[stage[0]], layers[stage[0]] * ends)
    return found


def refuse_no_path(log_paths: float, counts: Mapping[str, int], pruner: str) -> None:
    """Raise InputError where no path is left of ``counts`` weights a layer."""
    if log_paths == -math.inf:
        least = min(counts, key=lambda path: counts[path])
        raise InputError(
            f"{pruner}: no path from input to output survives at this density, which leaves {counts[least]} "
            f"weights of '{least}' and {sum(counts.values())} in all; choose a higher one"
        )


def masks_of(shape: torch.Size, placed: Counts, random: np.random.Generator) -> Tensor:
    """A bool mask in ``shape`` [n, d, ...] with ``placed`` taps a kernel, at random places of it."""
    taps = shape[2:].numel()
    mask = np.zeros((*placed.shape, taps), dtype=bool)
    live = placed.nonzero()
    places = random.random((len(live[0]), taps)).argsort(1).argsort(1)
    mask[live] = places < placed[live][:, None]
    return torch.from_numpy(mask).view(shape)


def _forwards(
    shapes: Shapes,
    wiring: Wiring,
    counts: Mapping[str, int],
    rows: Mapping[str, Flags],
    full: Mapping[str, Flags],
    random: np.random.Generator,
    alpha: float,
    beta: float,
) -> dict[str, Counts]:
    """One pass from input to output, each layer on its ``rows`` alone, or on more that hold its budget."""
    forward = {INPUT: torch.zeros(wiring.widths[INPUT], dtype=torch.float64)}
    layers: dict[str, Counts] = {}
    for stage in wiring.stages:
        path, shape = stage[0], shapes[stage[0]]
        arrived = arriving(wiring, stage, forward)
        if path not in layers:
            taps = shape[2:].numel()
            room = int(arrived.isfinite().sum()) * taps  # of a neuron
            placed = np.zeros(shape[:2], dtype=np.int64)
            placed[full[path]] = taps
            if counts[path]:
                others = np.flatnonzero(~full[path])
                least = max(1, -(-counts[path] // max(room, 1)))
                chosen = others[_at_least(rows[path][others], least, random)]
                placed[chosen] = balance(
                    arrived.numpy(), len(chosen), taps, counts[path], alpha=alpha, beta=beta, random=random
                )
            layers[path] = placed
        forward[stage] = KernelTaps(layers[path]).forward(arrived)
    return layers


def _at_least(rows: Flags, count: int, random: np.random.Generator) -> Counts:
    """The indices of ``rows`` bool [n], and of random others where they are fewer than ``count``."""
    inside, others = np.flatnonzero(rows), np.flatnonzero(~rows)
    more = max(0, min(count - len(inside), len(others)))
    return np.concatenate([inside, random.permutation(others)[:more]])
