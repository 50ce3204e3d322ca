"""One fresh dense network a task: nothing is shared, so nothing is forgotten and nothing is transferred."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..training import DSN
from .memory import MemoryUse, bytes_of
from .strategy import label_of


class SeparateNetworks(nn.ModuleDict):
    """The network of each task, called as one model."""

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Logits of ``task``."""
        return self[str(task)](x, task)


class Independent:
    """Trains and evaluates as an Avalanche strategy does; ``make_strategy`` returns a dense DSN."""

    def __init__(self, make_strategy: Callable[[], DSN]) -> None:
        self.make_strategy = make_strategy
        self.members: dict[int, DSN] = {}

    @property
    def model(self) -> SeparateNetworks:
        """All networks."""
        return SeparateNetworks({str(task): member.model for task, member in self.members.items()})

    def train(self, experience: Any, eval_streams: Sequence[Any] = ()) -> None:
        """Learn the experience's task with a network of its own."""
        member = self.make_strategy()
        member.train(experience, eval_streams=eval_streams)
        self.members[label_of(experience)] = member

    def eval(self, stream: Sequence[Any]) -> None:
        """Evaluate each experience with the network of its task."""
        for experience in stream:
            self.members[label_of(experience)].eval([experience])

    def memory(self) -> MemoryUse:
        """A whole network a task: none is the backbone that every other strategy has."""
        per_task = []
        for task, member in self.members.items():
            model = member.model
            weights = [p for _, layer in model.layer_modules() for p in layer.parameters()]
            own = [*model.own_parameters(task), *model.task_buffers(task)]
            per_task.append(bytes_of([*weights, *own]))
        return MemoryUse(per_task)
