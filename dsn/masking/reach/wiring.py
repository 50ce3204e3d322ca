"""How the wiring between a network's layers is found: by the codes of the map, sent through its norms.

Shapes: as in ``codes.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..layers import recorded_sites
from ..map import INPUT, OUTPUT, Link, Stage, Wire, Wiring
from ..structure import Structure
from .codes import changed, spelled
from .sizes import true_size

S = TypeVar("S", bound=nn.Module)
KINDS_SENT = (0, 1)  # above 1 and below -1, so that a ReLU hides nothing


def find_wiring(model: Structure) -> Wiring:
    """The wiring of ``model`` as wide as it is now. A tensor that is added to itself counts once."""

    def told(rows: Mapping[Stage, Tensor]) -> dict[Stage, Tensor]:
        return changed(model, rows, KINDS_SENT, through=True)

    channels = model.size.shape[1]
    silence = told({INPUT: torch.zeros(1, channels, dtype=torch.bool)})
    stages = [stage for stage in silence if stage != OUTPUT]
    widths = {INPUT: channels} | {stage: model.layers[stage[0]] for stage in stages}
    links = spelled(widths, told, most=torch.inf)
    everything = told({source: torch.ones(1, n, dtype=torch.bool) for source, n in widths.items()})
    return Wiring(
        stages,
        widths,
        {stage: felt.shape[1] for stage, felt in silence.items()},
        {stage: _wires(by) for stage, by in links.items()},
        tuple(
            stage
            for stage, felt in everything.items()
            if not torch.equal(felt[0], _linked(links[stage], felt[0]))
        ),
    )


def _wires(by: Mapping[Stage, Link]) -> list[Wire]:
    return [Wire(source, *link.pairs()) for source, link in by.items()]


def _linked(by: Mapping[Stage, Link], like: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(like), *(link.linked() for link in by.values())]).any(0)


def plain_structure(network: nn.Module, input_shape: Sequence[int]) -> Structure:
    """What values can be sent through in the place of ``network``, which is not changed.

    Its layers have no weights of their own; ``input_shape``: of one sample, [1, channels, ...] or [1, d].
    """
    like = next(network.parameters())
    x = torch.zeros(1, *input_shape[1:], device=like.device, dtype=like.dtype)
    sites = recorded_sites(network, x)
    model = Structure(without_weights(network, [site.layer for site in sites]), x, sites)
    model.size = true_size(model)
    return model


def without_weights(
    module: S,
    layers: Sequence[nn.Module],
    dtype: torch.dtype | None = None,
    leave_out: Sequence[object] = (),
) -> S:
    """A copy of ``module`` on the CPU in which the weights of ``layers`` take no memory and are 0.

    Parameters and buffers are of ``dtype``, by default of their own; attributes ``leave_out`` are None.
    """
    weights = [layer.get_parameter("weight") for layer in layers]
    memo: dict[int, object] = dict.fromkeys((id(thing) for thing in leave_out), None)
    for weight in weights:
        empty = torch.zeros(1, dtype=dtype or weight.dtype).expand(weight.shape)
        memo[id(weight)] = nn.Parameter(empty, requires_grad=False)
    return copy.deepcopy(module, memo).to("cpu", dtype)
