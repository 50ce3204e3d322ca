"""The compact subnetwork of a task: a plain module with the neurons that the task needs, and no other.

Each layer is sliced to the task's mask and to the inputs that arrive (layout.py); the code between the layers
stays the model's own. Layers that meet in a sum, as the network's map has it, hand on the union
of their neurons; what one of them lacks is filled in with zeros. Where the code between the layers does not
run, or does not do the same, on narrower tensors (a channel shuffle, a fixed slice), layers hand on all
neurons, the missing ones as zeros: they are still computed without them.

Shapes: as in layout.py and pieces.py.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..computes import Computes, weights_of
from ..foreign import bake_in
from ..kinds import Maskable, is_exactly, layer_kind, norm_kind
from ..layers import evaluating
from ..map import FEATURES
from ..norms import TaskNorm
from ..reach import map_of, true_size, wiring_of
from ..records import Lateral
from ..rehearsal import apart, samples
from .cuts import Cut, plan
from .layout import Layout
from .pieces import Masked, Pools, Select, Sum, chain, kept_norm, sliced

CLOSE = 1e-4  # logits apart by less are the same but for rounding
Head = tuple[Tensor, Tensor]
"""weight [rows, d] and bias [rows] on the features of a task, in double precision"""


@torch.no_grad()
def subnetwork(model: Computes, task: int) -> nn.Module:
    """A module x [batch, ...] -> logits [batch, classes] that computes ``task`` alone, in evaluation mode.

    It shares nothing with ``model``. Batch norms are folded into their layers; group and layer norms are kept
    and given their zeros, which belong to their statistics. What the task reads from later ones (laterals)
    comes along as further cut networks, all linear maps on the features folded into one a network; pooled
    opinions are pooled behind them.

    Raises:
        InputError: for a task without a committed mask.
    """
    model.masks(task)
    with model.lock:
        heads, pools = _heads(model, task)
        nets = [_cut_net(model, source, *head) for source, head in heads.items()]
    net = nets[0] if len(nets) == 1 else Sum(nets)
    if pools is not None:
        net = nn.Sequential(OrderedDict(parts=net, pools=pools))
    net = net.to(model.device).eval().requires_grad_(False)
    return _channels_last(net, torch.zeros(model.input_shape, device=model.device, dtype=model.dtype))


def _channels_last(net: nn.Module, x: Tensor) -> nn.Module:
    """``net`` with its weights in the memory format that pools several times faster on a CPU, where it suits.

    Not where neurons are selected (along channels, that is faster in torch's own format), nor where the
    model's code takes views that the format does not allow.
    """
    modules = list(net.modules())
    selecting = any(isinstance(module, Select) and module.dim == 1 for module in modules)
    if selecting or not any(parameter.dim() == 4 for parameter in net.parameters()):
        return net
    try:
        net.to(memory_format=torch.channels_last)(x)
    except RuntimeError:
        net.to(memory_format=torch.contiguous_format)
    return net


def _heads(model: Computes, task: int) -> tuple[dict[int, Head], Pools | None]:
    """By the task whose features are read: a head on them. The sum of all gives the logits [classes].

    Where opinions are pooled, the sum gives all that :class:`Pools` is to be given, side by side.
    """
    own = cast(nn.Linear, model.heads[str(task)])
    linear = {task: (own.weight.double(), own.bias.double())}  # what was added since the last pool
    parts: list[dict[int, Head]] = [linear]
    scales: list[Tensor] = []
    mixtures: list[Tensor] = []
    for module in model.lateral_heads(task):
        lateral = cast(Lateral, module)
        scale, source = lateral.scale.double(), lateral.source_task
        read = lateral.weight.double(), lateral.bias.double()
        linear |= {reader: (scale * weight, scale * bias) for reader, (weight, bias) in linear.items()}
        if scales:
            scales[-1] = scale * scales[-1]
        if lateral.pooled:
            linear = {}
            parts += [{source: read}, linear]
            scales.append(torch.ones_like(scale))
            mixtures.append(lateral.mixture.to(model.dtype, copy=True))
        elif source in linear:
            linear[source] = linear[source][0] + read[0], linear[source][1] + read[1]
        else:
            linear[source] = read
    heads = _side_by_side([part for part in parts if part])
    if not mixtures:
        return heads, None
    added = [bool(part) for part in parts[2::2]]
    return heads, Pools(torch.stack(scales).to(model.dtype), mixtures, added)


def _side_by_side(parts: list[dict[int, Head]]) -> dict[int, Head]:
    """A head for each task that is read: its rows of every part, one after the other; 0 where it has none."""
    heads = {}
    for source in dict.fromkeys(source for part in parts for source in part):
        width = next(part[source][0].shape[1] for part in parts if source in part)
        rows = []
        for part in parts:
            weight, bias = next(iter(part.values()))
            rows.append(part.get(source, (weight.new_zeros(len(weight), width), torch.zeros_like(bias))))
        heads[source] = torch.cat([weight for weight, _ in rows]), torch.cat([bias for _, bias in rows])
    return heads


def _cut_net(model: Computes, task: int, weight: Tensor, bias: Tensor) -> nn.Module:
    """The backbone as ``task`` uses it, cut, and a head of ``weight`` and ``bias`` on its features."""
    parameters = _parameters(model, task)
    layout, meeting = Layout(model, task), map_of(model).meeting(wiring_of(model))
    weights = {path: weight for path, (weight, _) in parameters.items()}
    cut = plan(_heard(model, task, parameters), layout, meeting, weights, weight)
    net = _built(model, task, cut, parameters, weight, bias)
    with apart(model), evaluating(model):
        x = samples(model, true_size(model))
        expected = model.features(x, task).double() @ weight.T + bias
        apart_by = (net(x) - expected).abs().amax(1)
    if bool((apart_by <= CLOSE * (1 + expected.abs().amax(1))).all()):
        return net
    # the code between the layers does something else with made-up values than with these: keep all it has
    whole = {path: torch.arange(n) for path, n in layout.widths.items()}
    columns = {path: torch.arange(w.shape[1]) for path, w in weights.items()}
    opened = {path: mask.cpu() for path, mask in model.open_neurons(task).items()}
    cut = Cut(opened, whole, columns | {FEATURES: torch.arange(weight.shape[1])})
    return _built(model, task, cut, parameters, weight, bias)


def _built(
    model: Computes,
    task: int,
    cut: Cut,
    parameters: Mapping[str, tuple[Tensor, Tensor | None]],
    weight: Tensor,
    bias: Tensor,
) -> nn.Module:
    """The backbone and its head as ``cut`` says, in evaluation mode."""
    replaced = _others(model, task)
    for path, layer in model.layer_modules():
        site = model.mask_module(path)
        along = layer_kind(layer).on_maps or all(len(shape) == 0 for shape in model.map_sizes[path])
        norm = site.of(task) if isinstance(site, TaskNorm) else None
        made, norm = _cut_layer(layer, norm, *parameters[path], cut, path, along)
        replaced[id(layer)] = made
        if isinstance(site, TaskNorm):
            replaced[id(site)] = norm
    backbone = copy.deepcopy(model.backbone, replaced)
    if model.caches is not None:
        model.caches.leave(backbone)
    bake_in(backbone)
    rows = torch.arange(len(weight))
    like = cast(nn.Linear, model.heads[str(task)])
    head = chain(sliced(like, weight, bias, rows, cut.columns[FEATURES]))
    return nn.Sequential(OrderedDict(backbone=backbone, head=head)).to(model.device).eval()


def _others(model: Computes, task: int) -> dict[int, Any]:
    """Copies, by id, of what stands behind no masked layer, as ``task`` has it; a follower with its mask."""
    placed = {model.mask_module(path) for path in model.gates_by_path}
    copies: dict[int, Any] = {
        id(norm): copy.deepcopy(norm.of(task)) for norm in model.norms() if norm not in placed
    }
    masks = model.open_neurons(task) if model.followers else {}
    for follower in model.followers:
        site = id(model.backbone.get_submodule(follower.site))
        copies[site] = nn.Sequential(copies[site], Masked(masks[follower.leader]))
    return copies


def _heard(
    model: Computes, task: int, parameters: Mapping[str, tuple[Tensor, Tensor | None]]
) -> dict[str, Tensor]:
    """The neurons that ``task`` computes with, less those that are 0: no edge is on, no bias."""
    heard = model.open_neurons(task)
    for path, (weight, bias) in parameters.items():
        felt = weight.flatten(1).ne(0).any(1) if bias is None else weight.flatten(1).ne(0).any(1) | bias.ne(0)
        if model.norm_of[path] is None and bool((heard[path] & felt).any()):
            heard[path] = heard[path] & felt
    return heard


def _cut_layer(
    layer: Maskable,
    norm: nn.Module | None,
    weight: Tensor,
    bias: Tensor | None,
    cut: Cut,
    path: str,
    along: bool,
) -> tuple[nn.Module, nn.Module]:
    """What stands in for a layer and for its norm; ``along``: the norm's channels are the neurons."""
    emitted, columns, needed = cut.emitted(path), cut.columns[path], cut.needed[path]
    if norm is None or (along and is_exactly(layer) and norm_kind(norm).foldable(norm)):
        if norm is not None:
            weight, bias = norm_kind(norm).folded(norm, weight, bias)
        return chain(sliced(layer, weight, bias, emitted, columns)), nn.Identity()
    alive = norm_kind(norm).needs(norm, needed)
    kept, given = kept_norm(norm, alive, emitted, layer_kind(layer).neuron_dim)
    return chain(sliced(layer, weight, bias, torch.where(alive[given], given, -1), columns)), kept


def _parameters(model: Computes, task: int) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Weight and bias of each layer, as wide as ``task`` knew them."""
    own = weights_of(model, task)
    return {
        path: (own.get(f"{path}.weight", layer.weight), own.get(f"{path}.bias", layer.bias))
        for path, layer in model.layer_modules()
    }
