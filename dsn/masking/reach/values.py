"""The kinds of values that are sent: what any network lets through, some kind of them brings.

NaN and the infinities pass through nearly every operation; finite values of all sizes and both signs, that
differ over neurons, positions and the batch and are 0 here and there, pass through the others (a comparison
with NaN is false).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from ...errors import InputError
from ..bits import widened
from ..map import Size
from ..structure import Structure
from .sending import Arrivals, Keep, kept, send
from .sizes import at_once

BATCH = 3  # samples sent at once, so that statistics over the batch are felt too
POOL = 2**17 - 1  # a prime, so that no two rows of a map, and no two samples, are alike


Values = Callable[[torch.Size, torch.Generator], Tensor]


def _pooled(draw: Values) -> Values:
    """As ``draw``, but large shapes are cut from the same :data:`POOL` numbers, over and over, at random."""

    @cache
    def pool(times: int) -> Tensor:
        return draw(torch.Size([POOL]), torch.Generator().manual_seed(0)).repeat(times)

    def drawn(shape: torch.Size, random: torch.Generator) -> Tensor:
        n = math.prod(shape)
        if n <= POOL // 64:
            return draw(shape, random)
        start = int(torch.randint(POOL, (), generator=random))
        times = 2 ** math.ceil(math.log2(1 + n / POOL))
        return pool(times)[start : start + n].view(shape)

    return drawn


@_pooled
def signed(shape: torch.Size, random: torch.Generator) -> Tensor:
    """Numbers of any size from 1e-4 to 1e4 and of both signs."""
    sign = torch.randint(0, 2, shape, generator=random) * 2.0 - 1
    return sign * 10 ** (8 * torch.rand(shape, generator=random) - 4)


@_pooled
def holed(shape: torch.Size, random: torch.Generator) -> Tensor:
    """The same with 0 here and there."""
    return signed(shape, random) * torch.randint(0, 2, shape, generator=random)


@_pooled
def _above_one(shape: torch.Size, random: torch.Generator) -> Tensor:
    return 1 + torch.rand(shape, generator=random)


@_pooled
def _zeros_of_both_signs(shape: torch.Size, random: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, shape, generator=random) * 2.0 - 1) * 0.0


def _even(shape: torch.Size, random: torch.Generator) -> Tensor:
    """The same all over a map, or along the dimensions in the middle; some neurons are 0."""
    small = torch.Size(
        [shape[0], shape[1], *[1] * (len(shape) - 3), *([shape[-1]] if len(shape) == 3 else [1])]
    )
    return holed(small if len(shape) > 2 else shape, random).expand(shape).contiguous()


def _sparse(shape: torch.Size, random: torch.Generator) -> Tensor:
    """A half, a quarter, an eighth of the neurons (dimension 1, or the last), the others 0 all over a map."""
    kept = 0.5 ** (1 + torch.arange(shape[0]) % 3).view(-1, *[1] * (len(shape) - 1))
    dim = 1 if len(shape) != 3 else int(torch.randint(1, 3, (), generator=random))
    small = [n if at in (0, dim) else 1 for at, n in enumerate(shape)]
    return signed(shape, random) * (torch.rand(small, generator=random) < kept)


def _filled(value: float) -> Values:
    return lambda shape, _random: torch.full(shape, value)


FINITE: tuple[Values, ...] = (
    _above_one,
    lambda shape, random: -_above_one(shape, random),
    signed,
    holed,
    _even,
    _sparse,
    _sparse,
)
BOUNDLESS = (_filled(math.nan), _filled(math.inf), _filled(-math.inf))
KINDS = (*FINITE, *BOUNDLESS)


class Endless(Exception):
    """The backbone does not run on values that are not finite."""


@contextmanager
def telling(kind: int) -> Iterator[None]:
    """Say what it means that the backbone's own code fails on values of a kind."""
    try:
        yield
    except Exception as error:
        if KINDS[kind] in BOUNDLESS:
            raise Endless from error
        raise InputError(
            "the backbone does not run on made-up values in the shape of a few example inputs "
            f"({type(error).__name__}: {error}): masks need a backbone that takes any batch and any values"
        ) from error


class Sender:
    """Values of one kind for the network's input, and for what the masks let through.

    What is masked is 0, of the sign of ``zero``, by default of any sign: a masked neuron's sign is that of
    what its weights give.
    """

    def __init__(
        self,
        model: Structure,
        masks: Mapping[str, Tensor] | None,
        kind: int,
        zero: float | None = None,
        *,
        size: Size | None = None,
        batch: int | None = None,
    ) -> None:
        self.model, self.masks, self.kind, self.zero = model, masks, kind, zero
        self.size, self.batch = size or model.size, batch or at_once(model, BATCH)
        self.random = torch.Generator().manual_seed(kind)
        self.signs = torch.Generator().manual_seed(kind)

    def draw(self, like: Tensor) -> Tensor:
        """Values in the shape of ``like``, to be read alone: they may be others' too."""
        shape = torch.Size([*[1] * (2 - like.dim()), *like.shape])  # a batch, and neurons
        return KINDS[self.kind](shape, self.random).view_as(like).to(like)

    def __call__(self, path: str, output: Tensor) -> Tensor:
        if self.masks is None:
            return self._zeros(output)
        gate = self.model.gates_by_path[path]
        mask = widened(self.masks[path].to(output.device, torch.bool), gate.n)
        shape = [1] * output.dim()
        shape[gate.neuron_dim] = gate.n
        mask = mask.view(shape)
        if KINDS[self.kind] in BOUNDLESS:  # the same all over a map
            few = output.new_empty(torch.broadcast_shapes(mask.shape, (len(output), *shape[1:])))
            return torch.where(mask, self.draw(few), self._zeros(few)).expand_as(output).contiguous()
        if self.zero is None:  # a finite value times 0 is a 0 of the value's sign
            return self.draw(output) * mask.to(output)
        return torch.where(mask, self.draw(output), self._zeros(output))

    def _zeros(self, output: Tensor) -> Tensor:
        if self.zero is None:
            return _zeros_of_both_signs(output.shape, self.signs).to(output)
        return torch.full_like(output, self.zero)

    def own(self, _name: str, tensor: Tensor) -> Tensor:
        """What every task has its own of may be anything."""
        return self.draw(tensor).clone()

    def send(self, keep: Keep = kept) -> Arrivals:
        """One pass; what is each task's own is not masked, and may be anything.

        That is the network's input, what norms give that stand behind no layer, and own tensors: what their
        values as they are now make of a 0, or hide by one, says nothing of later ones.
        """
        return send(self.model, self, self.x(), free_norms=self.own, keep=keep, size=self.size)

    def x(self) -> Tensor:
        return self.draw(self.size.zeros(self.model, self.batch)).clone()


def zero_input(model: Structure) -> Tensor:
    """At the size that values are sent at."""
    return model.size.zeros(model, at_once(model, BATCH))
