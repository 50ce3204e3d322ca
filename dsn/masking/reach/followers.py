"""Depthwise convolutions whose channels are the neurons of one layer: they follow its mask.

Each task has its own depthwise filters, and norm behind them, whose shift makes another number of a masked
neuron's 0. Masked again behind it, a channel is 0 where its neuron is masked, and the weights that read it
need protection only where the neuron is used.

Which neuron a channel is made of is found by sending values, no names: each neuron, each free norm, each own
module and the input changes its values in a random half of :data:`ROUNDS` passes. A channel that changes in
exactly those in which neuron i does is made of neuron i alone.

Shapes: changes bool [ROUNDS, n] of a layer, [ROUNDS, d] of a depthwise convolution's inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..foreign import OwnModule
from ..kinds import is_depthwise
from ..layers import evaluating
from ..norms import TaskNorm
from ..records import Follower
from ..structure import Structure
from .comparing import any_along, differ
from .sending import send

ROUNDS = 24


def follow_leaders(model: Structure) -> None:
    """Let the depthwise convolutions of ``model`` follow the layers that they are made of, as far as any is.

    One that follows another follows its leader too.
    """
    found = _followers(model)
    while found:
        model.let_follow(found)
        found = _followers(model)


def _followers(model: Structure) -> list[Follower]:
    """Those that are not known yet."""
    known = {follower.path for follower in model.followers}
    paths = [
        path
        for path, module in model.backbone.named_modules()
        if isinstance(module, OwnModule) and is_depthwise(module.original) and path not in known
    ]
    if not paths:
        return []
    sent, seen = _changes(model, paths)
    norms = _norms_behind(model, paths)
    return [
        Follower(path, norms[path], leader)
        for path in paths
        for leader, changes in sent.items()
        if path in seen and changes.shape == seen[path].shape and bool((changes == seen[path]).all())
    ]


def _changes(model: Structure, paths: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """In which passes each neuron of each layer changed, and each input of the modules at ``paths``."""
    random = torch.Generator().manual_seed(0)
    still = {path: 0.1 + 0.4 * torch.rand(n, generator=random) for path, n in model.layers.items()}
    before = _sent(model, still, None)
    sent: dict[str, list[Tensor]] = {path: [] for path in still}
    seen: dict[str, list[Tensor]] = {}
    for _ in range(ROUNDS):
        half = {path: torch.rand(len(values), generator=random) < 0.5 for path, values in still.items()}
        after = _sent(model, {p: v + 0.4 * half[p] for p, v in still.items()}, random)
        for path, on in half.items():
            sent[path].append(on)
        for path in paths:
            calls = [any_along(differ(*pair), 1) for pair in zip(before[path], after[path], strict=False)]
            if calls:
                seen.setdefault(path, []).append(torch.stack(calls).any(0).cpu())
    return {p: torch.stack(flags) for p, flags in sent.items()}, {p: torch.stack(f) for p, f in seen.items()}


def _sent(
    model: Structure, values: dict[str, Tensor], coins: torch.Generator | None
) -> dict[str, list[Tensor]]:
    """What arrives at norms and own modules in one pass; coins change the input and what each gives."""

    def emit(_path: str, output: Tensor) -> Tensor:
        coin = 0.0 if coins is None else float(torch.rand((), generator=coins) < 0.5)
        return torch.full_like(output, 0.3 + 0.4 * coin)

    x = emit("", model.size.zeros(model, 1))
    moved = {path: v.to(model.device, model.dtype) for path, v in values.items()}
    return send(model, moved, x, free_norms=emit).norms


def _norms_behind(model: Structure, paths: list[str]) -> dict[str, str | None]:
    """The norm right behind each module at ``paths``, if it keeps channels apart and reads it alone."""
    made: list[tuple[str, Tensor]] = []
    read: dict[str, set[str | None]] = {}

    def at_module(path: str) -> Callable[..., None]:
        return lambda _module, _args, output: made.append((path, output))

    def at_norm(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
            read.setdefault(path, set()).add(next((p for p, out in made if out is args[0]), None))

        return hook

    handles = []
    for path, module in model.backbone.named_modules():
        if path in paths:
            handles.append(module.register_forward_hook(at_module(path)))
        elif isinstance(module, TaskNorm) and not isinstance(module, OwnModule) and not module.mixes_neurons:
            handles.append(module.register_forward_hook(at_norm(path)))
    try:
        with evaluating(model):
            model.open_plainly()
            model.backbone(model.size.zeros(model, 1))
    finally:
        for handle in handles:
            handle.remove()
    return {path: next((norm for norm, by in read.items() if by == {path}), None) for path in paths}
