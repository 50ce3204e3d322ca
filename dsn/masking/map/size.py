"""At which size values are sent through a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """``shape`` of an input [1, ...]; ``maps``: what follows the neurons in each layer's output, by call."""

    shape: tuple[int, ...]
    maps: dict[str, list[torch.Size]]

    def zeros(self, model: nn.Module, batch: int) -> Tensor:
        """An input of ``batch`` samples, of the type and on the device of ``model``."""
        return next(model.parameters()).detach().new_zeros((batch, *self.shape[1:]))
