"""Hashes of all that a task's answers depend on: equal hashes, equal bits.

Shapes: x [batch, ...], the same random inputs for every task; a layer's block W[outputs][:, inputs].
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...storage import add_tensor
from ..computes import Computes, weights_of
from ..layers import evaluating
from ..reach import read_inputs

BATCH, DIGITS = 16, 16


@dataclass(frozen=True)
class Fingerprint:
    """The first 64 bits of three sha256, in hexadecimal.

    weights: of its mask, the weights and biases inside it, its norm state and head: the same on any machine
    reads: of what it reads from other tasks
    logits: of its logits for :func:`probe`, with the committed bits: the same on the same machine, with the
        same number of threads
    level: of the same logits, one number near their mean size: nearly the same on any machine; None where it
        is unknown or not finite. It is not compared.
    """

    weights: str
    reads: str
    logits: str
    level: float | None = field(default=None, compare=False)


def probe(model: Computes) -> Tensor:
    """x [BATCH, ...] from N(0, 1), the same for every model of this input shape."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((BATCH, *model.input_shape[1:]), generator=generator)
    return x.to(model.device, model.dtype)


class Fingerprints:
    """Fingerprints of the committed tasks of ``model``, now and later again."""

    def __init__(self, model: Computes) -> None:
        self.model = model
        self._x = probe(model)
        self._places: dict[int, tuple[dict[str, int], dict[str, Tensor], dict[str, Tensor]]] = {}

    def of(self, *tasks: int) -> list[Fingerprint]:
        """The fingerprints of ``tasks`` as they are now."""
        with evaluating(self.model):
            return [self._one(task) for task in tasks]

    def _one(self, task: int) -> Fingerprint:
        logits = self.model(self._x.to(self.model.device, self.model.dtype), task)  # it may have moved
        return Fingerprint(
            weights=_hash(self._weights(task)),
            reads=_hash(dict(self.model.lateral_heads(task).named_buffers())),
            logits=_hash({"logits": logits}),
            level=_level(logits),
        )

    def _weights(self, task: int) -> dict[str, Tensor]:
        model, masks = self.model, self.model.open_neurons(task)
        own, inputs = weights_of(model, task), self._inputs(task, masks)
        found = self._head(task)
        for path, layer in model.layer_modules():
            rows = masks[path].nonzero().flatten()
            found[f"{path}.mask"] = masks[path]
            weight, bias = layer.weight[rows][:, inputs[path]], layer.bias
            if model.edges is not None:  # what is not read is 0
                weight, bias = own[f"{path}.weight"][rows], own.get(f"{path}.bias")
            found[f"{path}.weight"] = weight
            if bias is not None:
                found[f"{path}.bias"] = bias[rows]
        return found | self._norms(task)

    def _head(self, task: int) -> dict[str, Tensor]:
        return {f"head.{name}": value for name, value in self.model.heads[str(task)].named_parameters()}

    def _norms(self, task: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for number, norm in enumerate(self.model.norms()):
            state = norm.of(task)
            found |= {f"norm.{number}.{k}": v for k, v in [*state.named_parameters(), *state.named_buffers()]}
        return found

    def _inputs(self, task: int, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """The columns, bool [d], of each layer that the mask lets through, found once a mask and widths."""
        known, widths = self._places.get(task), self.model.layers
        if known is None or known[0] != widths or any(not known[1][p].equal(m) for p, m in masks.items()):
            known = self._places[task] = (widths, masks, read_inputs(self.model, masks))
        return known[2]


def _level(logits: Tensor) -> float | None:
    """The mean of |z| with a fixed random weight each, negative ones twice: signs, places and sizes count."""
    z = logits.detach().double().cpu()
    weights = 0.5 + torch.rand(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    level = float((weights * torch.where(z < 0, -2 * z, z)).mean())
    return level if math.isfinite(level) else None


def _hash(tensors: dict[str, Tensor]) -> str:
    return whole_hash(tensors)[:DIGITS]


def whole_hash(tensors: dict[str, Tensor]) -> str:
    """sha256 of names and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} ".encode())
        add_tensor(digest, tensor)
    return digest.hexdigest()
