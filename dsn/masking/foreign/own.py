"""A task's own tensors: parameters of modules that have no neurons to mask, as a class token or a PReLU.

A module without layers and norms inside is copied whole, one copy a task, and lives as a norm does
(``norms.py``). A parameter beside layers, in a block or in the network itself, is one tensor a task: torch's
parametrization asks for it wherever the backbone's code reads it. So state, task files, fingerprints and
bytes a task hold them as they hold norms. What these give is live whatever is masked (``reach``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import InputError
from ..kinds import is_depthwise, is_layer, is_norm
from ..norms import TaskNorm

MOST = 0.5  # of a backbone's numbers, the share that a task may have copies of


class OwnModule(TaskNorm):
    """A module that has no neurons to mask, with one copy a task."""

    @property
    def mixes_neurons(self) -> bool:
        """It follows no layer's mask."""
        return False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.of(self.task)(*args, **kwargs)

    @torch.no_grad()
    def grow(self, by: int) -> None:
        """Give the wrapped model's own depthwise convolution ``by`` channels more; others never change."""
        convolution = self.original
        assert is_depthwise(convolution)
        more = copy.deepcopy(convolution)
        more.weight = nn.Parameter(convolution.weight.new_empty(by, *convolution.weight.shape[1:]))
        if convolution.bias is not None:
            more.bias = nn.Parameter(convolution.bias.new_empty(by))
        more.reset_parameters()
        for name, fresh in more.named_parameters():
            wider = torch.cat([convolution.get_parameter(name), fresh])
            setattr(convolution, name, nn.Parameter(wider, requires_grad=False))
        self.fit(convolution)

    def fit(self, norm: nn.Module) -> None:
        if is_depthwise(norm):
            norm.in_channels = norm.out_channels = norm.groups = len(norm.weight)


class OwnTensor(OwnModule):
    """One parameter of a module, with one copy a task: a parametrization that gives the task's."""

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__(_Held(value))


class _Held(nn.Module):
    """Gives its tensor, whatever it is asked."""

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())

    def forward(self, _original: Tensor) -> Tensor:
        return self.value


def give_to_tasks(backbone: nn.Module, example_input: Tensor) -> None:
    """Put an :class:`OwnModule` in the place of each module that has no neurons to mask but state of its own,
    and an :class:`OwnTensor` over each parameter that stands beside layers.

    Raises:
        InputError: where these are most of the backbone, so that each task would have a copy of nearly all.
    """
    whole, beside = list(_whole(backbone, _moving(backbone, example_input))), list(_beside(backbone))
    own = [p for _, module in whole for p in module.parameters()]
    own += [module.get_parameter(name) for _, module, name in beside]
    numbers, of = sum(p.numel() for p in own), sum(p.numel() for p in backbone.parameters())
    if numbers > MOST * of:
        kinds = sorted(
            {type(module).__name__ for _, module in whole} | {type(m).__name__ for _, m, _ in beside}
        )
        raise InputError(
            f"{numbers} of the backbone's {of} numbers belong to modules that have no neurons to mask "
            f"({', '.join(kinds)}), and every task would have a copy of them: build it of Linear, Conv1d, "
            "Conv2d and norms for the most part"
        )
    for path, module in whole:
        if not path:
            raise InputError("the backbone has no Linear, Conv1d or Conv2d layer without groups to mask")
        backbone.set_submodule(path, OwnModule(module))
    for _, module, name in beside:
        parameter = module.get_parameter(name)
        parametrize.register_parametrization(module, name, OwnTensor(parameter), unsafe=True)
        module.parametrizations[name].original.requires_grad_(False)  # type: ignore[union-attr, index]


def bake_in(backbone: nn.Module) -> None:
    """Make a plain parameter of what each :class:`OwnTensor`, or what stands in for it, gives now.

    By hand: a copy shares its class with the original, which torch's ``remove_parametrizations`` changes.
    """
    for module in list(backbone.modules()):
        if parametrize.is_parametrized(module):
            values = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value.detach().clone()))


def _whole(backbone: nn.Module, moving: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of the modules that are copied whole, outermost ones."""
    taken: list[str] = []
    for path, module in backbone.named_modules():
        if is_norm(module) or any(path.startswith(f"{t}.") for t in taken):
            continue
        state = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        holds = any(isinstance(t, nn.Parameter) or id(t) in moving for t in state)
        if holds and not any(is_layer(m) or is_norm(m) for m in module.modules()):
            taken.append(path)
            yield path, module


def _beside(backbone: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(path, module, name) of the parameters of modules that have layers or norms inside."""
    for path, module in backbone.named_modules():
        if is_layer(module) or is_norm(module):
            continue
        if any(is_layer(m) or is_norm(m) for m in module.modules()):
            for name, _ in module.named_parameters(recurse=False):
                yield path, module, name


def _moving(backbone: nn.Module, example_input: Tensor) -> set[int]:
    """The ids of the buffers, of modules that are no norms, that a pass in training mode changes."""
    buffers = {
        f"{path}.{name}" if path else name: buffer
        for path, module in backbone.named_modules()
        if not is_norm(module)
        for name, buffer in module.named_buffers(recurse=False)
    }
    if not buffers:
        return set()
    with (
        torch.random.fork_rng(devices=[example_input.device] if example_input.is_cuda else []),
        torch.no_grad(),
    ):
        torch.manual_seed(0)
        shape = (max(4, len(example_input)), *example_input.shape[1:])
        twin = copy.deepcopy(backbone).train()
        try:
            twin(torch.randn(shape).to(example_input) if example_input.is_floating_point() else example_input)
        except Exception:  # the rehearsal says so
            return set()
    after = dict(twin.named_buffers())
    return {id(b) for name, b in buffers.items() if not torch.equal(after[name].nan_to_num(), b.nan_to_num())}
