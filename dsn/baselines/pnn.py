"""Progressive networks (Rusu et al. 2016) of any backbone. Avalanche's PNN is an MLP of equal widths only.

Shapes: x [batch, ...]; features [batch, d] of one column; logits [batch, classes of the task].
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..masking.caches import Caches
from ..masking.kinds import is_layer, layer_kind
from .network import Backbone, feature_size, headless
from .strategy import Baseline


class Column(nn.Module):
    """A backbone for one task; each of its layers but the first also reads, through lateral weights, what the
    same layer of every earlier column reads (eq. 1 of the paper, without its non-linear adapters)."""

    def __init__(self, backbone: nn.Module, earlier: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.laterals = nn.ModuleDict()
        self.inputs: dict[str, Tensor] = {}  # of each layer by path, in the last forward pass
        self._before: list[Column] = []
        layers = [(path, module) for path, module in backbone.named_modules() if is_layer(module)]
        for index, (path, layer) in enumerate(layers):
            layer.register_forward_pre_hook(self._keep_input(path))
            if index and earlier:
                self.laterals[path.replace(".", "/")] = lateral(layer, earlier)
                layer.register_forward_hook(self._add_lateral(path))

    def forward(self, x: Tensor, before: list["Column"]) -> Tensor:
        """Features [batch, d]; the earlier columns, ``before``, must have seen the same x."""
        self._before = before
        return self.backbone(x)

    def forget_inputs(self) -> None:
        """Let go of the inputs of the last pass."""
        self.inputs, self._before = {}, []

    def _keep_input(self, path: str) -> Any:
        def keep(_layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.inputs[path] = args[0]

        return keep

    def _add_lateral(self, path: str) -> Any:
        def add(layer: nn.Module, _args: Any, output: Tensor) -> Tensor:
            inputs = torch.cat([column.inputs[path] for column in self._before], layer_kind(layer).neuron_dim)
            return output + self.laterals[path.replace(".", "/")](inputs)

        return add


def lateral(layer: nn.Module, columns: int) -> nn.Module:
    """A layer like ``layer`` without bias, for the inputs of ``columns`` such layers side by side."""
    kind = layer_kind(layer)
    made: nn.Module = kind.like(layer, columns * kind.inputs(layer), kind.neurons(layer), bias=False)
    return made


class ProgressiveNetwork(nn.Module):
    """A column a task. The head of a task reads the features of its own and all earlier columns.

    Args: ``make_backbone`` returns a fresh backbone and the path of its head.
    """

    def __init__(self, make_backbone: Callable[[], Backbone], input_shape: torch.Size) -> None:
        super().__init__()
        self.make_backbone, self.input_shape = make_backbone, input_shape
        self.columns = nn.ModuleList()
        self.heads = nn.ModuleList()
        self.tasks: list[int] = []

    def add_task(self, num_classes: int, task: int) -> None:
        """Add a column and a head."""
        backbone = headless(*self.make_backbone())
        caches = Caches(backbone)
        size = feature_size(backbone, self.input_shape)
        caches.guard(backbone)
        self.columns.append(Column(backbone, len(self.columns)))
        self.heads.append(nn.Linear(size * len(self.columns), num_classes))
        self.tasks.append(task)

    def keep(self) -> int:
        """How many tasks there are: a task changes nothing of earlier ones."""
        return len(self.tasks)

    def go_back(self, kept: int) -> None:
        """Drop the tasks behind the first ``kept``."""
        del self.columns[kept:], self.heads[kept:], self.tasks[kept:]

    def own_parameters(self, task: int) -> list[nn.Parameter]:
        """Those of its column and head: nothing is shared."""
        row = self.tasks.index(task)
        return [*self.columns[row].parameters(), *self.heads[row].parameters()]

    task_parameters = own_parameters

    def task_buffers(self, task: int) -> list[Tensor]:
        """The running statistics of its column."""
        return list(self.columns[self.tasks.index(task)].buffers())

    def end_task(self, task: int) -> None:
        """The column never learns again."""
        for parameter in self.own_parameters(task):
            parameter.requires_grad_(False)
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Training mode for the newest column; earlier ones always evaluate."""
        super().train(mode)
        for column in self.columns[:-1]:
            column.eval()
        return self

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Logits of ``task``."""
        row = self.tasks.index(task)
        columns: list[Any] = list(self.columns[: row + 1])
        features = [column(x, columns[:index]) for index, column in enumerate(columns)]
        for column in columns:
            column.forget_inputs()
        return self.heads[row](torch.cat(features, 1))


class PNN(Baseline):
    """Progressive networks: a column and lateral weights a task, earlier columns fixed."""

    def used_weights(self) -> list[Tensor]:
        """None of one backbone: each task has a column of its own."""
        column = self.model.columns[0].backbone
        layers = [module for module in column.modules() if is_layer(module)]
        return [torch.zeros_like(layer.weight, dtype=torch.bool) for layer in layers]
