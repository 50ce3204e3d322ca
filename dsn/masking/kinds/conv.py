"""Convolutions: their neurons are their output channels."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from .kind import LayerKind, placed_like

Conv = nn.Conv1d | nn.Conv2d


class Convolution(LayerKind):
    """``torch.nn.Conv1d`` and ``Conv2d``, each neuron of which reads all inputs: without groups."""

    neuron_dim = 1
    on_maps = True

    def output_shape(self, x: Tensor, n: int, map_size: torch.Size) -> tuple[int, ...]:
        return (len(x), n, *map_size)

    def like(self, layer: Conv, inputs: int, outputs: int, bias: bool) -> Conv:
        return type(layer)(
            inputs,
            outputs,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            bias=bias,
            padding_mode=layer.padding_mode,
            **placed_like(layer),
        )

    def set_widths(self, layer: Conv, inputs: int, outputs: int) -> None:
        layer.in_channels, layer.out_channels = inputs, outputs

    def has_neurons(self, layer: Conv) -> bool:
        """Not with groups: a depthwise neuron is hardly more than a number a task, and reads one input."""
        return layer.groups == 1


def is_depthwise(module: nn.Module) -> TypeGuard[Conv]:
    """Whether it is a convolution whose channel j is made of input j alone."""
    exactly = isinstance(module, Conv) and type(module) in (nn.Conv1d, nn.Conv2d)
    return exactly and module.in_channels == module.out_channels == module.groups


CONVOLUTION = Convolution()
