"""An optimizer whose parameters change with each task while its groups stay the user's.

A scheduler holds on to how many groups there are and to their options (torch's ``LambdaLR``, ``OneCycleLR``
and others refuse any other number), so none is ever added or replaced: only ``params`` changes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..masking.records import in_use

Options = list[dict[str, Any]]


def options_of(optimizer: Optimizer) -> Options:
    """The options of each group, without its parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


class ParameterGroups:
    """The groups of ``optimizer`` as they were made from the parameters of ``model``.

    A parameter that a task trains goes to the group where it was; a task's own copy of a norm to the group of
    the norm that it is a copy of; what else the task has of its own (head, gate logits) to the first.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module) -> None:
        self._optimizer, self._model = optimizer, model
        self.options = options_of(optimizer)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._place = {
            names[id(parameter)]: index
            for index, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
            if id(parameter) in names
        }

    def put_options(self, options: Options) -> None:
        """Set the options of each group, e.g. the learning rate to what it was."""
        for group, values in zip(self._optimizer.param_groups, options, strict=True):
            group.update(values)

    def fill(self, parameters: Iterable[nn.Parameter]) -> None:
        """Empty the optimizer and fill its groups with ``parameters``."""
        names = {
            id(parameter): f"{path}.{name}"
            for path, module in in_use(self._model)
            for name, parameter in module.named_parameters(recurse=False)
        }
        groups = self._optimizer.param_groups
        self._optimizer.state.clear()
        for group in groups:
            group["params"] = []
        for parameter in parameters:
            groups[self._index(names.get(id(parameter), ""))]["params"].append(parameter)

    def _index(self, name: str) -> int:
        parts = name.split(".")
        if "tasks" in parts:  # a norm's copy for a task: <norm>.tasks.<task>.<parameter>
            at = parts.index("tasks")
            parts[at : at + 2] = ["original"]
        return self._place.get(".".join(parts), 0)

    def remove(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take ``parameters`` out, with what the optimizer remembers of them."""
        gone = {id(parameter): parameter for parameter in parameters}
        for group in self._optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in gone]
        for parameter in gone.values():
            self._optimizer.state.pop(parameter, None)


class Undecayed:
    """Within ``with``, the parameters ``exempt`` take no weight decay, and ``factor`` times the learning
    rate: for one step they stand in groups of their own, which otherwise are copies of theirs."""

    def __init__(self, optimizer: Optimizer, exempt: Sequence[nn.Parameter], factor: float = 1.0) -> None:
        self._optimizer, self._factor = optimizer, factor
        self._exempt = {id(parameter) for parameter in exempt}

    def __enter__(self) -> None:
        self._groups = self._optimizer.param_groups
        self._copies: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._optimizer.param_groups = [part for group in self._groups for part in self._parts(group)]

    def _parts(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        differs = group.get("weight_decay") or self._factor != 1
        exempt = [p for p in group["params"] if id(p) in self._exempt] if differs else []
        if not exempt:
            return [group]
        others = [p for p in group["params"] if id(p) not in self._exempt]
        rest = {**group, "params": others}
        self._copies.append((group, rest))
        apart = {**group, "params": exempt, "lr": group["lr"] * self._factor}
        return [rest, apart | ({"weight_decay": 0.0} if "weight_decay" in group else {})]

    def __exit__(self, *_exception: object) -> None:
        self._optimizer.param_groups = self._groups
        for group, rest in self._copies:  # some optimizers count in their groups
            group.update((k, v) for k, v in rest.items() if k != "params")
