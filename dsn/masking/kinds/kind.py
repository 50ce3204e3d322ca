"""What masks ask of a kind of layer and of a kind of norm: the same handful of functions for each.

Shapes: weight W [n, d, ...] of a layer with n neurons and d inputs; bias [n]; of a norm, weights and
statistics [n].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LayerKind:
    """A layer whose neuron j is computed with row j of ``weight``, of what arrives at its d inputs.

    A kind of your own is a class with these methods, and a line that says which layers it is about:
    :func:`dsn.masking.kinds.register_layer`.
    """

    neuron_dim = -1
    """the dimension of input and output that inputs and neurons lie along"""
    on_maps = False
    """whether a neuron is a map of values, so that gates cost less where they multiply weights"""

    def neurons(self, layer: Any) -> int:
        """n."""
        return int(layer.weight.shape[0])

    def inputs(self, layer: Any) -> int:
        """d."""
        return int(layer.weight.shape[1])

    def fan_in(self, layer: Any) -> int:
        """How many products a neuron sums."""
        return int(layer.weight[0].numel())

    def block(self, weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Bool, broadcasting over ``weight``: what joins ``inputs``, bool [d], to ``outputs``, bool [n]."""
        return per_edge(outputs[:, None] & inputs, weight)

    def output_shape(self, x: Tensor, n: int, map_size: torch.Size) -> tuple[int, ...]:
        """Of n neurons for x; ``map_size``: what follows the neurons in the output."""
        return (*x.shape[:-1], n)

    def like(self, layer: Any, inputs: int, outputs: int, bias: bool) -> Any:
        """A fresh layer of the same kind and settings, of another size."""
        raise NotImplementedError

    def set_widths(self, layer: Any, inputs: int, outputs: int) -> None:
        """Say in the layer's attributes how large its weight, which is replaced, is now."""
        raise NotImplementedError

    def has_neurons(self, layer: Any) -> bool:
        """Whether its neurons can be masked; if not, each task has a copy of it (``foreign``)."""
        return True

    def draw(self, layer: Any) -> None:
        """Give its parameters fresh values."""
        layer.reset_parameters()

    def refuse(self, path: str, layer: Any) -> None:
        """Raise InputError where this layer cannot be masked."""


class NormKind:
    """A norm, of which each task has a copy: behind a layer, whose mask follows it, or anywhere else."""

    mixes_neurons = True
    """whether what it makes of one neuron depends on the others"""

    def lies_along(self, norm: Any, kind: LayerKind, n: int) -> bool:
        """Whether it normalises the ``n`` neurons of a layer of this ``kind`` right before it."""
        return True

    def multiple(self, norm: Any) -> int:
        """Layers before it have a multiple of so many neurons."""
        return 1

    def widen(self, norm: Any, by: int) -> None:
        """Say in the norm's attributes that it is about ``by`` more neurons."""
        raise NotImplementedError

    def fit(self, norm: Any) -> None:
        """The same, by its parameters, which are of another size now."""

    def statistics(self, norm: Any) -> tuple[Tensor, Tensor] | None:
        """Mean and variance [n] that it keeps of training; None where it keeps none."""
        return None

    def foldable(self, norm: Any) -> bool:
        """Whether in evaluation it is an affine map a neuron, so that a layer can take it in."""
        return False

    def folded(self, norm: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer that has taken it in, in double precision."""
        raise NotImplementedError

    def needs(self, norm: Any, needed: Tensor) -> Tensor:
        """Bool [n]: the neurons whose values it must be given, where those ``needed`` are read behind it."""
        return needed

    def cut(self, norm: Any, alive: Tensor) -> Tensor:
        """Make it smaller, in place, where only neurons ``alive``, bool [n], matter; returns which it keeps.

        Of the others it is given zeros, which belong to its statistics.
        """
        return torch.ones(len(alive), dtype=torch.bool)


def per_neuron(values: Tensor, weight: Tensor) -> Tensor:
    """``values`` [n] shaped so that they broadcast along the rows of ``weight``."""
    return values.view(-1, *[1] * (weight.dim() - 1))


def per_edge(values: Tensor, weight: Tensor) -> Tensor:
    """``values`` [n, d] shaped so that they broadcast over what ``weight`` has for each neuron and input."""
    return values.view(*values.shape, *[1] * (weight.dim() - 2))


def placed_like(layer: nn.Module) -> dict[str, Any]:
    """Device and type of a layer's weight, as arguments."""
    weight = layer.get_parameter("weight")
    return {"device": weight.device, "dtype": weight.dtype}
