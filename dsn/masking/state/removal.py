"""A committed task removed for good: what it had of its own is gone, what it alone trained is drawn anew.

A weight was *trained by* a task if it is one that the task computes with, and no task committed before it
needed it. Who computes with such a weight stands in the way of the removal: it cannot stay bit-identical
without it. What a task reads of the removed one's features (laterals) is no such thing: it is taken back, as
one change with all that was accepted together with it, and the reader answers by its own subnetwork again.

Shapes: W [n, d, ...] of a layer; blocks bool, broadcasting over W; rows bool [n].
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from ...errors import InputError
from ..bits import widened
from ..computes import Computes
from ..edges.owners import Owners
from ..kinds import layer_kind, per_neuron
from ..layers import evaluating
from ..reach import needed_inputs, read_inputs
from ..records import Lateral
from ..rehearsal import equal
from ..task_life import TaskLife
from .fingerprint import probe

Weights = dict[str, tuple[Tensor, Tensor]]
"""by layer path: which weights, broadcasting over W, and which biases, [n]"""


@dataclass(frozen=True)
class Removal:
    """What a removal took away.

    tasks: the removed ones, in the order of their commits
    unread: tasks that read features of these, and answer without them from now on
    redrawn: weights and biases that have values from the seed now
    shared: how many that the removed tasks trained are left, since the tasks that are left need them
    """

    tasks: list[int]
    unread: list[int] = field(default_factory=list)
    redrawn: int = 0
    shared: int = 0


def remove_task(
    model: TaskLife,
    task: int,
    *,
    cascade: bool = False,
    keep_shared: bool = False,
    seed: int = 0,
    bound: Iterable[tuple[int, int]] = (),
) -> Removal:
    """Remove the committed ``task``: mask, head, norm state, own tensors, bits of edges, record, laterals.

    Weights that no task which is left computes with get values from ``seed``, as a fresh layer has them (with
    edges: the initial values that the model's own seed gives). All other tasks keep their logits bit for bit,
    those excepted that read features of it; that is checked, and where it fails all is as before.

    Args:
        cascade: remove every task that stands in the way, too.
        keep_shared: leave the weights that others need, although the task trained them.
        bound: pairs (reader, source) of tasks that are known to depend on each other beyond what can be seen
            in the model: a transfer by ``gates`` gave the reader neurons of the source.

    Raises:
        InputError: a task that is not committed, or while one is learnt; others stand in the way: they are
            named, and what ``cascade`` would remove; with edges, ``keep_shared``.
    """
    if model.learning is not None:
        raise InputError(f"task {model.learning} is being learnt: forget before add_task or after commit")
    if task not in model.committed:
        raise InputError(f"task {task} is not in the model: it holds the tasks {model.committed}")
    if keep_shared and model.edges is not None:
        raise InputError(
            "keep_shared: with edges the masks say who owns a weight, so an owner cannot go alone"
        )
    with model.lock, torch.no_grad():
        gone = _gone(model, task, cascade, keep_shared, set(bound))
        _refuse_unknown_width(model, gone)
        kept = [t for t in model.committed if t not in gone]
        x = probe(model)
        before, state = _own_logits(model, x, kept), copy.deepcopy(model.state_dict())
        shared = _shared(model, gone, kept)
        unread = [t for t in kept if _take_back(model, t, gone)]
        _take_out(model, gone)
        redrawn = _redraw(model, seed)
        if not all(equal(one, before[t]) for t, one in _own_logits(model, x, kept).items()):
            model.load_state_dict(state)
            raise InputError(f"task {task} cannot be removed: other tasks would change; nothing was removed")
    return Removal(gone, unread, redrawn, shared)


def in_the_way(model: TaskLife, task: int) -> list[int]:
    """The committed tasks that compute with weights which ``task`` trained."""
    if model.edges is not None:
        return _reading_edges(model, task)
    mine = _trained(model, task)
    others = (other for other in model.committed if other != task)
    return [other for other in others if _count(_common(mine, _used_by(model, other)))]


def _gone(
    model: TaskLife, task: int, cascade: bool, keep_shared: bool, bound: Collection[tuple[int, int]]
) -> list[int]:
    """The tasks to remove. Raises InputError where that are more than may go."""
    gone, front = {task}, [task]
    direct: list[int] = []
    while front:
        source = front.pop()
        found = set() if keep_shared else set(in_the_way(model, source))
        found |= {reader for reader, giver in bound if giver == source and reader in model.committed}
        direct = direct or sorted(found, key=model.committed.index)
        front += sorted(found - gone)
        gone |= found
    if len(gone) > 1 and not cascade:
        others = [t for t in model.committed if t in gone and t != task]
        shares = model.edges is None and not keep_shared
        also = "; with keep_shared others keep the weights that they share with it" if shares else ""
        raise InputError(
            f"task {task} cannot be removed alone: {_named(direct, 'computes', 'compute')} with weights that "
            f"it trained; with cascade {_named(others, 'goes', 'go')} too{also}"
        )
    return [t for t in model.committed if t in gone]


def _named(tasks: list[int], one: str, several: str) -> str:
    names = ", ".join(map(str, tasks))
    return f"task {names} {one}" if len(tasks) == 1 else f"tasks {names} {several}"


def _refuse_unknown_width(model: TaskLife, gone: Collection[int]) -> None:
    """A state says by its first commit how wide the backbone was before it grew."""
    rows = [row for row, task in enumerate(model.committed) if task not in gone]
    for path, gate in model.gates_by_path.items():
        first = rows[0] if rows else None
        if gate.n != gate.widths[0] and (first is None or gate.widths[first] != gate.widths[0]):
            raise InputError(
                f"task {model.committed[0]} cannot be removed: the network has grown since its commit, and "
                f"no other task is left that knows how wide layer '{path}' was; it could not be loaded"
            )


# ---- who computes with what ------------------------------------------------------------------------------


def _used_by(model: Computes, *tasks: int) -> Weights:
    """What some of ``tasks`` compute with, without edges."""
    found: Weights = {}
    masks = [model.masks(task) for task in tasks]
    inputs = [read_inputs(model, mask) for mask in masks]
    for path, layer in model.layer_modules():
        n, kind = len(layer.weight), layer_kind(layer)
        rows = [widened(mask[path], n) for mask in masks]
        blocks = [kind.block(layer.weight, r, i[path]) for r, i in zip(rows, inputs, strict=True)]
        none = torch.zeros(n, dtype=torch.bool, device=layer.weight.device)
        block = torch.zeros_like(layer.weight, dtype=torch.bool)
        for one in blocks:
            block |= one
        found[path] = (block, torch.stack([none, *rows]).any(0))
    return found


def _trained(model: Computes, task: int) -> Weights:
    """What ``task`` computes with and no earlier task had to keep, without edges."""
    used, inputs = model.used(task), needed_inputs(model, task)
    found: Weights = {}
    for path, (block, rows) in _used_by(model, task).items():
        layer = model.layer(path)
        known = layer_kind(layer).block(layer.weight, used[path], inputs[path])
        found[path] = (block & ~known, rows & ~used[path])
    return found


def _common(one: Weights, other: Weights) -> Weights:
    return {path: (one[path][0] & other[path][0], one[path][1] & other[path][1]) for path in one}


def _count(weights: Weights) -> int:
    return sum(int(block.sum()) + int(rows.sum()) for block, rows in weights.values())


def _shared(model: TaskLife, gone: list[int], kept: list[int]) -> int:
    if model.edges is not None or not kept:
        return 0
    left = _used_by(model, *kept)
    return sum(_count(_common(_trained(model, task), left)) for task in gone)


def _reading_edges(model: TaskLife, task: int) -> list[int]:
    assert model.edges is not None
    later = model.committed[model.committed.index(task) + 1 :]
    shared = [path for path, edges in model.edges.by_path() if not edges.whole]
    rows = {path: Owners(model, path, task).own.nonzero().flatten() for path in shared}
    found = []
    for other in later:
        read = model.edges.read(model, other)
        if any(bool(read[path][rows[path]].any()) for path in shared):
            found.append(other)
    return found


# ---- the removal -----------------------------------------------------------------------------------------


def _own_logits(model: Computes, x: Tensor, tasks: list[int]) -> dict[int, Tensor]:
    with evaluating(model):
        return {task: model.heads[str(task)](model.features(x, task)) for task in tasks}


def _take_back(model: TaskLife, task: int, gone: Collection[int]) -> bool:
    """Take from ``task`` what it reads of ``gone``; whether there was anything.

    What it reads from before it was fitted as one; so was what a later task gave it, whose own part may be a
    head on the features of ``task`` alone: then the giver is not known, and any later one may have been it.
    """
    order = model.committed.index
    laterals = [cast(Lateral, lateral) for lateral in model.lateral_heads(task)]
    before = [one for one in laterals if order(one.source_task) < order(task)]
    given = [one for one in laterals if order(one.source_task) >= order(task)]
    anonymous = bool(given) and all(one.source_task == task for one in given)
    lost_before = any(one.source_task in gone for one in before)
    lost_given = any(one.source_task in gone for one in given)
    lost_given |= anonymous and any(order(t) > order(task) for t in gone)
    if lost_given:
        model.record(task).drop("closeness")
    elif lost_before and given:  # the first one calibrates the task's own logits
        given[0].scale.mul_(before[0].scale)
    left = [*([] if lost_before else before), *([] if lost_given else given)]
    heads = model.lateral_heads(task)
    del heads[:]
    heads.extend(left)
    return lost_before or lost_given


def _take_out(model: TaskLife, gone: list[int]) -> None:
    for task in gone:
        row = model.committed.index(task)
        for path, gate in model.gates_by_path.items():
            if model.edges is not None:  # later masks hold what it owns, too
                own = Owners(model, path, task).own
                for later in range(row + 1, len(gate.widths)):
                    mask = gate.mask(later)
                    mask[: len(own)] &= ~own[: len(mask)]
                    gate.replace(later, mask)
        for gate in model.gates_by_path.values():
            gate.remove(row)
            gate.values = None
        model.tasks.remove(task)
        for parts in model.belongings:
            del parts[str(task)]
        for norm in model.norms():
            norm.drop_task(task)
        if model.edges is not None:
            model.edges.drop(task)
    model.task_ids = torch.tensor(model.tasks, device=model.device, dtype=torch.long)
    model.narrow_columns.clear()
    model.select(None)


def _redraw(model: TaskLife, seed: int) -> int:
    """Give fresh values to what no committed task computes with; returns how many there are."""
    if model.edges is not None:
        used, count = model.used(), 0
        for path, layer in model.layer_modules():
            free = per_neuron(~used[path], layer.weight)
            layer.weight.copy_(torch.where(free, model.edges.initial(path, layer.weight), layer.weight))
            count += int((~used[path]).sum()) * layer.weight[0].numel()
        return count
    needed = _used_by(model, *model.committed)
    for path, layer in model.layer_modules():
        block, rows = needed[path]
        fresh = _fresh(model, path, seed)
        layer.weight.copy_(torch.where(block, layer.weight, fresh["weight"]))
        if layer.bias is not None:
            layer.bias.copy_(torch.where(rows, layer.bias, fresh["bias"]))
    return sum(p.numel() for _, layer in model.layer_modules() for p in layer.parameters()) - sum(
        int(needed[path][0].sum()) + (0 if layer.bias is None else int(needed[path][1].sum()))
        for path, layer in model.layer_modules()
    )


def _fresh(model: TaskLife, path: str, seed: int) -> Mapping[str, Tensor]:
    """Values as a fresh layer at ``path`` has them, the same on any machine: drawn on the CPU."""
    layer = copy.deepcopy(model.layer(path)).cpu()
    digest = hashlib.sha256(f"{seed} {path}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        layer_kind(layer).draw(layer)
    return {name: p.detach().to(model.device) for name, p in layer.named_parameters()}
