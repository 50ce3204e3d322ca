"""A pretrained backbone as a task before the first, and fresh neurons beside it.

All of its neurons are used, so its weights are protected and cost nothing; they are open for every task, also
while its gates are soft, or training would begin with another function. What tasks learn is in the fresh
neurons: hidden units that read what is there, and whose outputs pretrained neurons read with weights that
begin at 0. So a task begins with the pretrained function, with its own head, norms and tensors, and with what
the neurons of earlier tasks, which it may reuse, add to it.

Shapes: x [SAMPLES, ...]; features [SAMPLES, d].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..kinds import layer_kind
from ..layers import evaluating
from ..map import FEATURES
from ..norms import TaskNorm
from ..reach import map_of
from ..rehearsal import apart, samples
from ..task_life import TaskLife
from .grow import widen

NEAR = 4  # layers behind one that may grow only together with it


class _Changed(Exception):
    """More than fresh inputs would arrive at a layer."""


@torch.no_grad()
def keep_pretrained(model: TaskLife, fresh: int) -> None:
    """Keep the weights of ``model`` for good, and add ``fresh`` neurons to each layer that can grow.

    A layer can where its width is its own affair: hidden units, not what is summed with other layers, nor
    what the backbone's code cuts into pieces, nor what a layer or group norm mixes. Those that can only
    together with another, as a channel gate, grow with it. ``model.fresh`` says which have grown.

    Raises:
        InputError: for ``fresh`` < 0, or where no layer can grow.
    """
    if fresh < 0:
        raise InputError(f"fresh is {fresh}: give 0 or more neurons a layer")
    for gate in model.gates_by_path.values():
        gate.keep_all()
    if not fresh:
        return
    with apart(model):
        x = samples(model, model.size)
        before = _features(model, x)
        growing = _growing(model, x, before, fresh)
    if not growing:
        raise InputError(
            "no layer can be given fresh neurons: the backbone's code needs the width of all of them, or "
            "they are summed with each other; with fresh 0, tasks share the network as it is"
        )
    old = model.layers
    widen(model, dict.fromkeys(growing, fresh))
    known = map_of(model).known_before(old)[FEATURES].to(model.device)
    after = _features(model, x)[:, known]
    if after.shape != before.shape or not torch.allclose(after, before, rtol=1e-3, atol=1e-3 * _size(before)):
        raise InputError(
            "fresh neurons would change what the pretrained network computes, though they are read with "
            "weights of 0: with fresh 0, tasks share the network as it is"
        )


def _features(model: TaskLife, x: Tensor) -> Tensor:
    """Of the wrapped backbone as it is, all neurons open."""
    with evaluating(model):
        model.open_plainly()
        return model.backbone(x)


def _size(x: Tensor) -> float:
    return max(1.0, float(x.abs().max()))


def _growing(model: TaskLife, x: Tensor, features: Tensor, by: int) -> list[str]:
    """The layers that can grow alone, or with one of the next :data:`NEAR`, in forward order."""
    paths = list(model.layers)
    found: set[str] = set()
    for place, path in enumerate(paths):
        if path in found or _mixed(model, path):
            continue
        together = [
            (path, other)
            for other in paths[place + 1 : place + 1 + NEAR]
            if model.layers[other] == model.layers[path] and other not in found and not _mixed(model, other)
        ]
        for group in [(path,), *together]:
            if _can_grow(model, group, x, features, by):
                found |= set(group)
                break
    return [path for path in paths if path in found]


def _mixed(model: TaskLife, path: str) -> bool:
    norm = model.mask_module(path)
    return isinstance(norm, TaskNorm) and norm.mixes_neurons


def _can_grow(model: TaskLife, group: tuple[str, ...], x: Tensor, features: Tensor, by: int) -> bool:
    """Whether the features stay as they are where the layers of ``group`` give ``by`` more neurons.

    Tried with neurons that are NaN, which arrive at columns of their own or the layers cannot grow: these
    columns are taken away before each layer.
    """
    try:
        with evaluating(model), _given_more(model, group, by):
            model.open_plainly()
            given = _without_nan(model.backbone(x), -1, features.shape[1])
    except Exception:  # the backbone's own code, at another width
        return False
    return torch.allclose(given, features, rtol=1e-4, atol=1e-4 * _size(features))


@contextmanager
def _given_more(model: TaskLife, group: tuple[str, ...], by: int) -> Iterator[None]:
    with ExitStack() as stack:

        def strip(path: str, dim: int, width: int) -> None:
            def before(_module: nn.Module, args: tuple[Any, ...]) -> Any:
                return (_without_nan(args[0], dim, width), *args[1:])

            stack.callback(model.backbone.get_submodule(path).register_forward_pre_hook(before).remove)

        def extend(module: nn.Module, dim: int) -> None:
            stack.callback(module.register_forward_hook(_extending(dim, by)).remove)

        for path, layer in model.layer_modules():
            strip(path, layer_kind(layer).neuron_dim, layer_kind(layer).inputs(layer))
            if path in group:
                extend(model.mask_module(path), layer_kind(layer).neuron_dim)
        for follower in model.followers:
            if follower.leader in group:
                strip(follower.path, 1, model.layers[follower.leader])
                extend(model.backbone.get_submodule(follower.site), 1)
        yield


def _extending(dim: int, by: int) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        more = output.narrow(dim, 0, 1) * torch.nan
        return torch.cat([output, *[more] * by], dim)

    return hook


def _without_nan(x: Tensor, dim: int, width: int) -> Tensor:
    """x without its columns of NaN along ``dim``; :class:`_Changed` unless ``width`` are left."""
    clean = ~x.movedim(dim, 0).flatten(1).isnan().any(1)
    if int(clean.sum()) != width:
        raise _Changed
    return x.index_select(dim, clean.nonzero().flatten())
