"""Values sent through a network in the place of what its masked layers give, and what arrives where.

Residual sums, concatenation, flatten and pooling need no case of their own.

Shapes: values and masks [n] a layer; inputs [d] a layer, d the columns of a Linear's weight or the input
channels of a Conv.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..foreign import OwnModule
from ..kinds import Maskable, layer_kind
from ..layers import evaluating
from ..map import FEATURES, Size
from ..norms import TaskNorm
from ..structure import Structure

Emit = Callable[[str, Tensor], Tensor]
"""(path, output) -> what is sent in its place; of ``output`` shape, type and device count, not its values"""


Keep = Callable[[str, Tensor], Tensor]
"""(place, what arrives) -> what is kept of it"""


def kept(_place: str, x: Tensor) -> Tensor:
    """All of it."""
    return x.detach().clone()


@dataclass
class Arrivals:
    """What one pass brought: to each layer's input, to each norm's input, and to the features.

    To norms that stand behind no layer, and only where all that arrives is kept.
    """

    layers: dict[str, list[Tensor]]
    norms: dict[str, list[Tensor]]
    features: Tensor

    def places(self) -> dict[str, list[Tensor]]:
        """What arrived at each layer and at the "features"."""
        return {**self.layers, FEATURES: [self.features]}


def send(
    model: Structure,
    emit: Emit | Mapping[str, Tensor],
    x: Tensor,
    *,
    raw: Emit | None = None,
    free_norms: Emit | None = None,
    keep: Keep = kept,
    size: Size | None = None,
    grad: bool = False,
    follow: bool = True,
) -> Arrivals:
    """Run the backbone on ``x`` while each layer emits values where its mask is applied.

    Args:
        emit: the values, or one number a neuron, [n] by path.
        raw: what a layer gives past its mask, before a norm that the mask follows; by default zeros.
        free_norms: what norms emit that stand behind no layer, and what is each task's own (``foreign``);
            by default they compute.
        keep: (place, what arrives) -> what is kept of it; by default a copy.
        size: of ``x``; by default that which values are sent at.
        grad: keep what gradients need; by default nothing has one.
        follow: followers emit what their leader does; otherwise they are as norms that stand behind no layer.
    """
    layers: dict[str, list[Tensor]] = {path: [] for path in model.gates_by_path}
    norms: dict[str, list[Tensor]] = {}
    emitted = _broadcast(model, emit) if isinstance(emit, Mapping) else emit
    maps = (size or model.size).maps
    watched = keep is kept

    def layer_forward(path: str, layer: Maskable, masked_here: bool) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            shape = _output_shape(model, maps[path], path, layer, input, len(layers[path]))
            layers[path].append(keep(path, input))
            output = input.new_zeros(1).expand(shape)
            if masked_here:
                return emitted(path, output)
            return (output if raw is None else raw(path, output)).contiguous()  # code may write into it

        return forward

    def norm_forward(path: str, norm: TaskNorm, send_on: Emit | None) -> Callable[[Tensor], Tensor]:
        compute = norm.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if watched and path not in behind_layers:
                norms[path].append(kept(path, x))
            if send_on is None:
                return compute(x, *args, **kwargs)
            return send_on(path, compute(x, *args, **kwargs) if isinstance(norm, OwnModule) else x)

        return forward

    placed = {norm: _named(emitted, path) for path, norm in model.norm_of.items() if norm is not None}
    behind_layers = set(placed)
    if follow:
        placed |= {f.site: _following(model, emitted, f.leader) for f in model.followers}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        model.open_plainly()
        for path, layer in model.layer_modules():
            _stand_in(stack, layer, layer_forward(path, layer, model.norm_of[path] is None))
        for path, norm in model.norms_by_path.items():
            norms[path] = []
            _stand_in(stack, norm, norm_forward(path, norm, placed.get(path, free_norms)))
        with torch.set_grad_enabled(grad):
            features = model.backbone(x)
    return Arrivals(layers, norms, keep(FEATURES, features))


def _stand_in(stack: ExitStack, module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Let ``module`` run ``forward`` until ``stack`` is closed."""
    module.__dict__["forward"] = forward  # on the instance: the class's own comes back with its removal
    stack.callback(module.__dict__.pop, "forward")


def _named(emit: Emit, path: str) -> Emit:
    return lambda _path, output: emit(path, output)


def _following(model: Structure, emit: Emit, leader: str) -> Emit:
    """What a follower emits, whose channels lie along dimension 1, is masked as its leader is."""
    if model.gates_by_path[leader].neuron_dim == 1:
        return _named(emit, leader)
    return lambda _path, output: emit(leader, output.movedim(1, -1)).movedim(-1, 1)


def _broadcast(model: Structure, values: Mapping[str, Tensor]) -> Emit:
    def emit(path: str, output: Tensor) -> Tensor:
        return model.gates_by_path[path].as_broadcast(values[path], output).expand_as(output).clone()

    return emit


def _output_shape(
    model: Structure, calls: list[torch.Size], path: str, layer: Maskable, x: Tensor, call: int
) -> tuple[int, ...]:
    return layer_kind(layer).output_shape(x, model.gates_by_path[path].n, calls[min(call, len(calls) - 1)])
