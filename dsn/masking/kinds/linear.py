"""Linear: its neurons are its output units."""

from __future__ import annotations

from torch import nn

from .kind import LayerKind, placed_like


class Linear(LayerKind):
    """``torch.nn.Linear``."""

    def like(self, layer: nn.Linear, inputs: int, outputs: int, bias: bool) -> nn.Linear:
        return nn.Linear(inputs, outputs, bias, **placed_like(layer))

    def set_widths(self, layer: nn.Linear, inputs: int, outputs: int) -> None:
        layer.in_features, layer.out_features = inputs, outputs


LINEAR = Linear()
