"""What a backbone's code does with narrower tensors: where each value of a layer arrives, told by signatures.

Which layers meet stands in the map; but whether the code between the layers runs on narrower tensors, and in
which order values arrive then (flattened, shuffled), only running it shows. Random values are sent for the
neurons that a task needs: in all places, or in a few of a tensor that is as much narrower. What arrives at an
input is told apart by its signature, a random projection of its values, in double precision.

Shapes: n neurons of a layer as wide as the task knew it; d inputs of a layer; gains [n], one a neuron,
multiply what is emitted; kept [e], the neurons that a narrower tensor has, ascending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..computes import Computes
from ..foreign import OwnModule
from ..map import FEATURES
from ..reach import send, true_size, without_weights
from ..structure import Structure

# sizes of the values sent, each with both signs: some of them pass any activation that is not flat everywhere
SIZES = (1 / 64, 1 / 4, 1.0, 8.0)


@dataclass
class Arrival:
    """What arrived at the inputs of a layer: ``signature`` [d], and ``live`` [d], whether it was not 0."""

    signature: Tensor
    live: Tensor


class Layout:
    """Where values arrive in ``model.backbone`` as it runs for ``task``."""

    def __init__(self, model: Computes, task: int) -> None:
        self.widths = {path: len(mask) for path, mask in model.masks(task).items()}
        self.model = _without_weights(model)
        placed = {self.model.mask_module(path) for path in self.widths}
        for norm in self.model.norms():
            norm.original = norm.of(task)
            if norm not in placed and not isinstance(norm, OwnModule):
                _neutralise(norm.original)

    def run(
        self, gains: Mapping[str, Tensor], kept: Mapping[str, Tensor] | None = None
    ) -> dict[str, Arrival]:
        """What arrives at each layer and at the features; differentiable by the gains.

        Raises whatever the backbone's code raises where it does not run on tensors as narrow as ``kept``.
        """
        model, size = self.model, true_size(self.model)
        seeds = {path: seed for seed, path in enumerate([*self.widths, FEATURES])}
        arrived: dict[str, list[Arrival]] = {place: [] for place in seeds}

        def emit(path: str, output: Tensor) -> Tensor:
            dim, random = model.gates_by_path[path].neuron_dim, _random(seeds[path], len(arrived[path]) - 1)
            shape = list(output.shape)
            shape[dim] = self.widths[path]
            gain = gains[path].double().view(-1, *[1] * (-1 - dim if dim < 0 else len(shape) - 1 - dim))
            values = _pairs(shape, random) * gain
            return values if kept is None else values.index_select(dim, kept[path])

        def keep(place: str, x: Tensor) -> Tensor:
            dim = -1 if place == FEATURES else model.gates_by_path[place].neuron_dim
            arrived[place].append(_summary(x, dim, _random(seeds[place], len(arrived[place]))))
            return arrived[place][-1].signature

        x = _pairs([2 * len(SIZES), *size.shape[1:]], _random(len(seeds), 0))
        grad = any(gain.requires_grad for gain in gains.values())
        send(model, emit, x, keep=keep, size=size, grad=grad)
        return {place: _over_calls(calls) for place, calls in arrived.items()}


def _without_weights(model: Computes) -> Structure:
    layers = [layer for _, layer in model.layer_modules()]
    return without_weights(model, layers, torch.double, leave_out=(model.edges, model.network_map))


@torch.no_grad()
def _neutralise(norm: nn.Module) -> None:
    """Let a norm pass on what arrives as it is scaled, and a little more than 0 where that is 0.

    With the scales and shifts that a task has learnt, a ReLU behind it could hide what other inputs bring.
    """
    for name, value in (("weight", 1.0), ("bias", SIZES[0] / 4), ("running_mean", 0.0), ("running_var", 1.0)):
        tensor = getattr(norm, name, None)
        if tensor is not None:
            tensor.fill_(value)


def match(full: Arrival, cut: Arrival) -> Tensor | None:
    """For each input of a cut layer, the input of the full one that brings the same; -1 where it brings 0.

    None where the two do not bring the same. Equal inputs may stand for each other.
    """
    sources, targets = full.live.nonzero().flatten(), cut.live.nonzero().flatten()
    if len(sources) != len(targets):
        return None
    expected, order = full.signature[sources].sort(stable=True)
    found, places = cut.signature[targets].sort(stable=True)
    if not torch.allclose(found, expected, rtol=1e-10, atol=1e-11 * float(full.signature.abs().max())):
        return None
    columns = torch.full((len(cut.live),), -1)
    columns[targets[places]] = sources[order]
    return columns


def _random(seed: int, call: int) -> torch.Generator:
    return torch.Generator().manual_seed(1009 * seed + call)


def _pairs(shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Random values of every size, for the first half of the batch; their negatives for the second."""
    half = torch.rand((shape[0] // 2, *shape[1:]), generator=random, dtype=torch.float64) + 1
    half = half.unflatten(0, (len(SIZES), -1))
    half = (half * torch.tensor(SIZES).view(-1, *[1] * (half.dim() - 1))).flatten(0, 1)
    return torch.cat([half, -half])


def _summary(x: Tensor, dim: int, random: torch.Generator) -> Arrival:
    columns = x.movedim(dim, 0).flatten(1).double()
    projection = torch.randn(columns.shape[1], generator=random, dtype=torch.float64)
    return Arrival(columns @ projection, columns.detach().ne(0).any(1))


def _over_calls(calls: list[Arrival]) -> Arrival:
    """A column is told apart by all that it brought."""
    signature = torch.stack([arrival.signature for arrival in calls]).sum(0)
    return Arrival(signature, torch.stack([arrival.live for arrival in calls]).any(0))
