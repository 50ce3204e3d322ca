"""Pruners that score every weight, and keep the best.

Data-agnostic: ``synflow``. Data-driven: ``snip``, ``iterative_snip``, ``grasp``, and ``magnitude`` of
whatever weights the network has. Scores are ranked by torch.nn.utils.prune, the one well-kept library with
unstructured pruning; it has none of these scores, nor has Torch-Pruning, which prunes whole channels.

Shapes: masks and scores in the shape of each layer's weight, by layer path; x [n, ...], y [n] int64.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import L1Unstructured

from dsn.errors import InputError
from dsn.masking.kinds import is_norm

from .layers import Masks, budget_of, densities, shapes_of, weights_of

Samples = tuple[Tensor, Tensor]
ROUNDS = 100  # of SynFlow and iterative SNIP, as in the papers
COOLED = 200.0  # the temperature that GraSP's authors divide the logits by


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
    x = torch.ones(1, *input_shape[1:], dtype=torch.float64, device=next(linear.parameters()).device)
    return _in_rounds(linear, density, rounds, lambda: linear(x).sum())


def snip(network: nn.Module, density: float, *, samples: Samples | None, **_unused: Any) -> Masks:
    """Connection sensitivity |w dL/dw| of the cross-entropy on ``samples`` (Lee et al. 2019)."""
    return iterative_snip(network, density, samples=samples, rounds=1)


def iterative_snip(
    network: nn.Module, density: float, *, samples: Samples | None, rounds: int = ROUNDS, **_unused: Any
) -> Masks:
    """SNIP in rounds (de Jorge et al. 2021, Verdenius et al. 2020): scored anew after each of them.

    In round k the best density^(k/rounds) of all weights stay, as in SynFlow.
    """
    trained = copy.deepcopy(network).train()
    x, y = _given(samples, "snip")
    return _in_rounds(trained, density, rounds, lambda: F.cross_entropy(trained(x), y))


def grasp(network: nn.Module, density: float, *, samples: Samples | None, **_unused: Any) -> Masks:
    """Gradient signal preservation (Wang et al. 2020): w * (H g), with its sign; the largest stay.

    g and H are gradient and Hessian of the cross-entropy on ``samples``, its logits cooled as the authors do.
    """
    trained = copy.deepcopy(network).train()
    x, y = _given(samples, "grasp")
    weights = weights_of(trained)
    loss = F.cross_entropy(trained(x) / COOLED, y)
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    half = torch.stack([g.square().sum() for g in gradients]).sum() / 2  # its gradient is H g
    curved = torch.autograd.grad(half, list(weights.values()))
    scores = {p: (w * h).detach() for (p, w), h in zip(weights.items(), curved, strict=True)}
    least = torch.stack([score.min() for score in scores.values()]).min()
    return _best({path: score - least for path, score in scores.items()}, density)


def magnitude(network: nn.Module, density: float, **_unused: Any) -> Masks:
    """The largest weights |w| of each layer (Han et al. 2015), as many as Erdős-Rényi-kernel densities allow.

    Not of the whole network: layers differ in the scale of their weights, and whole ones would vanish.
    """
    weights = weights_of(network)
    counts = densities(shapes_of(network), density)
    return {path: largest(weight.detach().abs(), counts[path]) for path, weight in weights.items()}


def _given(samples: Samples | None, pruner: str) -> Samples:
    if samples is None:
        raise InputError(f"pruner {pruner} scores weights by labelled samples: give some")
    return samples


def _in_rounds(network: nn.Module, density: float, rounds: int, loss: Callable[[], Tensor]) -> Masks:
    """Masks of the best |w dL/dw|, density^(k/rounds) in round k; zeroes the other weights of ``network``."""
    weights = weights_of(network)
    masks: Masks = {}
    for k in range(1, rounds + 1):
        gradients = torch.autograd.grad(loss(), list(weights.values()))
        scores = {p: (w * g).detach() for (p, w), g in zip(weights.items(), gradients, strict=True)}
        masks = _best(scores, density ** (k / rounds))
        with torch.no_grad():
            for path, weight in weights.items():
                weight.mul_(masks[path].to(weight.device))
    return masks


def _best(scores: dict[str, Tensor], density: float) -> Masks:
    """The largest absolute scores of the whole network."""
    budget = budget_of({path: score.shape for path, score in scores.items()}, density)
    kept = largest(torch.cat([score.abs().flatten() for score in scores.values()]), budget)
    parts = kept.split([score.numel() for score in scores.values()])
    return {path: part.view_as(score) for (path, score), part in zip(scores.items(), parts, strict=True)}


def largest(scores: Tensor, count: int) -> Tensor:
    """Bool mask of the ``count`` largest scores."""
    method = L1Unstructured(amount=scores.numel() - count)
    return method.compute_mask(scores, torch.ones_like(scores)).bool().cpu()
