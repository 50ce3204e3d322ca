"""Batch, layer and group norm.

Shapes: of a norm over n neurons, mean m, variance v, gain g and shift s [n].
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .kind import LayerKind, NormKind

FOLDED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
"""exactly these: a class of one's own may compute anything"""


class BatchNorm(NormKind):
    """Any batch norm: it tells the neurons apart, and may keep statistics of training."""

    mixes_neurons = False

    def widen(self, norm: _BatchNorm, by: int) -> None:
        norm.num_features += by

    def statistics(self, norm: _BatchNorm) -> tuple[Tensor, Tensor] | None:
        if norm.running_mean is None or norm.running_var is None:
            return None
        return norm.running_mean, norm.running_var

    def foldable(self, norm: _BatchNorm) -> bool:
        return type(norm) in FOLDED and norm.running_var is not None

    def folded(self, norm: _BatchNorm, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """W' = W g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + s."""
        mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
        gain = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
        shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
        bias = None if bias is None else bias.double()
        return fuse_conv_bn_weights(weight.double(), bias, mean, variance, norm.eps, gain, shift)

    def needs(self, norm: _BatchNorm, needed: Tensor) -> Tensor:
        """All, where a class of one's own may mix them."""
        return needed if type(norm) in FOLDED else torch.ones_like(needed)


class LayerNorm(NormKind):
    """``torch.nn.LayerNorm`` over the neurons, and over what follows them in a map."""

    def lies_along(self, norm: nn.LayerNorm, kind: LayerKind, n: int) -> bool:
        along = kind.neuron_dim == -1 or len(norm.normalized_shape) > 1
        return along and norm.normalized_shape[0] == n

    def widen(self, norm: nn.LayerNorm, by: int) -> None:
        first, *rest = norm.normalized_shape
        norm.normalized_shape = (first + by, *rest)

    def fit(self, norm: nn.LayerNorm) -> None:
        if norm.weight is not None:
            norm.normalized_shape = tuple(norm.weight.shape)


class RMSNorm(LayerNorm):
    """``torch.nn.RMSNorm``, laid out as a layer norm is."""


class GroupNorm(NormKind):
    """``torch.nn.GroupNorm``."""

    def multiple(self, norm: nn.GroupNorm) -> int:
        return norm.num_groups

    def widen(self, norm: nn.GroupNorm, by: int) -> None:
        norm.num_channels += by

    def fit(self, norm: nn.GroupNorm) -> None:
        if norm.weight is not None:
            norm.num_channels = len(norm.weight)

    def cut(self, norm: nn.GroupNorm, alive: Tensor) -> Tensor:
        """Groups without a neuron ``alive`` are left out."""
        n = len(alive)
        if type(norm) is not nn.GroupNorm or norm.num_channels != n:
            return super().cut(norm, alive)
        groups = alive.view(norm.num_groups, -1).any(1)
        given = groups.repeat_interleave(n // norm.num_groups)
        norm.num_groups, norm.num_channels = int(groups.sum()), int(given.sum())
        if norm.affine:
            rows = given.to(norm.weight.device)
            norm.weight = nn.Parameter(norm.weight[rows].clone())
            norm.bias = nn.Parameter(norm.bias[rows].clone())
        return given


def asks_other_processes(module: nn.Module) -> bool:
    """Whether it computes with what other processes have, amid a pass."""
    return isinstance(module, nn.SyncBatchNorm)


BATCH_NORM, LAYER_NORM, GROUP_NORM, RMS_NORM = BatchNorm(), LayerNorm(), GroupNorm(), RMSNorm()
