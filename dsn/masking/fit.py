"""Whether a stored state fits a model: if not, the first difference is named and nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from .model import MaskedModel

_OF_TASKS = re.compile(
    r"task_ids|(heads|records|laterals|edges\.layers)\..*|gates\.[^.]+\.(masks|commit_widths|logits)|backbone\..*\.tasks\..*"
)


def refuse_unfit(model: MaskedModel, state: Mapping[str, Tensor]) -> None:
    """Raise InputError, with the first difference, unless ``state`` is that of a model of this backbone.

    Tasks may be others, and layers may have grown there.
    """
    own = {key: value for key, value in model.state_dict().items() if not _OF_TASKS.fullmatch(key)}
    stored = {key: value for key, value in state.items() if not _OF_TASKS.fullmatch(key)}
    for path in model.gates_by_path:
        if f"backbone.{path}.weight" not in stored:
            raise InputError(f"the stored model has no layer '{path}', this one has")
    for key in own:
        if key not in stored:
            raise InputError(f"the stored model has no '{key}', this one has")
    for key in stored:
        if key not in own:
            raise InputError(f"the stored model has '{key}', this one has not")
    grown = _grown(model, state)
    for key, value in own.items():
        there = stored[key]
        fits = there.dim() == value.dim() if grown else there.shape == value.shape
        if not fits or any(a < b for a, b in zip(there.shape, value.shape, strict=True)):
            shapes = f"{list(there.shape)}, here {list(value.shape)}"
            raise InputError(f"the stored model's '{key}' has the shape {shapes}")
        if there.dtype != value.dtype:
            raise InputError(f"the stored model's '{key}' is {there.dtype}, here {value.dtype}")
    _refuse_other_tasks(model, state)


def _grown(model: MaskedModel, state: Mapping[str, Tensor]) -> bool:
    """Whether a layer is wider there, and was as wide as here at its first commit."""
    for path, layer in model.layer_modules():
        there = state[f"backbone.{path}.weight"]
        widths = state.get(f"gates.{path.replace('.', '/')}.commit_widths")
        if there.dim() == layer.weight.dim() and there.shape[0] > layer.weight.shape[0]:
            return widths is not None and len(widths) > 0 and int(widths[0]) == layer.weight.shape[0]
    return False


def _refuse_other_tasks(model: MaskedModel, state: Mapping[str, Tensor]) -> None:
    """Every task needs a head, and every layer as many masks as there are committed tasks."""
    if "task_ids" not in state:
        raise InputError("the stored model has no 'task_ids', this one has")
    tasks = [int(task) for task in state["task_ids"]]
    counts = {}
    for path in model.gates_by_path:
        prefix = f"gates.{path.replace('.', '/')}"
        for name in (f"{prefix}.masks", f"{prefix}.commit_widths"):
            if name not in state:
                raise InputError(f"the stored model has no '{name}', this one has")
            counts[name] = len(state[name])
    if len(set(counts.values())) > 1 or max(counts.values()) not in (len(tasks), len(tasks) - 1):
        raise InputError(f"the stored model has tasks {tasks}, but masks {counts}")
    for task in tasks:
        for name in (f"heads.{task}.weight", f"heads.{task}.bias"):
            if name not in state:
                raise InputError(f"the stored model has no '{name}', which task {task} needs")
