"""What a backbone's code does with neurons between its layers, found by running that code without the layers.

In a copy of the backbone, a probe stands in for each masked layer and the norm behind it. It adds up what
arrives, and emits random values for the neurons it is told to: all of them, or a few in a tensor that is as
much narrower. What arrives at an input is told apart by its signature, a random projection of its values,
in double precision.

Shapes: n neurons of a layer as wide as the task knew it; d inputs of a layer; gains [n], one a neuron,
multiply what is emitted; kept [e], the neurons that a narrower tensor has, ascending.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..computes import Computes
from ..kinds import is_norm, layer_kind
from ..layers import evaluating
from ..norms import TaskNorm
from .pieces import Masked

FEATURES, INPUT = "features", "input"
# sizes of the values sent, each with both signs: some of them pass any activation that is not flat everywhere
SIZES = (1 / 64, 1 / 4, 1.0, 8.0)


@dataclass
class Arrival:
    """What arrived at the inputs of a layer: ``signature`` [d], and ``live`` [d], whether it was not 0."""

    signature: Tensor
    live: Tensor


class _Probe(nn.Module):
    """Stands in for a layer; ``shapes``: what the layer gives for one sample, a shape for each call."""

    def __init__(self, seed: int, dim: int, shapes: list[torch.Size]) -> None:
        super().__init__()
        self.seed, self.dim, self.shapes = seed, dim, shapes
        self.n = shapes[0][dim]
        self.begin(torch.ones(self.n), None, SIZES)

    def begin(self, gains: Tensor, kept: Tensor | None, sizes: tuple[float, ...]) -> None:
        self.gains, self.kept, self.sizes = gains, kept, sizes
        self.arrived: list[Arrival] = []

    def forward(self, x: Tensor) -> Tensor:
        call = len(self.arrived)
        self.arrived.append(_summary(x, self.dim, _random(self.seed, call)))
        values = _pairs((len(x), *self.shapes[call][1:]), self.sizes, _random(self.seed, call))
        shape = [1] * values.dim()
        shape[self.dim] = self.n
        values = values * self.gains.double().view(shape)
        return values if self.kept is None else values.index_select(self.dim, self.kept)

    def arrival(self) -> Arrival:
        """Over all calls: a column is told apart by all that it brought."""
        signatures = torch.stack([arrived.signature for arrived in self.arrived])
        return Arrival(signatures.sum(0), torch.stack([arrived.live for arrived in self.arrived]).any(0))


class Skeleton:
    """The code between the layers of ``model.backbone``, as it runs for ``task``."""

    def __init__(self, model: Computes, task: int) -> None:
        self.shapes = output_shapes(model, task)
        self.probes: dict[str, _Probe] = {}
        stand_ins = lone_norms(model, task)
        for module in (inner for norm in stand_ins.values() for inner in norm.modules()):
            _neutralise(module)
        for seed, (path, layer) in enumerate(model.layer_modules()):
            probe = _Probe(seed, layer_kind(layer).neuron_dim, self.shapes[path])
            self.probes[path] = stand_ins[id(layer)] = probe
            if isinstance(model.mask_module(path), TaskNorm):
                stand_ins[id(model.mask_module(path))] = nn.Identity()
        self.net = copy.deepcopy(model.backbone, stand_ins).cpu().double().eval()
        self.input_shape = model.input_shape

    @property
    def widths(self) -> dict[str, int]:
        """Neurons of each layer, as many as the task knew."""
        return {path: probe.n for path, probe in self.probes.items()}

    def run(
        self,
        gains: Mapping[str, Tensor],
        kept: Mapping[str, Tensor] | None = None,
        *,
        sizes: tuple[float, ...] = SIZES,
        input_gain: float = 1.0,
    ) -> dict[str, Arrival]:
        """What arrives at each layer and at the features; differentiable by the gains.

        Raises whatever the backbone's code raises where it does not run on tensors as narrow as ``kept``.
        """
        for path, probe in self.probes.items():
            probe.begin(gains[path], None if kept is None else kept[path], sizes)
        batch = 2 * len(sizes)
        x = input_gain * _pairs((batch, *self.input_shape[1:]), sizes, _random(len(self.probes), 0))
        with torch.set_grad_enabled(any(gain.requires_grad for gain in gains.values())):
            features = self.net(x)
            arrivals = {path: probe.arrival() for path, probe in self.probes.items()}
            return arrivals | {FEATURES: _summary(features, -1, _random(len(self.probes), 1))}

    def meeting(self) -> list[set[str]]:
        """Groups of layers whose neurons meet in a sum; the network's own input counts as one more."""
        none = {path: torch.zeros(n) for path, n in self.widths.items()}
        groups: list[tuple[set[str], Tensor]] = []
        for source in (INPUT, *self.probes):
            gains = none if source == INPUT else none | {source: torch.ones(self.probes[source].n)}
            arrivals = self.run(gains, sizes=(1.0,), input_gain=float(source == INPUT))
            reached = torch.cat([arrival.live for arrival in arrivals.values()])
            names = {source}
            for group in [group for group in groups if (group[1] & reached).any()]:
                groups.remove(group)
                names, reached = names | group[0], reached | group[1]
            groups.append((names, reached))
        return [names for names, _ in groups]


def lone_norms(model: Computes, task: int) -> dict[int, Any]:
    """Copies of the norms that follow no masked layer, as ``task`` uses them, by id: a memo for deepcopy.

    Where one follows a leader's mask, the mask is behind it.
    """
    placed = {model.mask_module(path) for path in model.gates_by_path}
    copies = {id(norm): copy.deepcopy(norm.of(task)) for norm in model.norms() if norm not in placed}
    masks = model.open_neurons(task) if model.followers else {}
    for follower in model.followers:
        site = id(model.backbone.get_submodule(follower.site))
        copies[site] = nn.Sequential(copies[site], Masked(masks[follower.leader]))
    return copies


@torch.no_grad()
def _neutralise(norm: nn.Module) -> None:
    """Let a norm pass on what arrives as it is scaled, and a little more than 0 where that is 0.

    With the scales and shifts that a task has learnt, a ReLU behind it could hide what other inputs bring.
    """
    if not is_norm(norm):
        return
    for name, value in (("weight", 1.0), ("bias", SIZES[0] / 4), ("running_mean", 0.0), ("running_var", 1.0)):
        tensor = getattr(norm, name, None)
        if tensor is not None:
            tensor.fill_(value)


def output_shapes(model: Computes, task: int) -> dict[str, list[torch.Size]]:
    """What each masked layer gives for one sample as ``task`` computes it: a shape for each call."""
    shapes: dict[str, list[torch.Size]] = {path: [] for path in model.gates_by_path}

    def recorder(path: str) -> Any:
        return lambda _module, _args, output: shapes[path].append(output.shape)

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for path, layer in model.layer_modules():
            stack.callback(layer.register_forward_hook(recorder(path)).remove)
        model.features(torch.zeros(model.input_shape, device=model.device, dtype=model.dtype), task)
    return shapes


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


def _pairs(shape: tuple[int, ...], sizes: tuple[float, ...], random: torch.Generator) -> Tensor:
    """Random values of every size, for the first half of the batch; their negatives for the second."""
    half = (torch.rand((shape[0] // 2, *shape[1:]), generator=random, dtype=torch.float64) + 1).unflatten(
        0, (len(sizes), -1)
    )
    half = (half * torch.tensor(sizes).view(-1, *[1] * (half.dim() - 1))).flatten(0, 1)
    return torch.cat([half, -half])


def _summary(x: Tensor, dim: int, random: torch.Generator) -> Arrival:
    columns = x.movedim(dim, 0).flatten(1).double()
    projection = torch.randn(columns.shape[1], generator=random, dtype=torch.float64)
    return Arrival(columns @ projection, columns.detach().ne(0).any(1))
