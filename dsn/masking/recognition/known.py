"""What a task keeps of its own data to tell them from others': statistics, no samples.

It works on any network that is called as ``network(x, task)`` and has ``heads``.
Shapes: x [n, ...]; features [n, d], what the head is given; logits [n, C].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..layers import evaluating
from .calibration import fit_temperature

BATCH = 512
SHRINKAGE = 0.1
"""of the mean variance, added to each: a direction that hardly moves must not outweigh all others"""
PREFIX = "known/"


@dataclass(frozen=True)
class Known:
    """Statistics of one task.

    means: [C, d] the mean of the features in each class, on its training data
    whitener: [d, d] W with W W^T the inverse of their covariance within the classes, which all classes share
    temperature: [] that suits its logits on its validation data
    level, spread: [2] mean and standard deviation of its energy and of its distance on its validation data
    """

    means: Tensor
    whitener: Tensor
    temperature: Tensor
    level: Tensor
    spread: Tensor

    def named(self) -> dict[str, Tensor]:
        """By the names under which a task's record keeps them."""
        return {f"{PREFIX}{field.name}": getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def of(tensors: Mapping[str, Tensor | None]) -> Known | None:
        """The reverse of :meth:`named`; None where something is missing."""
        found = {field.name: tensors.get(f"{PREFIX}{field.name}") for field in fields(Known)}
        return (
            None
            if any(value is None for value in found.values())
            else Known(**cast(dict[str, Tensor], found))
        )

    def energy(self, logits: Tensor) -> Tensor:
        """[n] log sum_c exp(z_c / T): minus the free energy (Liu et al. 2020) at the task's temperature."""
        return (logits / self.temperature).logsumexp(1)

    def nearness(self, features: Tensor) -> Tensor:
        """[n] minus the Mahalanobis distance of f from the mean of the nearest class, over sqrt(d) (Lee et
        al. 2018): |(f - mean_c) W|."""
        white, means = features @ self.whitener, self.means @ self.whitener
        return -torch.cdist(white, means).amin(1) / white.shape[1] ** 0.5


@torch.no_grad()
def look(network: nn.Module, x: Tensor, task: int) -> tuple[Tensor, Tensor]:
    """Logits [n, C] of ``task`` and the features [n, d] that its head was given, in evaluation mode."""
    seen: list[Tensor] = []
    head = _head(network, task)
    hook = head.register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach().float()))
    try:
        with evaluating(network):
            logits = [network(part, task).float() for part in x.split(BATCH)]
    finally:
        hook.remove()
    return torch.cat(logits), torch.cat(seen)


def _head(network: Any, task: int) -> nn.Module:
    inner = network if hasattr(network, "heads") else network[str(task)]
    heads = inner.heads  # by number, or in the order of learning
    key = inner.tasks.index(task) if isinstance(heads, nn.ModuleList) else str(task)
    return cast(nn.Module, heads[key])


def know(
    network: nn.Module, task: int, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]
) -> Known:
    """What ``task``, just learnt from ``train``, shall know of its data; calibrated on ``validation``.

    Both are x [n, ...], y [n] on the network's device. Raises InputError where one of them is empty.
    """
    if not len(train[0]) or not len(validation[0]):
        raise InputError(f"task {task}: there are no training or no validation data to know it again by")
    logits, features = look(network, train[0], task)
    y = train[1].to(logits.device)
    means = torch.stack([_mean(features, y == c) for c in range(logits.shape[1])])
    whitener = _whitener(features - means[y])
    logits, features = look(network, *validation[:1], task)
    temperature = torch.tensor(fit_temperature(logits, validation[1].to(logits.device))).to(logits)
    known = Known(means, whitener, temperature, features.new_zeros(2), features.new_ones(2))
    scores = torch.stack([known.energy(logits), known.nearness(features)])
    spread = scores.std(1, correction=0).clamp(min=1e-6)
    return Known(means, whitener, temperature, scores.mean(1), spread)


def _mean(features: Tensor, rows: Tensor) -> Tensor:
    return features[rows].mean(0) if bool(rows.any()) else features.mean(0)


def _whitener(deviations: Tensor) -> Tensor:
    """W [d, d] of deviations [n, d] from the class means."""
    exact = deviations.double()
    covariance = exact.T @ exact / len(exact)
    ridge = SHRINKAGE * covariance.diagonal().mean()
    covariance.diagonal().add_(ridge if bool(ridge > 0) else torch.ones_like(ridge))
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    lower = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(lower, identity, upper=False).T.to(deviations.dtype).contiguous()
