"""What a task keeps beside its mask: numbers about it, and what it has been given by later tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Follower:
    """A depthwise convolution at ``path``, each channel of which is made of one neuron of layer ``leader``.

    ``norm``: the path of the norm right behind it, if there is one.
    """

    path: str
    norm: str | None
    leader: str

    @property
    def site(self) -> str:
        """Where the leader's mask multiplies once more: a norm's shift is not 0."""
        return self.norm or self.path


class TaskRecord(nn.Module):
    """Named tensors of one task, part of the model's state: activation statistics, accuracies and such."""

    def put(self, name: str, value: Tensor) -> None:
        """Keep ``value`` under ``name``; what stood there is replaced."""
        self._buffers.pop(name, None)
        self.register_buffer(name, value.detach().clone())

    def get(self, name: str) -> Tensor | None:
        """The tensor kept under ``name``, or None."""
        return self._buffers.get(name)

    def drop(self, name: str) -> None:
        """Forget what is kept under ``name``, if anything is."""
        self._buffers.pop(name, None)

    def clear(self) -> None:
        """Forget everything."""
        self._buffers.clear()

    def take_structure(self, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        """Make room for every tensor that ``state_dict`` holds under ``prefix``."""
        for key, value in state_dict.items():
            if key.startswith(prefix):
                self.put(key.removeprefix(prefix), torch.zeros_like(value))


def pool(logits: Tensor, read: Tensor, mixture: Tensor) -> Tensor:
    """log(softmax(z) + softmax(r) M) [batch, C] of logits z [batch, C], read r [batch, C_t], M [C_t, C]."""
    opinion = (read.softmax(1) @ mixture).clamp_min(torch.finfo(read.dtype).tiny)
    return torch.logaddexp(logits.log_softmax(1), opinion.log())


class Lateral(nn.Module):
    """What a task reads from a subnetwork: columns of its head on the features f_t [batch, d] of task t.

    z [batch, C], the logits of the task so far; read = V f_t(x) + c.

    Added:   z <- scale * z + read
    Pooled:  z <- log(softmax(scale * z) + softmax(read) M)     (a linear opinion pool, Stone 1961)

    Shapes: weight V [C, d] and bias c [C]; pooled: [C_t, d] and [C_t] with the mixture M [C_t, C], which says
    what the reader's class c' is worth for class c. Scale and source (t) are scalars. Nothing of it is
    trained any more: a transfer makes it, and it is accepted as a whole or not at all.
    """

    source_task: int
    source: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    mixture: Tensor

    def __init__(
        self, source: int, scale: Tensor, weight: Tensor, bias: Tensor, mixture: Tensor | None = None
    ) -> None:
        super().__init__()
        self.source_task = source
        self.register_buffer("source", torch.tensor(source, device=weight.device))
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())
        mixture = weight.new_zeros(0) if mixture is None else mixture
        self.register_buffer("mixture", mixture.detach().clone())

    @property
    def pooled(self) -> bool:
        """Whether probabilities are pooled, not logits added."""
        return len(self.mixture) > 0

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        read = nn.functional.linear(features, self.weight, self.bias)
        own = self.scale * logits
        return pool(own, read, self.mixture) if self.pooled else own + read

    @staticmethod
    def from_state(state_dict: Mapping[str, Any], prefix: str) -> "Lateral":
        """A lateral as large as the one in ``state_dict`` under ``prefix``."""
        names = ("source", "scale", "weight", "bias", "mixture")
        source, *tensors = (state_dict[f"{prefix}{name}"] for name in names)
        return Lateral(int(source), *tensors)
