"""Pruners at initialisation behind one signature, ``masks = pruner(network, density, ...)``.

Data-agnostic: ``random``, ``regular``, ``narrow``, ``synflow``, ``npb``. Data-driven: ``snip``, and
``magnitude`` of whatever weights the network has, so of trained ones once it is trained. Scores are ranked
by torch.nn.utils.prune, the one well-kept library with unstructured pruning; it has no SNIP and no SynFlow.

Shapes: masks bool in the shape of each layer's weight, by layer path; x [n, ...], y [n] int64.
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import L1Unstructured

from dsn.errors import InputError
from dsn.masking.kinds import is_norm

from .balancing import balance
from .layers import Masks, budget_of, densities, narrow, regular, weights_of
from .measures import WeightTaps, arriving
from .wiring import INPUT, find_wiring

Samples = tuple[Tensor, Tensor]
ROUNDS = 100  # of SynFlow, as in the paper


class Pruner(Protocol):
    """``network`` is left as it is; ``input_shape`` is that of one sample, [1, ...]."""

    def __call__(
        self,
        network: nn.Module,
        density: float,
        *,
        input_shape: Sequence[int],
        samples: Samples | None,
        random: np.random.Generator,
    ) -> Masks: ...


def prune(
    network: nn.Module,
    density: float,
    pruner: str = "npb",
    *,
    input_shape: Sequence[int],
    samples: Samples | None = None,
    seed: int = 0,
    **options: Any,
) -> Masks:
    """Masks, by layer path, that keep the share ``density`` of the weights of all Linear and Conv layers.

    Args:
        pruner: a name in :data:`PRUNERS`.
        input_shape: of one sample as the network takes it, [1, channels, ...] or [1, d].
        samples: labelled x [n, ...], y [n], for data-driven pruners alone.
        options: of the pruner: ``alpha`` and ``beta`` of npb, ``rounds`` of synflow.

    Raises:
        InputError: an unknown pruner, a density outside (0, 1], or no samples where they are needed.
    """
    if pruner not in PRUNERS:
        raise InputError(f"unknown pruner {pruner!r}, known are {', '.join(PRUNERS)}")
    if not 0 < density <= 1:
        raise InputError(f"density {density}: must be above 0 and at most 1")
    random = np.random.default_rng(seed)
    return PRUNERS[pruner](
        network, density, input_shape=input_shape, samples=samples, random=random, **options
    )


def random_weights(
    network: nn.Module, density: float, *, random: np.random.Generator, **_unused: Any
) -> Masks:
    """Random weights, each layer at its Erdős-Rényi-kernel density (Evci et al. 2020)."""
    weights = weights_of(network)
    counts = densities(_shapes(weights), density)
    return {p: _largest(torch.from_numpy(random.random(w.shape)), counts[p]) for p, w in weights.items()}


def degree_regular(
    network: nn.Module, density: float, *, random: np.random.Generator, **_unused: Any
) -> Masks:
    """The same densities; every neuron of a layer has as many taps, up to one, and every input too."""
    shapes = _shapes(weights_of(network))
    counts = densities(shapes, density)
    return {path: regular(shape, counts[path], random) for path, shape in shapes.items()}


def narrow_and_dense(
    network: nn.Module, density: float, *, input_shape: Sequence[int], **_unused: Any
) -> Masks:
    """Neuron-wise: the same share of every layer's neurons, all weights between them (``layers.narrow``)."""
    return narrow(_shapes(weights_of(network)), find_wiring(network, input_shape), density)


def synflow(
    network: nn.Module,
    density: float,
    *,
    input_shape: Sequence[int],
    rounds: int = ROUNDS,
    **_unused: Any,
) -> Masks:
    """Iterative synaptic flow (Tanaka et al. 2020): |w dR/dw|, R = 1' |W_L| ... |W_1| 1, without data.

    In round k the best density^(k/rounds) of all weights stay. Norms are identities. float64: no overflow.
    """
    memo: dict[int, Any] = {id(m): nn.Identity() for m in network.modules() if is_norm(m)}
    linear = copy.deepcopy(network, memo).double().eval()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_()
        for module in linear.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()  # type: ignore[operator]
    weights = weights_of(linear)
    x = torch.ones(1, *input_shape[1:], dtype=torch.float64, device=next(linear.parameters()).device)
    masks: Masks = {}
    for k in range(1, rounds + 1):
        gradients = torch.autograd.grad(linear(x).sum(), list(weights.values()))
        scores = {p: (w * g).detach() for (p, w), g in zip(weights.items(), gradients, strict=True)}
        masks = _best(scores, density ** (k / rounds))
        with torch.no_grad():
            for path, weight in weights.items():
                weight.mul_(masks[path])
    return masks


def snip(network: nn.Module, density: float, *, samples: Samples | None, **_unused: Any) -> Masks:
    """Connection sensitivity |w dL/dw| of the cross-entropy on ``samples`` (Lee et al. 2019)."""
    if samples is None:
        raise InputError("pruner snip scores weights by labelled samples: give some")
    trained = copy.deepcopy(network).train()
    weights = weights_of(trained)
    x, y = samples
    gradients = torch.autograd.grad(F.cross_entropy(trained(x), y), list(weights.values()))
    return _best({p: (w * g).detach() for (p, w), g in zip(weights.items(), gradients, strict=True)}, density)


def magnitude(network: nn.Module, density: float, **_unused: Any) -> Masks:
    """The largest weights |w| of each layer (Han et al. 2015), as many as Erdős-Rényi-kernel densities allow.

    Not of the whole network: layers differ in the scale of their weights, and whole ones would vanish.
    """
    weights = weights_of(network)
    counts = densities(_shapes(weights), density)
    return {path: _largest(weight.detach().abs(), counts[path]) for path, weight in weights.items()}


def npb(
    network: nn.Module,
    density: float,
    *,
    input_shape: Sequence[int],
    random: np.random.Generator,
    alpha: float = 0.01,
    beta: float = 1.0,
    **_unused: Any,
) -> Masks:
    """Node-Path Balancing (Pham et al. 2023), layer by layer in forward order at ERK densities.

    Args:
        alpha: what nodes weigh against paths, in [0, 1]; 0.01 is the authors' default.
        beta: what a kernel that is not empty is worth beside, 0 or more.
    """
    if not (0 <= alpha <= 1 and beta >= 0):
        raise InputError(
            f"npb: alpha is {alpha} and beta {beta}: alpha must lie in [0, 1], beta be 0 or more"
        )
    shapes, wiring = _shapes(weights_of(network)), find_wiring(network, input_shape)
    counts = densities(shapes, density)
    forward = {INPUT: torch.zeros(wiring.widths[INPUT], dtype=torch.float64)}
    masks: Masks = {}
    for stage in wiring.stages:
        path, shape = stage[0], shapes[stage[0]]
        arrived = arriving(wiring, stage, forward)
        if path not in masks:
            taps = shape[2:].numel()
            placed = balance(
                arrived.numpy(), shape[0], taps, counts[path], alpha=alpha, beta=beta, random=random
            )
            order = torch.from_numpy(random.random((*placed.shape, taps))).argsort(2).argsort(2)
            masks[path] = (order < torch.from_numpy(placed)[..., None]).view(shape)
        forward[stage] = WeightTaps(masks[path]).forward(arrived)
    return masks


PRUNERS: dict[str, Pruner] = {
    "random": random_weights,
    "regular": degree_regular,
    "narrow": narrow_and_dense,
    "synflow": synflow,
    "npb": npb,
    "snip": snip,
    "magnitude": magnitude,
}
"""By name. ``snip`` needs samples, ``magnitude`` a trained network."""


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {path: weight.shape for path, weight in weights.items()}


def _best(scores: dict[str, Tensor], density: float) -> Masks:
    """The largest absolute scores of the whole network."""
    budget = budget_of({path: score.shape for path, score in scores.items()}, density)
    kept = _largest(torch.cat([score.abs().flatten() for score in scores.values()]), budget)
    parts = kept.split([score.numel() for score in scores.values()])
    return {path: part.view_as(score) for (path, score), part in zip(scores.items(), parts, strict=True)}


def _largest(scores: Tensor, count: int) -> Tensor:
    """Bool mask of the ``count`` largest scores."""
    method = L1Unstructured(amount=scores.numel() - count)
    return method.compute_mask(scores, torch.ones_like(scores)).bool().cpu()
