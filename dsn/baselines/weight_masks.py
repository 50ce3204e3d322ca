"""Subnetworks of single weights: learnt scores choose a layer's best weights for a task; the choice is kept
as packed bits.

Shapes: weights, scores and masks of a layer [out, in, ...]; packed bits [ceil(n/8)] uint8 for its n weights.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import Self

from ..masking.bits import pack_bits, unpack_bits
from ..masking.edges.scores import how_many, straight_through, top_k
from ..masking.records import TaskRecord
from .network import TaskNetwork, weight_layers


class WeightMaskedNetwork(TaskNetwork):
    """A network in which each task uses ``density`` of each layer's weights.

    The mask is that of the largest absolute scores. ``signed``: the weights begin as signed Kaiming
    constants. ``fixed``: they keep these, there are no biases and norms have no affine parameters (SupSup);
    otherwise weights learn, each task has biases of its own, and weights in the mask of an earlier task are
    :meth:`frozen` (WSN). ``carry``: a task's scores go on from those of the task before, instead of anew.
    """

    def __init__(
        self,
        backbone: nn.Module,
        input_shape: torch.Size,
        head: str | None = None,
        *,
        density: float,
        fixed: bool = False,
        signed: bool = False,
        carry: bool = False,
    ) -> None:
        super().__init__(backbone, input_shape, head)
        self.density, self.fixed, self.carry = density, fixed, carry
        self.layers = weight_layers(self.backbone)
        self.scores = nn.ParameterDict()
        self.masks = nn.ModuleDict()
        self.biases = nn.ModuleDict()
        self._ready: tuple[int, dict[str, Tensor]] | None = None
        for layer in self.layers.values():
            if fixed or signed:
                layer.weight.data = signed_constant(layer.weight)
            if fixed:
                layer.weight.requires_grad_(False)
            if layer.bias is not None:
                layer.bias.requires_grad_(False)
                layer.bias.data.mul_(not fixed)
        if fixed:
            for norm in self.norms():
                norm.original.register_parameter("weight", None)
                norm.original.register_parameter("bias", None)

    def add_task(self, num_classes: int, task: int) -> None:
        super().add_task(num_classes, task)
        self.masks[str(task)] = TaskRecord()
        own = nn.ParameterDict()
        for path, layer in self.layers.items():
            if _key(path) not in self.scores:
                scores = torch.empty_like(layer.weight)
                nn.init.kaiming_uniform_(scores, a=math.sqrt(5))
                self.scores[_key(path)] = nn.Parameter(scores)
            if layer.bias is not None and not self.fixed:
                own[_key(path)] = nn.Parameter(layer.bias.detach().clone())
        self.biases[str(task)] = own

    def own_parameters(self, task: int) -> list[nn.Parameter]:
        return [*super().own_parameters(task), *self.biases[str(task)].parameters()]

    def task_parameters(self, task: int) -> list[nn.Parameter]:
        weights = [layer.weight for layer in self.layers.values()]
        return [*weights, *self.scores.values(), *self.own_parameters(task)]

    def end_task(self, task: int) -> None:
        """Keep the mask as bits and, unless they are carried on, forget the scores."""
        for path, layer in self.layers.items():
            self._record(task).put(_key(path), pack_bits(self._chosen(path).flatten()))
            layer.weight.grad = None
        if not self.carry:
            self.scores.clear()
        super().end_task(task)

    def mask(self, task: int, path: str) -> Tensor:
        """Bool mask, shaped as the weights, of a task whose training has ended."""
        weight, packed = self.layers[path].weight, self._record(task).get(_key(path))
        assert packed is not None
        return unpack_bits(packed, weight.numel()).view_as(weight)

    def packed_masks(self, task: int) -> list[Tensor]:
        """The packed bits of every layer."""
        return list(self._record(task).buffers())

    def _record(self, task: int) -> TaskRecord:
        return cast(TaskRecord, self.masks[str(task)])

    def frozen(self) -> list[tuple[Tensor, Tensor]]:
        """The weights of each layer and which of them earlier tasks use, bool."""
        ended = [task for task in self.tasks if self.packed_masks(task)]
        return [
            (layer.weight, torch.stack([self.mask(task, path) for task in ended]).any(0))
            for path, layer in self.layers.items()
            if ended
        ]

    def compute(self, x: Tensor, task: int) -> Tensor:
        return functional_call(self.backbone, self._subnetwork(task), (x,))

    def _subnetwork(self, task: int) -> dict[str, Tensor]:
        if not self.packed_masks(task):
            self._ready = None
            soft = {}
            for path in self.layers:
                ranked = self.scores[_key(path)].abs()
                soft[path] = straight_through(ranked, self._largest(ranked))
            return self._tensors(task, soft)
        if self._ready is None or self._ready[0] != task:
            with torch.no_grad():  # weights in the mask of an ended task never change again
                masks = {path: self.mask(task, path) for path in self.layers}
                self._ready = (task, self._tensors(task, masks))
        return self._ready[1]

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._ready = None
        return super()._apply(*args, **kwargs)

    def _tensors(self, task: int, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = {f"{path}.weight": layer.weight * masks[path] for path, layer in self.layers.items()}
        own = cast(nn.ParameterDict, self.biases[str(task)])
        biases = {f"{path}.bias": own[_key(path)] for path in self.layers if _key(path) in own}
        return {**weights, **biases}

    def _chosen(self, path: str) -> Tensor:
        return self._largest(self.scores[_key(path)].abs())

    def _largest(self, scores: Tensor) -> Tensor:
        return top_k(scores, how_many(self.density, scores.numel()))


def signed_constant(weight: Tensor) -> Tensor:
    """Random signs times the standard deviation of Kaiming's normal initialisation, sqrt(2 / fan in)."""
    random = nn.init.kaiming_normal_(torch.empty_like(weight), nonlinearity="relu")
    fan_in = weight[0].numel()
    return torch.where(random < 0, -1.0, 1.0) * math.sqrt(2 / fan_in)


def _key(path: str) -> str:
    return path.replace(".", "/")
