"""Growth: new neurons for layers that have run out of free ones.

Committed tasks go on computing with the weights exactly as wide as at their commit: a wider matrix would sum
in another order, and the last bits of their logits would change.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..kinds import Maskable, layer_kind, norm_kind
from ..norms import TaskNorm
from ..reach import coupled_layers, inputs_known_at, laid_out, true_size
from ..rehearsal import apart, copied, equal, eval_logits, refuse_forgetting, samples
from ..task_life import TaskLife


@torch.no_grad()
def grow(model: TaskLife, by: int, below: int = 1) -> dict[str, int]:
    """Add ``by`` neurons to each layer with fewer than ``below`` free ones, and to those it is summed with.

    ``by`` is rounded up to whole groups where a group norm follows. Returns the layers that grew and by how
    many neurons. Every committed task's logits stay bit-identical: that is tried on a copy first (unless the
    model was wrapped with ``rehearse=False``), and layers whose width the backbone's code fixes stay as they
    are, with a warning.

    Raises:
        InputError: while a task is being learnt, for ``by`` < 1, or where none of the layers can grow.
    """
    if model.learning is not None:
        raise InputError(f"task {model.learning} is being learnt: grow before add_task or after commit")
    if by < 1:
        raise InputError(f"growth by {by} neurons: give at least 1")
    short = {
        path
        for path, used in model.used().items()
        if int((~used).sum()) < below and (path in model.fresh or not model.pretrained)
    }
    wanted: list[dict[str, int]] = []
    for group in coupled_layers(model):
        if short & set(group):
            multiple = math.lcm(*(_norm_groups(model, path) for path in group))
            wanted.append(dict.fromkeys(group, -(-by // multiple) * multiple))
    grown = _possible(model, wanted) if model.rehearse else _joined(wanted)
    if grown:
        with model.lock:
            widen(model, grown)
    return grown


def _joined(groups: list[dict[str, int]]) -> dict[str, int]:
    return {path: by for group in groups for path, by in group.items()}


def _possible(model: TaskLife, wanted: list[dict[str, int]]) -> dict[str, int]:
    """The groups that can grow together: all, or those that a trial of one after the other shows."""
    if not wanted or _failure(model, _joined(wanted)) is None:
        return _joined(wanted)
    failures: dict[str, str] = {}
    grown: dict[str, int] = {}
    for group in wanted:
        why = _failure(model, grown | group)
        if why is None:
            grown |= group
        else:
            failures |= dict.fromkeys(group, why)
    names = ", ".join(f"'{path}'" for path in failures)
    message = f"{names} cannot grow, the backbone's code needs their width: {next(iter(failures.values()))}"
    if not grown:
        raise InputError(f"{message}; widen another layer, or write the code for any width")
    warnings.warn(message, stacklevel=3)
    return grown


def _failure(model: TaskLife, extra: Mapping[str, int]) -> str | None:
    """Why the model cannot grow by ``extra``, tried on a copy; None where it can."""
    with apart(model):
        trial = copied(model)
        x = samples(trial, true_size(trial))
        before = {task: eval_logits(trial, x, task) for task in trial.committed}
        try:
            widen(trial, extra)
            changed = [
                task for task, logits in before.items() if not equal(eval_logits(trial, x, task), logits)
            ]
            if changed:
                return f"the logits of task {changed[0]} would change"
            refuse_forgetting(trial)
        except Exception as error:  # the backbone's own code, at another width
            return f"{type(error).__name__}: {error}"
    return None


def _norm_groups(model: TaskLife, path: str) -> int:
    norm = model.mask_module(path)
    return norm_kind(norm.original).multiple(norm.original) if isinstance(norm, TaskNorm) else 1


@torch.no_grad()
def widen(model: TaskLife, extra: Mapping[str, int]) -> None:
    """Add so many neurons to each layer in ``extra``, and the inputs that they become to what reads them.

    What a pretrained neuron reads of them begins at 0.
    """
    old = model.layers
    model.narrow_columns.clear()
    for path, by in extra.items():
        layer = model.layer(path)
        _resize(layer, (old[path] + by, *layer.weight.shape[1:]), rows=old[path])
        model.gates_by_path[path].grow(by)
        norm = model.mask_module(path)
        if isinstance(norm, TaskNorm):
            norm.grow(by)
    for follower in model.followers:
        for place in {follower.path, follower.site} if follower.leader in extra else ():
            cast(TaskNorm, model.backbone.get_submodule(place)).grow(extra[follower.leader])
    columns = inputs_known_at(model, old)
    for path, layer in model.layer_modules():
        if columns[path].numel() != layer.weight.shape[1]:
            shape = (layer.weight.shape[0], columns[path].numel(), *layer.weight.shape[2:])
            _resize(layer, shape, columns=columns[path])
            layer.weight[: model.gates_by_path[path].kept_neurons, ~columns[path]] = 0
    if model.edges is not None:
        model.edges.fill(model, old, columns)


def adopt_widths(model: TaskLife, state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Grow the layers of ``model`` to the sizes in ``state_dict``, so that it can be loaded."""
    extra = {}
    for path, layer in model.layer_modules():
        stored = state_dict.get(f"{prefix}backbone.{path}.weight")
        committed = state_dict.get(f"{prefix}gates.{path.replace('.', '/')}.commit_widths")
        if stored is None or committed is None or stored.dim() != layer.weight.dim():
            continue
        by = stored.shape[0] - layer.weight.shape[0]
        if by > 0 and len(committed) and int(committed[0]) == layer.weight.shape[0]:
            extra[path] = by
    if extra:
        widen(model, extra)


def _resize(
    layer: Maskable, shape: tuple[int, ...], rows: int | None = None, columns: Tensor | None = None
) -> None:
    """Give ``layer`` a fresh weight of ``shape``, the old one in its first ``rows`` or its ``columns``."""
    old, bias = layer.weight, layer.bias
    kind = layer_kind(layer)
    kind.set_widths(layer, inputs=shape[1], outputs=shape[0])
    layer.weight = nn.Parameter(old.new_empty(shape))
    if bias is not None:
        layer.bias = nn.Parameter(bias.new_empty(shape[0]))
    kind.draw(layer)
    if rows is not None:
        layer.weight[:rows] = old
    if columns is not None:
        layer.weight[:, columns] = old
    layer.weight.data = laid_out(layer.weight.data, old)
    if bias is not None and layer.bias is not None:
        layer.bias[: len(bias)] = bias
