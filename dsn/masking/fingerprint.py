"""Hashes of all that a task's answers depend on: equal hashes, equal bits.

Shapes: x [batch, ...], the same random inputs for every task; a layer's block W[outputs][:, inputs].
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..storage import add_tensor
from .layers import evaluating
from .wiring import live_inputs

if TYPE_CHECKING:
    from .model import MaskedModel

BATCH, DIGITS = 16, 16


@dataclass(frozen=True)
class Fingerprint:
    """The first 64 bits of three sha256, in hexadecimal.

    weights: of its mask, the weights and biases inside it, its norm state and head: the same on any machine
    reads: of what it reads from other tasks
    logits: of its logits for :func:`probe`, with the committed bits: the same on the same machine, with the
        same number of threads
    """

    weights: str
    reads: str
    logits: str


def probe(model: MaskedModel) -> Tensor:
    """x [BATCH, ...] from N(0, 1), the same for every model of this input shape."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((BATCH, *model.input_shape[1:]), generator=generator)
    return x.to(model.device, model.dtype)


class Fingerprints:
    """Fingerprints of the committed tasks of ``model``, now and later again."""

    def __init__(self, model: MaskedModel) -> None:
        self.model = model
        self._x = probe(model)
        self._places: dict[int, tuple[Any, dict[str, Tensor]]] = {}

    @torch.no_grad()
    def of(self, task: int) -> Fingerprint:
        """The fingerprint of ``task`` as it is now."""
        with evaluating(self.model):
            logits = self.model(self._x, task)
        laterals = self.model.lateral_heads(task)
        return Fingerprint(
            weights=_hash(self._weights(task)),
            reads=_hash(dict(laterals.named_buffers())),
            logits=_hash({"logits": logits}),
        )

    def _weights(self, task: int) -> dict[str, Tensor]:
        model, masks = self.model, self.model.masks(task)
        inputs = self._inputs(task, masks)
        found: dict[str, Tensor] = {}
        found |= {f"head.{name}": value for name, value in model.heads[str(task)].named_parameters()}
        for path, layer in model.layer_modules():
            rows = masks[path].nonzero().flatten()
            found[f"{path}.mask"] = masks[path]
            found[f"{path}.weight"] = layer.weight[rows][:, inputs[path]]
            if layer.bias is not None:
                found[f"{path}.bias"] = layer.bias[rows]
        for number, norm in enumerate(model.norms()):
            own = norm.of(task)
            found |= {f"norm.{number}.{k}": v for k, v in [*own.named_parameters(), *own.named_buffers()]}
        return found

    def _inputs(self, task: int, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """The columns [d] of each layer that the mask lets through, found once a mask and widths."""
        key = ({path: mask.tolist() for path, mask in masks.items()}, self.model.layers)
        if task not in self._places or self._places[task][0] != key:
            live, _ = live_inputs(self.model, masks)
            self._places[task] = (key, {path: flags.nonzero().flatten() for path, flags in live.items()})
        return self._places[task][1]


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} ".encode())
        add_tensor(digest, tensor)
    return digest.hexdigest()[:DIGITS]
