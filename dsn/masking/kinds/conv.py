"""Convolutions: their neurons are their output channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import InputError
from .kind import LayerKind, placed_like

Conv = nn.Conv1d | nn.Conv2d


class Convolution(LayerKind):
    """``torch.nn.Conv1d`` and ``Conv2d``, each neuron of which reads all inputs."""

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

    def refuse(self, path: str, layer: Conv) -> None:
        if layer.groups > 1:
            raise InputError(
                f"layer '{path}' is a grouped convolution (groups={layer.groups}): a neuron then reads only "
                "its group, which protected weights do not cover; use groups=1"
            )


CONVOLUTION = Convolution()
