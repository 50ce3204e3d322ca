"""The classifier of a backbone, which waits aside while the tasks' own heads stand in for it."""

from __future__ import annotations

from torch import nn

from ..errors import InputError
from .kinds import LINEAR, is_layer, layer_kind


def take_head(backbone: nn.Module, path: str | None) -> nn.Module | None:
    """Put an Identity in the place of the head at ``path`` and return the head."""
    if path is None:
        return None
    try:
        head = backbone.get_submodule(path)
    except AttributeError:
        known = [name for name, module in backbone.named_modules() if _is_linear(module)]
        raise InputError(f"head='{path}' is not in the backbone; its Linear layers are {known}") from None
    if not _is_linear(head):
        raise InputError(f"head='{path}' is a {type(head).__name__}: name the Linear that gives the logits")
    backbone.set_submodule(path, nn.Identity())
    return head


def _is_linear(module: nn.Module) -> bool:
    return is_layer(module) and layer_kind(module) is LINEAR


def put_head(backbone: nn.Module, path: str | None, head: nn.Module | None) -> None:
    """Undo :func:`take_head`."""
    if path is not None and head is not None:
        backbone.set_submodule(path, head)
