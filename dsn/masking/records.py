"""What a task keeps beside its mask: numbers about it, and what it has been given by later tasks."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
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


class OpenState(OrderedDict[str, Tensor]):
    """A destination of ``state_dict`` without what is closed: that is in ``closed``, by its prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: dict[str, nn.Module] = {}


class OfTasks(nn.ModuleDict):
    """One module a task, by its number: heads, records, laterals, copies of a norm.

    Those that are closed have done with training: they stay in evaluation mode, whatever the mode of the
    model, so that a change of mode, a copy or an optimizer need not go through all tasks; see :func:`in_use`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open: set[str] = set()

    def __setitem__(self, task: str, module: nn.Module) -> None:
        super().__setitem__(task, module)
        self._open.add(task)

    def __delitem__(self, task: str) -> None:
        super().__delitem__(task)
        self._open.discard(task)

    def close(self, task: str) -> None:
        """End the training of what ``task`` has, if it is there."""
        if task in self:
            self[task].requires_grad_(False).eval()
            self._open.discard(task)

    def reopen(self, task: str) -> None:
        """Undo :meth:`close`."""
        self[task].requires_grad_(True).train(self.training)
        self._open.add(task)

    def is_open(self, task: str) -> bool:
        """Whether what ``task`` has may still be trained."""
        return task in self._open

    def open_children(self) -> list[tuple[str, nn.Module]]:
        """Task and module of what is open."""
        return [(task, self[task]) for task in self._open]

    def train(self, mode: bool = True) -> "OfTasks":
        self.training = mode
        for _, module in self.open_children():
            module.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As ever; an :class:`OpenState` gets what is closed as modules."""
        destination = kwargs.get("destination")
        if not isinstance(destination, OpenState):
            return super().state_dict(*args, **kwargs)
        for task, module in self.items():
            prefix = f"{kwargs.get('prefix', '')}{task}."
            if self.is_open(task):
                module.state_dict(**{**kwargs, "prefix": prefix})
            else:
                destination.closed[prefix] = module
        return destination


def in_use(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """``module`` and its submodules, with their names, but for those of tasks that are closed."""
    yield name, module
    children = module.open_children() if isinstance(module, OfTasks) else module.named_children()
    for own, child in children:
        yield from in_use(child, f"{name}.{own}" if name else own)


class Counting(nn.Module):
    """Counts its changes: what it has is replaced by other tensors and modules, and never written.

    So one number says whether all that is in it is what it was.
    """

    changes = 0

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.changes += 1
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.changes += 1
        return super()._apply(*args, **kwargs)


class TaskRecord(Counting):
    """Named tensors of one task, part of the model's state: activation statistics, accuracies and such."""

    def put(self, name: str, value: Tensor) -> None:
        """Keep ``value`` under ``name``; what stood there is replaced."""
        self.drop(name)
        self.register_buffer(name, value.detach().clone())

    def get(self, name: str) -> Tensor | None:
        """The tensor kept under ``name``, or None."""
        return self._buffers.get(name)

    def drop(self, name: str) -> None:
        """Forget what is kept under ``name``, if anything is."""
        self.changes += 1
        self._buffers.pop(name, None)

    def clear(self) -> None:
        """Forget everything."""
        self.changes += 1
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


class Laterals(Counting, nn.ModuleList):
    """All that a task reads, in the order it was accepted."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        self.changes += 1
        super().add_module(name, module)

    def insert(self, index: int, module: nn.Module) -> None:
        self.changes += 1
        super().insert(index, module)

    def __setitem__(self, index: int, module: nn.Module) -> None:
        self.changes += 1
        super().__setitem__(index, module)

    def __delitem__(self, index: int | slice) -> None:
        self.changes += 1
        super().__delitem__(index)
