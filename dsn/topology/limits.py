"""How many nodes and paths there can be at most with so many weights a layer.

*Nodes*: an effective neuron needs a weight of its layer and one of a layer that reads it, so of n neurons at
most as many are effective as its layer keeps weights, and as the weights of its readers can reach.

*Paths*: the number of paths is 1' T_L ... T_1 1, at most the product of norms. The spectral norm of T [n, d]
is at most its Frobenius norm, sqrt(k m) with m taps, k a kernel at most; that of a dense block is just that.
So the bound is met by dense layers that read all inputs. Where branches meet in a sum their norms add up.

Both hold for any mask, and no mask need reach both. Shapes: n neurons and d inputs of a layer.
"""

import math
from collections.abc import Mapping

import torch

from .wiring import INPUT, OUTPUT, Stage, Wire, Wiring


def most_nodes(wiring: Wiring, weights: Mapping[str, int], room: Mapping[str, int] | None = None) -> int:
    """Upper limit of the effective nodes, inputs included, of a mask with ``weights`` a layer, by path.

    ``room``: how many neurons a layer has, where that is fewer than in ``wiring``.
    """
    reach = dict.fromkeys(wiring.widths, 0)
    for stage in [*wiring.stages, OUTPUT]:
        for link in wiring.links[stage]:
            columns = wiring.inputs[OUTPUT] if stage == OUTPUT else weights[stage[0]]
            reach[link.source] += columns * _meet(link)
    found: dict[str, int] = {}
    for stage, width in wiring.widths.items():
        n = min(width, (room or {}).get(stage[0], width))
        most = min(n, reach[stage]) if stage == INPUT else min(n, reach[stage], weights[stage[0]])
        found[stage[0]] = min(n, found.get(stage[0], 0) + most)  # a layer that is called several times
    return sum(found.values())


def most_log10_paths(wiring: Wiring, weights: Mapping[str, int], taps: Mapping[str, int]) -> float | None:
    """Upper limit of log10 of the paths; None where none is possible. ``taps``: of a kernel, by path."""
    norms: dict[Stage, float] = {INPUT: 0.5 * math.log(wiring.widths[INPUT])}
    for stage in [*wiring.stages, OUTPUT]:
        arrived = [
            norms[link.source] + 0.5 * math.log(_copies(link) * _meet(link)) for link in wiring.links[stage]
        ]
        total = torch.tensor(arrived, dtype=torch.float64).logsumexp(0).item() if arrived else -math.inf
        if stage == OUTPUT:
            total += 0.5 * math.log(wiring.inputs[OUTPUT])
            return None if total == -math.inf else total / math.log(10)
        most = weights[stage[0]] * taps[stage[0]]
        norms[stage] = total + (0.5 * math.log(most) if most else -math.inf)
    raise AssertionError("a wiring without an output")


def _meet(link: Wire) -> int:
    """How many neurons of a source meet in one input at most."""
    return int(link.columns.bincount().max())


def _copies(link: Wire) -> int:
    """At how many inputs a neuron arrives at most."""
    return int(link.neurons.bincount().max())
