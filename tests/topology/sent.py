"""The wiring of a network found source by source, in a copy of its own: the map's readable twin.

In a copy of the network a stand-in takes the place of each Linear and Conv, and norms are identities. One
source after another emits rows of values in which each neuron is on or off by the bits of its index; where a
value arrives, the rows it arrives in spell out whose it is. Residual sums, concatenation, flatten and pooling
need no case of their own.

Shapes: n neurons of a source (a layer's outputs, the network's input channels); d inputs of a layer (columns
of a Linear's weight, input channels of a Conv) or outputs of the network; a link [k] joins ``neurons[i]`` to
``columns[i]``.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dsn.errors import InputError
from dsn.masking.foreign import OwnModule
from dsn.masking.kinds import Maskable, is_layer, is_norm, layer_kind
from dsn.masking.layers import evaluating
from dsn.masking.map import INPUT, OUTPUT, Stage, Wire, Wiring
from dsn.masking.norms import TaskNorm

ROWS = 64  # sent at once where neurons are sent one by one


def sent_wiring(network: nn.Module, input_shape: Sequence[int]) -> Wiring:
    """The wiring of ``network`` for inputs of shape ``input_shape``, [1, channels, ...] or [1, d].

    Its weights are not looked at. A tensor that is added to itself counts once.

    Raises:
        InputError: where outputs of several layers meet in anything but a sum or a concatenation.
    """
    stand_ins, network = _with_stand_ins(network, input_shape)
    stages = [stage for stand_in in stand_ins.values() for stage in stand_in.stages]
    order: list[Stage] = []
    inputs = _run(network, stand_ins, {INPUT: torch.zeros(1, input_shape[1])}, input_shape, order)
    shape = {stage: len(arrived[0]) for stage, arrived in inputs.items()}
    widths = {INPUT: int(input_shape[1])} | {stage: s.n for s in stand_ins.values() for stage in s.stages}
    links: dict[Stage, list[Wire]] = {stage: [] for stage in [*order, OUTPUT]}
    assert sorted(order) == sorted(stages)
    for source in [INPUT, *order]:
        for stage, (neurons, columns) in _reached(
            network, stand_ins, source, widths[source], input_shape
        ).items():
            if len(neurons):
                links[stage].append(Wire(source, neurons, columns))
    _refuse_products(network, stand_ins, links, shape, widths, input_shape)
    return Wiring(order, widths, shape, links)


class _StandIn(nn.Module):
    """Emits ``rows`` [batch, n] in the shape of the layer's output where it is the source, else zeros."""

    def __init__(self, path: str, layer: Maskable, shapes: list[torch.Size], seed: int) -> None:
        super().__init__()
        self.path, self.dim, self.shapes, self.seed = path, layer_kind(layer).neuron_dim, shapes, seed
        self.n = int(layer.weight.shape[0])
        self.stages: list[Stage] = [(path, call) for call in range(len(shapes))]
        self.begin({}, [])

    def begin(self, emitted: dict[Stage, Tensor], order: list[Stage]) -> None:
        self.emitted, self.order = emitted, order
        self.arrived: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        stage = (self.path, len(self.arrived))
        self.order.append(stage)
        self.arrived.append(_felt(x, self.dim))
        shape = (len(x), *self.shapes[stage[1]][1:])
        rows = self.emitted.get(stage)
        return x.new_zeros(shape) if rows is None else _spread(rows, shape, self.dim, self.seed)


def _with_stand_ins(network: nn.Module, input_shape: Sequence[int]) -> tuple[dict[str, _StandIn], nn.Module]:
    shapes: dict[str, list[torch.Size]] = {}
    layers = {path: module for path, module in network.named_modules() if is_layer(module)}
    handles = [
        layer.register_forward_hook(
            lambda _module, _args, output, path=path: shapes.setdefault(path, []).append(output.shape)
        )
        for path, layer in layers.items()
    ]
    like = next(network.parameters())
    with evaluating(network):
        network(torch.zeros(1, *input_shape[1:], device=like.device, dtype=like.dtype))
    for handle in handles:
        handle.remove()
    stand_ins = {
        path: _StandIn(path, layers[path], found, seed)
        for seed, (path, found) in enumerate(shapes.items(), 1)
    }
    memo: dict[int, nn.Module] = {id(layers[path]): stand_in for path, stand_in in stand_ins.items()}
    for module in network.modules():
        if (isinstance(module, TaskNorm) and not isinstance(module, OwnModule)) or is_norm(module):
            memo[id(module)] = nn.Identity()
    return stand_ins, copy.deepcopy(network, memo).cpu().eval()


def _reached(
    network: nn.Module, stand_ins: dict[str, _StandIn], source: Stage, n: int, input_shape: Sequence[int]
) -> dict[Stage, tuple[Tensor, Tensor]]:
    """For each stage and the output: the neurons of ``source`` that arrive, and at which inputs."""
    bits = max((n - 1).bit_length(), 1)
    code = (torch.arange(n)[None] >> torch.arange(bits)[:, None]) & 1  # [bits, n]
    found: dict[Stage, tuple[Tensor, Tensor]] = {}
    arrivals = _run(network, stand_ins, {source: torch.cat([code, 1 - code]).float()}, input_shape, [])
    several = False
    for stage, arrived in arrivals.items():
        on, off = arrived[:bits], arrived[bits:]
        several |= bool((on & off).any())
        columns = (on | off).any(0).nonzero().flatten()
        neurons = (on[:, columns].long() << torch.arange(bits)[:, None]).sum(0)
        found[stage] = (neurons, columns)
    if not several:
        return found
    pairs: dict[Stage, list[Tensor]] = {stage: [] for stage in arrivals}
    for rows in torch.eye(n).split(ROWS):  # several neurons of the source meet in one input
        first = int(rows[0].argmax())
        for stage, arrived in _run(network, stand_ins, {source: rows}, input_shape, []).items():
            pairs[stage].append(arrived.nonzero() + torch.tensor([first, 0]))
    return {stage: tuple(torch.cat(found).unbind(1)) for stage, found in pairs.items()}  # type: ignore[misc]


def _refuse_products(
    network: nn.Module,
    stand_ins: dict[str, _StandIn],
    links: dict[Stage, list[Wire]],
    inputs: dict[Stage, int],
    widths: dict[Stage, int],
    input_shape: Sequence[int],
) -> None:
    everything = {source: torch.ones(1, n) for source, n in widths.items()}
    for stage, arrived in _run(network, stand_ins, everything, input_shape, []).items():
        linked = torch.zeros(inputs[stage], dtype=torch.bool)
        for link in links[stage]:
            linked[link.columns] = True
        if not torch.equal(arrived[0], linked):
            raise InputError(
                f"what arrives at '{stage[0]}' is no sum or concatenation of what single layers give "
                "(a product of branches?): paths through it cannot be counted"
            )


def _run(
    network: nn.Module,
    stand_ins: dict[str, _StandIn],
    emitted: dict[Stage, Tensor],
    input_shape: Sequence[int],
    order: list[Stage],
) -> dict[Stage, Tensor]:
    """Whether something arrives, bool [rows, d], at each stage and at the output.

    Rows go in with both signs, so that a ReLU hides nothing, and after a row of zeros: what an operation adds
    by itself does not count.
    """
    rows = next(iter(emitted.values()))
    emitted = {
        stage: torch.cat([torch.zeros_like(values[:1]), values, -values]) for stage, values in emitted.items()
    }
    shape = (2 * len(rows) + 1, *input_shape[1:])
    for stand_in in stand_ins.values():
        stand_in.begin(emitted, order)
    x = _spread(emitted[INPUT], shape, 1, 0) if INPUT in emitted else torch.zeros(shape)
    with torch.no_grad():
        arrived = {OUTPUT: _felt(network(x), -1)}
    for stand_in in stand_ins.values():
        arrived |= dict(zip(stand_in.stages, stand_in.arrived, strict=True))
    return arrived


def _spread(rows: Tensor, shape: Sequence[int], dim: int, seed: int) -> Tensor:
    """``rows`` [batch, n] along ``dim`` of a tensor of ``shape``, times random numbers in [1, 2)."""
    generator = torch.Generator().manual_seed(seed)
    wide = [1] * len(shape)
    wide[0], wide[dim] = rows.shape
    return rows.view(wide) * (1 + torch.rand(tuple(shape[1:]), generator=generator))


def _felt(x: Tensor, dim: int) -> Tensor:
    """Bool [rows, d]: where x [1 + 2 rows, ...] differs from its first entry, for either sign."""
    flags = (x[1:] != x[:1]).movedim(dim, 1).flatten(2).any(2) if x.dim() > 2 else x[1:] != x[:1]
    half = len(flags) // 2
    return flags[:half] | flags[half:]
