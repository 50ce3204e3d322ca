"""What a compact subnetwork is made of: smaller layers, folded norms, and a selection where widths differ.

Shapes: W [out, in, ...]; an index names neurons (or inputs) of the full layer, -1 one that is always 0.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..kinds import Maskable, is_exactly, layer_kind, norm_kind
from ..records import pool

# Selecting costs one pass over memory, rows and columns of zeros cost arithmetic: on a CPU, selecting is
# the faster of the two once it saves a tenth.
WORTH_SELECTING = 0.9


class Select(nn.Module):
    """Neurons of x by their ``index`` [e] along dimension ``dim``; an index of ``width`` stands for zeros."""

    index: Tensor

    def __init__(self, index: Tensor, width: int, dim: int, zeros: bool | None = None) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.width, self.dim = width, dim
        self.zeros = bool((index == width).any()) if zeros is None else zeros

    @staticmethod
    def maybe(index: Tensor, width: int, dim: int) -> list[nn.Module]:
        """As a list: empty where all neurons are selected in their order."""
        same = len(index) == width and bool((index == torch.arange(width)).all())
        return [] if same else [Select(index, width, dim)]

    def forward(self, x: Tensor) -> Tensor:
        if self.zeros:
            x = torch.cat([x, torch.zeros_like(x.narrow(self.dim, 0, 1))], self.dim)
        return x.index_select(self.dim, self.index)

    def extra_repr(self) -> str:
        return f"{len(self.index)} of {self.width}, dim={self.dim}"


class Masked(nn.Module):
    """x with the channels, along dimension 1, alone that are in ``mask``, bool [n]; the others are 0."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.view(-1, *[1] * (x.dim() - 2)).to(x.dtype)


class Sum(nn.ModuleList):
    """The sum of what several networks make of the same input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self]).sum(0)


class Pools(nn.Module):
    """Linear opinion pools (:func:`dsn.masking.records.pool`), one after the other.

    z <- scale_i pool(z, r_i, M_i), and + a_i where ``added`` says so. The logits z [batch, C], and of each
    pool r_i [batch, C_i] and, if any, a_i [batch, C], arrive side by side, in this order.
    """

    scales: Tensor

    def __init__(self, scales: Tensor, mixtures: list[Tensor], added: list[bool]) -> None:
        super().__init__()
        self.register_buffer("scales", scales)
        for place, mixture in enumerate(mixtures):
            self.register_buffer(f"mixture{place}", mixture)
        self.added = added
        classes = mixtures[0].shape[1]
        self.sizes = [classes]
        for mixture, more in zip(mixtures, added, strict=True):
            self.sizes += [len(mixture), *[classes] * more]

    def mixtures(self) -> list[Tensor]:
        """M_i [C_i, C] of each pool."""
        return [self.get_buffer(f"mixture{place}") for place in range(len(self.added))]

    def forward(self, x: Tensor) -> Tensor:
        logits, *parts = x.split(self.sizes, 1)
        arriving = iter(parts)
        for place, (mixture, more) in enumerate(zip(self.mixtures(), self.added, strict=True)):
            logits = self.scales[place] * pool(logits, next(arriving), mixture)
            if more:
                logits = logits + next(arriving)
        return logits

    def extra_repr(self) -> str:
        return f"{self.sizes}"


def chain(modules: list[nn.Module]) -> nn.Module:
    """One module that applies ``modules`` in turn."""
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def sliced(
    layer: Maskable, weight: Tensor, bias: Tensor | None, emitted: Tensor, columns: Tensor
) -> list[nn.Module]:
    """``layer`` with the neurons ``emitted`` and the inputs ``columns`` alone, and what selects them.

    Args:
        weight, bias: of the full layer; they need not be the layer's own.
        emitted: [e] the neuron at each place of the output.
        columns: [d] the input of the full layer at each place of what arrives.
    """
    dim = layer_kind(layer).neuron_dim
    if not is_exactly(layer):
        return _whole(layer, weight, bias, emitted, columns)
    live, made = columns >= 0, emitted >= 0
    before: list[nn.Module] = []
    after: list[nn.Module] = []
    if 0 < int(live.sum()) <= WORTH_SELECTING * len(live):
        before = [Select(live.nonzero().flatten(), len(live), dim)]
        columns = columns[live]
    if 0 < int(made.sum()) <= WORTH_SELECTING * len(made):
        after = [_spread(made, dim)]
        emitted = emitted[made]
    small = layer_kind(layer).like(layer, len(columns), len(emitted), bias is not None)
    small.weight.copy_(_pick(_pick(weight, emitted, 0), columns, 1))
    if bias is not None and small.bias is not None:
        small.bias.copy_(_pick(bias, emitted, 0))
    return [*before, small, *after]


def _spread(made: Tensor, dim: int) -> Select:
    """From the neurons that are ``made``, bool [e], to all e places, zeros elsewhere."""
    count = int(made.sum())
    return Select(torch.where(made, made.cumsum(0) - 1, count), count, dim)


def _pick(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """``values`` by ``index`` along ``dim``; 0 where it is -1."""
    index = index.to(values.device)
    shape = [1] * values.dim()
    shape[dim] = len(index)
    return values.index_select(dim, index.clamp(min=0)) * (index >= 0).view(shape)


def _whole(
    layer: Maskable, weight: Tensor, bias: Tensor | None, emitted: Tensor, columns: Tensor
) -> list[nn.Module]:
    """A layer of a class of its own, whose forward may be anything: kept as it is between two selections."""
    twin = copy.deepcopy(layer)
    twin._forward_hooks.clear()  # the gates
    twin.weight = nn.Parameter(weight.clone())
    twin.bias = None if bias is None else nn.Parameter(bias.clone())
    full = torch.full((weight.shape[1],), len(columns))
    full[columns[columns >= 0]] = (columns >= 0).nonzero().flatten()
    dim, n = layer_kind(layer).neuron_dim, len(weight)
    return [
        *Select.maybe(full, len(columns), dim),
        twin,
        *Select.maybe(torch.where(emitted >= 0, emitted, n), n, dim),
    ]


def kept_norm(norm: nn.Module, alive: Tensor, emitted: Tensor, dim: int) -> tuple[nn.Module, Tensor]:
    """A norm that is not folded, and the neurons [p] that it must be given: zeros belong to its statistics.

    What it does not need of those that are not ``alive``, bool [n], is left out.
    """
    norm = copy.deepcopy(norm)
    given = norm_kind(norm).cut(norm, alive)
    place = torch.where(given, given.cumsum(0) - 1, 0)
    width = int(given.sum())
    index = torch.where(emitted >= 0, place[emitted.clamp(min=0)], width)
    return chain([norm, *Select.maybe(index, width, dim)]), given.nonzero().flatten()
