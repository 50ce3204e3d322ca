"""Strategies whose tasks are subnetworks of single weights: WSN, SupSup, PackNet. None forgets anything."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from avalanche.models.packnet import PackNetModel, WeightAndBiasPackNetModule
from torch import Tensor, nn

from ..errors import InputError
from ..masking.norms import TaskNorm
from .network import TaskNetwork, weight_layers
from .strategy import Baseline
from .weight_masks import WeightMaskedNetwork

Frozen = list[tuple[Tensor, Tensor]]
"""weights and which of their values must not change, bool"""


@contextmanager
def unchanged(frozen: Frozen) -> Iterator[None]:
    """Put frozen values back at the end: a gradient of zero does not stop momentum and weight decay."""
    kept = [(parameter, mask, parameter.detach().clone()) for parameter, mask in frozen]
    yield
    with torch.no_grad():
        for parameter, mask, values in kept:
            parameter.copy_(torch.where(mask, values, parameter))


class WSN(Baseline):
    """Winning subnetworks (Kang et al. 2022).

    Weights and scores learn together; the best ``density`` of a layer's weights by score are the task's,
    whether earlier tasks use them or not; weights of earlier tasks stay as they are. Scores start anew with
    each task, or, if the network carries them on, where the task before ended, as in the authors' code: then
    tasks share more weights, and more stay free. Biases and norm state are the task's own, where the authors'
    code has none or shares them.

    Args (beside those of Baseline):
        score_lr_factor: learning rate of the scores over that of the weights. A score's gradient is that of
            its mask times the weight, so it is as much smaller as the weights are.
    """

    model: WeightMaskedNetwork
    keeps_tasks = True

    def __init__(self, *, score_lr_factor: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.score_lr_factor = score_lr_factor

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        super().check_model_and_optimizer(**kwargs)
        self._frozen = [] if self.model.fixed else self.model.frozen()

    def scores(self) -> list[nn.Parameter]:
        return list(self.model.scores.values())

    def protection(self) -> AbstractContextManager[Any]:
        return unchanged(self._frozen)

    def task_tensors(self, task: int) -> list[Tensor]:
        return [*super().task_tensors(task), *self.model.packed_masks(task)]

    def shared_tensors(self) -> list[Tensor]:
        """The scores, where they are carried on."""
        return [scores.detach() for scores in self.scores()] if self.model.carry else []

    def used_weights(self) -> list[Tensor]:
        return [mask for _, mask in self.model.frozen()]


class SupSup(WSN):
    """Supermasks in superposition (Wortsman et al. 2020), with task labels.

    Weights are fixed signed constants (``WeightMaskedNetwork`` with ``fixed``); only scores and head learn,
    and a task keeps its mask, its head and the running statistics of its norms.
    """

    def used_weights(self) -> list[Tensor]:
        """None: a seed gives the constants again."""
        return [torch.zeros_like(mask) for mask in super().used_weights()]


class PackNetNetwork(TaskNetwork):
    """Avalanche's PackNetModel as the backbone, norm state and heads a task around it.

    Repaired: it refuses norms (here they stand outside its masks), crashes on layers without a bias, and has
    one pruned head for all tasks. Biases are fixed after the first task, as in the paper.
    """

    def __init__(self, backbone: nn.Module, input_shape: torch.Size, head: str | None = None) -> None:
        super().__init__(backbone, input_shape, head)
        weight_layers(self.backbone)
        norms = {p: m for p, m in self.backbone.named_modules() if isinstance(m, TaskNorm)}
        for path in norms:
            self.backbone.set_submodule(path, nn.Identity())
        self.packed = PackNetModel(self.backbone)
        self.backbone = self.packed.wrappee
        for path, norm in norms.items():
            self.backbone.set_submodule(path, norm)
        for layer in self.packed_layers():
            layer.has_bias = layer.wrappee.bias is not None

    def packed_layers(self) -> list[WeightAndBiasPackNetModule]:
        """The layers that know which task each of their weights belongs to."""
        return [m for m in self.backbone.modules() if isinstance(m, WeightAndBiasPackNetModule)]

    def frozen(self) -> Frozen:
        """The weights of each layer and which of them do not learn now, bool."""
        return [(layer.wrappee.weight, ~layer.unfrozen_mask) for layer in self.packed_layers()]

    def compute(self, x: Tensor, task: int) -> Tensor:
        self.packed.activate_task(self.tasks.index(task))
        return self.backbone(x)


class PackNet(Baseline):
    """PackNet (Mallya and Lazebnik 2018): train the free weights, give back the smallest, train the rest on.

    Args (beside those of Baseline):
        tasks: how many there are in the stream.
        prune: share of the free weights that a task gives back; None: each task keeps the same number.
        retrain: share of ``train_epochs`` that come after pruning, at least one of them.
    """

    model: PackNetNetwork
    keeps_tasks = True

    def __init__(self, *, tasks: int, prune: float | None, retrain: float, **shared: Any) -> None:
        super().__init__(**shared)
        if self.train_epochs < 2:
            raise InputError("packnet needs 2 epochs or more, one before pruning and one after it")
        self.tasks, self.prune = tasks, prune
        self.retrain_epochs = min(max(round(retrain * self.train_epochs), 1), self.train_epochs - 1)

    def phases(self) -> Iterator[int]:
        task = len(self.model.tasks) - 1
        self._frozen = self.model.frozen()
        yield self.train_epochs - self.retrain_epochs
        self.model.packed.prune(1 - 1 / (self.tasks - task) if self.prune is None else self.prune)
        self._frozen = self.model.frozen()
        yield self.retrain_epochs
        self.model.packed.freeze_pruned()

    def protection(self) -> AbstractContextManager[Any]:
        return unchanged(self._frozen)

    def shared_tensors(self) -> list[Tensor]:
        """Which task each weight belongs to, one byte a weight; the masks are computed from it."""
        return [cast(Tensor, layer.task_index) for layer in self.model.packed_layers()]

    def used_weights(self) -> list[Tensor]:
        return [layer.task_index < len(self.model.tasks) for layer in self.model.packed_layers()]


class RandomFeatures(Baseline):
    """A head a task on the features of the backbone as it is, with running statistics a task: the floor.

    The backbone is untrained, or a pretrained one (linear probing).
    """

    def task_parameters(self, task: int) -> list[nn.Parameter]:
        return list(self.model.heads[str(task)].parameters())

    def task_tensors(self, task: int) -> list[Tensor]:
        return [*self.model.heads[str(task)].parameters(), *self.model.task_buffers(task)]

    def used_weights(self) -> list[Tensor]:
        """None: a seed gives the backbone again."""
        return [torch.zeros_like(mask) for mask in super().used_weights()]
