"""What a backbone's modules keep of one pass for the next is emptied before each pass.

LeViT keeps its attention biases in evaluation mode until it is trained again; a position embedding may be
kept as it was last interpolated. In a masked model that would be what another task has computed, or this one
before it learnt on. So every attribute of a module that a first pass has set is put back before each pass to
what it was before that one. Where what is kept changes what is computed, it is no cache, and ``layers``
refuses it.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from .norms import TaskNorm

TORCHS = frozenset(vars(nn.Module()))  # attributes of every module: parameters, hooks, the mode


class NOTHING:
    """An attribute that was not there."""


class Caches:
    """The caches of ``backbone``; made before its first pass, :meth:`guard` is called after some."""

    def __init__(self, backbone: nn.Module) -> None:
        modes = [(module, module.training) for module in backbone.modules()]
        backbone.train()  # as a rule that empties what was kept earlier
        backbone.eval()
        self._before = [(path, module, _kept(module)) for path, module in backbone.named_modules()]
        for module, mode in modes:
            module.training = mode
        self.found: list[tuple[str, str, Any]] = []
        """module, attribute and what it was before the first pass, :data:`NOTHING` where it was not there"""

    def guard(self, backbone: nn.Module) -> bool:
        """Empty them now and before each pass from now on; returns whether there are any."""
        for path, module, before in self._before:
            after = _kept(module)
            for name in [*before, *(name for name in after if name not in before)]:
                old = before.get(name, NOTHING)
                if not _same(old, after.get(name, NOTHING)):
                    self.found.append((path, name, old))
                    _put(module, name, old)
        self._before = []
        if self.found:
            backbone.register_forward_pre_hook(self._empty)
        return bool(self.found)

    def _empty(self, backbone: nn.Module, _args: Any = None) -> None:
        for path, name, old in self.found:
            _put(_module(backbone, path), name, old)

    def leave(self, backbone: nn.Module) -> None:
        """Empty ``backbone``, the guarded one or a copy of it, for the last time."""
        self._empty(backbone)
        hooks = backbone._forward_pre_hooks
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), Caches):
                del hooks[key]


def _kept(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes; containers and tensors as they are now."""
    if isinstance(module, TaskNorm):
        return {}
    return {name: _as_now(value) for name, value in vars(module).items() if name not in TORCHS}


def _as_now(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.copy(value) if isinstance(value, dict | list | set) else value


def _same(old: Any, new: Any) -> bool:
    if old is new or type(old) is not type(new):
        return old is new
    if isinstance(old, Tensor):
        return old.shape == new.shape and old.dtype == new.dtype and bool((old == new).all())
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    return isinstance(old, bool | int | float | str | set) and old == new


def _put(module: nn.Module, name: str, value: Any) -> None:
    if value is NOTHING:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = _as_now(value)


def _module(backbone: nn.Module, path: str) -> nn.Module:
    """The module that stood at ``path`` in the plain backbone; of copies, one a task, that in use."""
    module = backbone
    for part in filter(None, path.split(".")):
        module = module.get_submodule(part)
        if isinstance(module, TaskNorm):
            module = module.of(module.task)
    return module
