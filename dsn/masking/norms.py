"""Norm state a task: running statistics and affine parameters that no other task reads or writes."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .kinds import norm_kind
from .records import OfTasks


class TaskNorm(nn.Module):
    """A batch, layer or group norm with one copy a task, started from the wrapped model's own.

    ``task`` chooses the copy that :meth:`forward` uses; None is the wrapped model's own norm. That and the
    copies of frozen tasks compute in evaluation mode, whatever the mode of the model: their running
    statistics never move.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.training = original.training  # of the wrapped model: unmask() puts it back
        self.original = original.requires_grad_(False).eval()
        self.tasks = OfTasks()
        self.task: int | None = None

    def freeze(self, task: int) -> None:
        """End all change of the copy of ``task``."""
        self.tasks.close(str(task))

    def thaw(self, task: int) -> None:
        """Undo :meth:`freeze`."""
        self.tasks.reopen(str(task))

    def train(self, mode: bool = True) -> "TaskNorm":
        super().train(mode)
        self.original.eval()
        return self

    @property
    def mixes_neurons(self) -> bool:
        """Whether one neuron's output depends on the others': true for layer and group norm."""
        return norm_kind(self.original).mixes_neurons

    def add_task(self, task: int) -> None:
        """Give ``task`` its own copy of the wrapped model's norm."""
        self.tasks[str(task)] = copy.deepcopy(self.original).requires_grad_(True).train(self.training)

    def drop_task(self, task: int) -> None:
        """Undo :meth:`add_task`, if it was called."""
        if str(task) in self.tasks:
            del self.tasks[str(task)]
        self.task = None

    def of(self, task: int | None) -> nn.Module:
        """The norm that ``task`` uses."""
        return self.original if task is None else self.tasks[str(task)]

    def forward(self, x: Tensor) -> Tensor:
        return self.of(self.task)(x)

    @torch.no_grad()
    def grow(self, by: int) -> None:
        """Make the wrapped model's own norm wider by ``by`` neurons; the tasks' copies stay as they are."""
        norm = self.original
        norm_kind(norm).widen(norm, by)
        fill = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        for name, value in fill.items():
            old = getattr(norm, name, None)
            if old is None:
                continue
            wider = torch.cat([old, old.new_full((by, *old.shape[1:]), value)])
            if isinstance(old, nn.Parameter):
                setattr(norm, name, nn.Parameter(wider, requires_grad=False))
            else:
                setattr(norm, name, wider)

    def take_structure(self, task: int, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        """Make room for the norm of ``task`` that ``state_dict`` holds, as wide as it is there."""
        self.add_task(task)
        norm = self.of(task)
        for name, own in [*norm.named_parameters(), *norm.named_buffers()]:
            stored = state_dict.get(f"{prefix}tasks.{task}.{name}")
            if stored is None or stored.shape == own.shape:
                continue
            fitting = own.new_zeros(stored.shape)
            setattr(norm, name, nn.Parameter(fitting) if isinstance(own, nn.Parameter) else fitting)
        self.fit(norm)

    def fit(self, norm: nn.Module) -> None:
        """Say in the attributes of a copy how wide its parameters are."""
        norm_kind(norm).fit(norm)
