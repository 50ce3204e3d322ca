"""One fresh dense network a task: nothing is shared, so nothing is forgotten and nothing is transferred."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..storage import Tree
from ..training import DSN
from ..training.random_states import put_random_states, take_random_states
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
        self.at_rest: Callable[[str], None] | None = None
        """as ``DSN.at_rest``"""
        self._learning: DSN | None = None

    @property
    def model(self) -> SeparateNetworks:
        """All networks."""
        return SeparateNetworks({str(task): member.model for task, member in self.members.items()})

    def train(self, experience: Any, eval_streams: Sequence[Any] = ()) -> None:
        """Learn the experience's task with a network of its own."""
        member = self._learning if self._learning is not None else self.make_strategy()
        self._learning, member.at_rest = member, self.at_rest
        try:
            member.train(experience, eval_streams=eval_streams)
            self.members[label_of(experience)] = member
        finally:
            self._learning = None

    def take_state(self) -> dict[str, Tree]:
        """As ``DSN.take_state``, of the members and of the one that is learning."""
        within = self._learning
        return {
            "members": {str(task): member.take_state() for task, member in self.members.items()},
            "within": None if within is None else within.take_state(),
            "random": take_random_states(self._device),
        }

    def put_state(self, state: Mapping[str, Tree]) -> None:
        """As ``DSN.put_state``."""
        self.members.clear()
        for task, inner in state["members"].items():
            self.members[int(task)] = self._restored(inner)
        self._learning = None if state["within"] is None else self._restored(state["within"])
        put_random_states(state["random"], self._device)

    def _restored(self, state: Mapping[str, Tree]) -> DSN:
        member = self.make_strategy()
        member.put_state(state)
        return member

    @property
    def _device(self) -> torch.device:
        known = [*self.members.values(), *([] if self._learning is None else [self._learning])]
        return known[0].device if known else torch.device("cpu")

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
        layers = next(iter(self.members.values())).model.layer_modules()
        return MemoryUse(per_task, backbone_bytes=bytes_of(layer.weight for _, layer in layers), used_bytes=0)
