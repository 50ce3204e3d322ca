"""Protected weights: values that no optimizer changes.

A weight from neuron i to neuron j is protected iff both ends are used by earlier tasks; a bias iff its neuron
is (METHOD.md, section 1). With edges (``edges``) every row is protected that the task being learnt does
not own. Zeroing gradients is not enough: momentum, weight decay and Adam's moments move a
weight without one. So the values are put back after every step.

Shapes: W [out, in, ...]; the protected block of a layer is W[outputs][:, inputs].

They are put back by one sweep over the weight, W <- kept where protected: faster than writing the block by
index once more than a quarter is protected (`python -m benchmarks.speed.protection`), and its time does not
grow with the block. It keeps a byte a weight beside the values.
"""

from __future__ import annotations

import torch

from .computes import Computes
from .kinds import layer_kind, per_neuron
from .reach import needed_inputs


class ProtectedWeights:
    """The weights that the committed tasks need, kept bit-identical over optimizer steps.

    >>> protected = ProtectedWeights(model)      # once a task
    >>> with protected:
    ...     optimizer.step()

    ``before``: protect for the tasks committed before this one; by default for all committed ones. The heads
    and norm state of committed tasks take no gradient at all (:meth:`Computes.freeze`).
    """

    @torch.no_grad()
    def __init__(self, model: Computes, before: int | None = None) -> None:
        self._lock = model.lock  # between the step and the putting back, no thread may compute
        layers = dict(model.layer_modules())
        self._kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for name, protected in protected_places(model, before).items():
            path, _, kind = name.rpartition(".")
            parameter: torch.Tensor = getattr(layers[path], kind)
            self._kept.append((parameter, protected, parameter.detach().clone()))

    def __enter__(self) -> ProtectedWeights:
        self._lock.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            for parameter, protected, kept in self._kept:
                weight = parameter.detach()
                torch.where(protected, kept, weight, out=weight)
        finally:
            self._lock.__exit__()


@torch.no_grad()
def protected_places(model: Computes, before: int | None = None) -> dict[str, torch.Tensor]:
    """Which values of each weight and bias are protected, by name: bool, shaped as they are.

    ``before``: as in :class:`ProtectedWeights`. Empty where nothing is.
    """
    used = model.used(before)
    if model.edges is None and not any(bool(mask.any()) for mask in used.values()):
        return {}
    found = {}
    inputs = {} if model.edges is not None else needed_inputs(model, before)
    task = model.learning if before is None else before
    for path, layer in model.layer_modules():
        if model.edges is not None:  # all rows but those that the task owns; where none learns, all owned
            rows = used[path] if task is None else ~model.edges.learning_rows(model, path, task)
            found[f"{path}.weight"] = _as(layer.weight, per_neuron(rows, layer.weight))
            continue
        block = layer_kind(layer).block(layer.weight, used[path], inputs[path])
        found[f"{path}.weight"] = _as(layer.weight, block)
        if layer.bias is not None:
            found[f"{path}.bias"] = _as(layer.bias, used[path])
    return found


def _as(parameter: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(parameter, dtype=torch.bool, requires_grad=False).copy_(block)
