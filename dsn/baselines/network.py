"""A backbone that all tasks share, with a head and norm state of its own for each task.

Shapes: x [batch, ...]; features [batch, d]; logits [batch, classes of the task]; labels [batch] int64, the
task of each sample.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

from ..errors import InputError
from ..masking.caches import Caches
from ..masking.foreign import give_to_tasks, open_attention
from ..masking.kinds import Maskable, is_layer, is_norm
from ..masking.layers import evaluating
from ..masking.norms import TaskNorm

Backbone = tuple[nn.Module, str | None]
"""a backbone and the path of its head, None where it has none"""


def headless(backbone: nn.Module, head: str | None) -> nn.Module:
    """``backbone`` without its head, so that it returns features."""
    if head is not None:
        backbone.set_submodule(head, nn.Identity())
    return backbone


def feature_size(backbone: nn.Module, input_shape: torch.Size) -> int:
    """d of the features [batch, d] for inputs of shape [batch, *input_shape].

    Raises InputError where the features are no vectors.
    """
    with evaluating(backbone):
        features = backbone(torch.zeros(1, *input_shape))
    if features.dim() != 2:
        raise InputError(
            f"the backbone gives features of shape {tuple(features.shape)}: they must be [batch, d]; flatten"
        )
    return int(features.shape[1])


def give_norms_to_tasks(backbone: nn.Module) -> None:
    """Put a TaskNorm in the place of every norm."""
    for path, module in list(backbone.named_modules()):
        if is_norm(module):
            backbone.set_submodule(path, TaskNorm(module))


def weight_layers(backbone: nn.Module) -> dict[str, Maskable]:
    """By path, the Linear and Conv layers, whose weights can be masked one by one.

    Raises InputError for parameters elsewhere: no mask would cover them.
    """
    layers = {path: cast(Maskable, m) for path, m in backbone.named_modules() if is_layer(m)}
    covered = {id(p) for layer in layers.values() for p in layer.parameters()}
    covered |= {id(p) for m in backbone.modules() if isinstance(m, TaskNorm) for p in m.parameters()}
    for name, parameter in backbone.named_parameters():
        if id(parameter) not in covered:
            raise InputError(
                f"parameter '{name}' is not in a Linear, Conv1d, Conv2d or norm: masks of weights do not "
                "cover it; take a backbone without it"
            )
    return layers


class TaskNetwork(MultiTaskModule):
    """See the head of this file. ``backbone`` is changed in place."""

    def __init__(self, backbone: nn.Module, input_shape: torch.Size, head: str | None = None) -> None:
        super().__init__()
        self.backbone = headless(backbone, head)
        open_attention(self.backbone)
        caches = Caches(self.backbone)
        self.feature_size = feature_size(self.backbone, input_shape)
        give_to_tasks(self.backbone, torch.zeros(1, *input_shape))
        give_norms_to_tasks(self.backbone)
        caches.guard(self.backbone)
        self.heads = nn.ModuleDict()
        self.tasks: list[int] = []

    def add_task(self, num_classes: int, task: int) -> None:
        """Give ``task`` a head with ``num_classes`` outputs and norm state."""
        for norm in self.norms():
            norm.add_task(task)
        self.heads[str(task)] = nn.Linear(self.feature_size, num_classes)
        self.tasks.append(task)

    def norms(self) -> list[TaskNorm]:
        """Every norm of the backbone."""
        return [module for module in self.backbone.modules() if isinstance(module, TaskNorm)]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The backbone's parameters that all tasks use."""
        own = {id(p) for norm in self.norms() for p in norm.parameters()}
        return [p for p in self.backbone.parameters() if id(p) not in own]

    def own_parameters(self, task: int) -> list[nn.Parameter]:
        """Parameters that ``task`` alone uses: its head and norm state."""
        norms = (p for norm in self.norms() for p in norm.of(task).parameters())
        return [*self.heads[str(task)].parameters(), *norms]

    def task_parameters(self, task: int) -> list[nn.Parameter]:
        """What training ``task`` may change."""
        return [*self.shared_parameters(), *self.own_parameters(task)]

    def task_buffers(self, task: int) -> list[Tensor]:
        """Buffers that ``task`` alone uses: running statistics."""
        return [buffer for norm in self.norms() for buffer in norm.of(task).buffers()]

    def end_task(self, task: int) -> None:
        """End all training of what ``task`` alone uses."""
        for parameter in self.own_parameters(task):
            parameter.requires_grad_(False)
            parameter.grad = None

    def keep(self) -> Any:
        """Everything as it is now, for :meth:`go_back`."""
        return copy.deepcopy(self.__dict__)

    def go_back(self, kept: Any) -> None:
        """Be what :meth:`keep` kept."""
        self.__dict__.update(kept)

    def compute(self, x: Tensor, task: int) -> Tensor:
        """Features [batch, d] of ``task``, whose norm state is chosen already."""
        return self.backbone(x)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Logits of one task. A single sample has no variance: then the running statistics are used."""
        for norm in self.norms():
            norm.task = task_label
        with self._running_statistics(task_label, len(x) == 1):
            features = self.compute(x, task_label)
        return self.heads[str(task_label)](features)

    def forward(self, x: Tensor, task_labels: Tensor | int | None) -> Tensor | dict[int, Tensor]:
        """Logits for one task, for samples of several, or, for None, of every task.

        A task with fewer classes than another in the batch gets the lowest finite logit for the rest, which
        takes no part in a softmax.
        """
        if task_labels is None:
            return self.forward_all_tasks(x)
        if isinstance(task_labels, int):
            return self.forward_single_task(x, task_labels)
        present = task_labels.unique().tolist()
        if len(present) == 1:
            return self.forward_single_task(x, present[0])
        rows = [task_labels.eq(task).nonzero().flatten() for task in present]
        parts = [self.forward_single_task(x[row], task) for row, task in zip(rows, present, strict=True)]
        widest = max(part.shape[1] for part in parts)
        lowest = torch.finfo(parts[0].dtype).min
        parts = [nn.functional.pad(part, (0, widest - part.shape[1]), value=lowest) for part in parts]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def forward_all_tasks(self, x: Tensor) -> dict[int, Tensor]:
        """Logits of each task. While training, the one being learnt is left out and the others use their
        running statistics: x is not theirs."""
        tasks = self.tasks[:-1] if self.training else self.tasks
        if not self.norms():
            features = self.backbone(x)
            return {task: self.heads[str(task)](features) for task in tasks}
        logits = {}
        for task in tasks:
            with self._running_statistics(task, True):
                logits[task] = self.forward_single_task(x, task)
        return logits

    @contextmanager
    def _running_statistics(self, task: int, wanted: bool) -> Iterator[None]:
        training = [norm.of(task) for norm in self.norms() if wanted and norm.of(task).training]
        for norm in training:
            norm.eval()
        yield
        for norm in training:
            norm.train()
