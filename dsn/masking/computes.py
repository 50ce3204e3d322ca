"""A pass through a masked model: which gates and norms a task opens, and with which weights it computes.

Shapes: x [batch, ...]; features [batch, d]; gates [n] a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .annealing import Prices, priced_gates
from .edges import Edges
from .gates import LOGIT_LIMIT
from .layers import evaluating, features_in
from .map import FEATURES
from .passes import flush_denormals, flushes_denormals
from .reach import narrow_parameters
from .structure import Structure


class Computes(Structure):
    """A :class:`Structure` through which passes go, one task at a time; ``edges``: where it has them."""

    edges: Edges | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.edges = None

    def scores(self) -> list[nn.Parameter]:
        """The scores of edges of each layer while a task is learnt with them; empty otherwise."""
        return [] if self.edges is None else self.edges.scores()

    def anneal(self, progress: float, s_max: float = 400.0) -> None:
        """Set the annealing scale: s from 1/s_max at ``progress`` 0 to s_max at 1 (HAT, eq. 3)."""
        self.scale = 1 / s_max + (s_max - 1 / s_max) * progress
        self.s_max = s_max

    def clamp_logits(self) -> None:
        """Keep gate logits within +-6 after a step (HAT, section 2.5)."""
        for logits in self.gate_logits():
            logits.detach().clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)

    def select(self, task: int | None) -> None:
        """Make the backbone compute as ``task``; None: as the plain backbone, no gates, its own norms."""
        self._price = None
        learning = task is not None and task == self.learning
        row = None if task is None or learning else self._row(task)
        for gate in self.gates_by_path.values():
            if task is None or (learning and (self.dense or self.edges is not None)):
                gate.values = None
            elif row is not None:
                gate.values = gate.bits(row, self.dtype)
            elif not self.training:
                gate.values = gate.selection().to(self.dtype)
        if learning and self.training and not self.dense and self.edges is None:
            self._open_softly()
        for norm in self.norms():
            norm.task = task

    def _open_softly(self) -> None:
        """Give every gate its soft values, and keep their price for :meth:`price`."""
        values, price = self._soft_gates()
        for gate, value in zip(self._gates.values(), values, strict=True):
            gate.values = gate.with_kept(value)
        self._price = (self._price_key(), price) if torch.is_grad_enabled() else None

    def _soft_gates(self) -> tuple[list[Tensor], Tensor]:
        """Soft gates [n] of each layer for the task being learnt, and their price, a scalar."""
        gates = self._gates.values()
        free = [gate.free for gate in gates]
        if self._prices is None or any(a is not b for a, b in zip(self._prices.free, free, strict=True)):
            self._prices = Prices(free)
        return priced_gates([gate.effective_logits() for gate in gates], self._prices, self.scale, self.s_max)

    def _price_key(self) -> tuple[object, ...]:
        return (self.scale, self.s_max, *((id(logits), logits._version) for logits in self.gate_logits()))

    def price(self) -> Tensor:
        """Share of the free neurons that the soft gates of the task being learnt take, a scalar.

        Taken over from the forward pass where there was one with the same gates, once.
        """
        kept, self._price = self._price, None
        return kept[1] if kept is not None and kept[0] == self._price_key() else self._soft_gates()[1]

    def compute(self, x: Tensor, task: int) -> Tensor:
        """Features [batch, d] with the gates as they are set, the weights as wide as ``task`` knew them."""
        if self._compiled is None:
            return self._compute(x, task, self._run)
        flush_denormals(self._flushes)
        try:
            return self._compute(x, task, self._compiled if self.training else self._run)
        finally:
            flush_denormals(self._flushes)

    def _compute(self, x: Tensor, task: int, run: Callable[[dict[str, Tensor], Tensor], Tensor]) -> Tensor:
        weights = weights_of(self, task)
        folding = [path for path in self._foldable if self.training and self._gates[path].values is not None]
        for path in folding:
            weights |= self._fold(path, weights)
        try:
            for path in folding:
                self._gates[path].folded = True
            return run(weights, x)
        finally:
            for path in folding:
                self._gates[path].folded = False

    def _run(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        if not weights:
            return self.backbone(x)
        return functional_call(self.backbone, weights, (x,), tie_weights=False)  # find_sites refuses ties

    def compile_training(self) -> None:
        """Let ``torch.compile`` speed up training passes.

        Evaluation stays as it is: compiled code may be compiled anew, with sums in another order, and earlier
        tasks' logits would no longer be the same to the last bit. For the same reason it stays as it is now
        whether numbers too small to be normal count as 0: torch 2.5 links compiled code with -ffast-math,
        and where that is loaded, in a forward or backward pass, they do in the whole thread.
        """
        self._compiled = torch.compile(self._run)
        self._flushes = flushes_denormals()

    def _fold(self, path: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        layer = self.layer(path)
        names = f"{path}.weight", f"{path}.bias"
        weight, bias = self._gates[path].fold(
            weights.get(names[0], layer.weight), weights.get(names[1], layer.bias)
        )
        return {names[0]: weight} if bias is None else {names[0]: weight, names[1]: bias}

    def features(self, x: Tensor, task: int) -> Tensor:
        """What the head of ``task`` reads: [batch, d]."""
        with self.lock:
            self.select(task)
            return self.compute(x, task)

    @property
    def feature_size(self) -> int:
        """d of the features [batch, d] that heads read."""
        if self.network_map is not None and self.network_map.widths == self.layers:
            return len(self.network_map.always[FEATURES])
        with evaluating(self):
            self.open_plainly()
            features = self.backbone(torch.zeros(self.input_shape, device=self.device, dtype=self.dtype))
        return features_in(features.shape)


def weights_of(model: Computes, task: int) -> dict[str, Tensor]:
    """The weights and biases that ``task`` computes with, by name; those not named are the backbone's own."""
    return narrow_parameters(model, task) if model.edges is None else model.edges.weights(model, task)
