"""Topology of a task's subnetwork: its paths, which of them can learn, and where it has no room.

Layers are dense between active neurons, so sums over neurons replace matrices: counting costs what reading
the masks costs. A weight is *plastic* for the task unless earlier tasks use both its ends; the network's
input counts as used, the task's head is its own. Shapes: masks [n] a layer; inputs [d] a layer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dsn.errors import InputError
from dsn.masking import MaskedModel
from dsn.masking.bits import widened
from dsn.masking.kinds import per_neuron

from .limits import most_log10_paths, most_nodes
from .measures import Taps, Topology, WeightTaps, arriving, as_log10, measure
from .wiring import INPUT, OUTPUT, Stage, Wire, Wiring, wiring_of

HEAD: Stage = ("the task's head", 0)


@dataclass(frozen=True)
class TaskTopology:
    """What a task's subnetwork looks like to path counting; every count is of it alone, its head included."""

    effective_nodes: int
    """input channels, active neurons and classes on a path from input to output"""
    effective_kernels: int
    effective_parameters: int
    """weights: taps of the effective kernels"""
    log10_paths: float | None
    """None where no path is left"""
    frozen_paths: float | None
    """share of the paths, through neurons of earlier tasks alone: every weight but the head's is fixed"""
    free_paths: float | None
    """share of the paths without any weight of earlier tasks"""
    plastic_edges: dict[str, int]
    """by layer path, the head's last: kernels that earlier tasks do not fix"""
    narrowest_layer: str
    narrowest_neurons: int
    collapsed: list[str]
    """layers with no neuron on a path, or left with one neuron of several"""
    saturated: list[str]
    """layers in which this task took the last free neuron"""
    most_nodes: int | None = None
    """at most so many could be effective with as many weights in each layer; None in older files"""
    most_log10_paths: float | None = None
    """the same of its paths"""


_MEASURED: WeakKeyDictionary[MaskedModel, dict[int, tuple[bytes, TaskTopology]]] = WeakKeyDictionary()


def task_topology(model: MaskedModel, task: int) -> TaskTopology:
    """The topology of the committed ``task``. Raises InputError where branches meet in a product.

    It is measured anew only where its mask, or one committed before it, has changed: a run asks for it when
    the task is learnt and at the end.
    """
    rows = model.committed.index(task) + 1
    bits = b"".join(gate.masks[:rows].cpu().numpy().tobytes() for gate in model.gates_by_path.values())
    measured = _MEASURED.setdefault(model, {})
    if task not in measured or measured[task][0] != bits:
        measured[task] = (bits, _measured(model, task))
    return measured[task][1]


def _measured(model: MaskedModel, task: int) -> TaskTopology:
    bits = model.masks(task)
    wiring = with_head(wiring_of(model), cast(nn.Linear, model.heads[str(task)]).out_features)
    masks, used = _wide(model, bits), _wide(model, model.used(before=task))
    if model.edges is not None:
        return _with_edges(model, task, wiring, masks, used)
    taps = {path: int(layer.weight[0, 0].numel()) for path, layer in model.layer_modules()}
    return subnetwork_topology(wiring, masks, used, taps, {path: len(mask) for path, mask in bits.items()})


def task_topologies(model: MaskedModel) -> dict[int, TaskTopology] | None:
    """By task, for every committed one; None where paths through the backbone cannot be counted."""
    try:
        return {task: task_topology(model, task) for task in model.committed}
    except InputError:
        return None


def with_head(wiring: Wiring, classes: int) -> Wiring:
    """``wiring`` of a backbone with a Linear of ``classes`` neurons behind its features."""
    neurons = torch.arange(classes)
    return Wiring(
        stages=[*wiring.stages, HEAD],
        widths=wiring.widths | {HEAD: classes},
        inputs=wiring.inputs | {HEAD: wiring.inputs[OUTPUT], OUTPUT: classes},
        links=wiring.links | {HEAD: wiring.links[OUTPUT], OUTPUT: [Wire(HEAD, neurons, neurons)]},
    )


def subnetwork_topology(
    wiring: Wiring,
    masks: dict[str, Tensor],
    used: dict[str, Tensor],
    taps: dict[str, int],
    room: Mapping[str, int],
) -> TaskTopology:
    """The topology of the subnetwork with these ``masks``, where earlier tasks use the neurons ``used``.

    Args:
        wiring: with a head (:func:`with_head`).
        taps: of a kernel, by layer path: 1 for a Linear.
        room: how many neurons each layer had when the task was committed.
    """
    head, classes = HEAD[0], wiring.widths[HEAD]
    masks = masks | {head: torch.ones(classes, dtype=torch.bool)}
    used = used | {head: torch.zeros(classes, dtype=torch.bool)}
    taps = taps | {head: 1}
    columns = {path: _reached(wiring, path, used) for path in masks}
    active = {path: _reached(wiring, path, masks) for path in masks}
    layers = {path: NeuronTaps(mask, len(columns[path]), taps[path]) for path, mask in masks.items()}
    whole = measure(wiring, layers)
    frozen = {path: Frozen(mask, taps[path], used[path], columns[path]) for path, mask in masks.items()}
    free = {path: Free(mask, taps[path], used[path], columns[path]) for path, mask in masks.items()}
    fixed = {path: (masks[path] & used[path]).sum() * (active[path] & columns[path]).sum() for path in masks}
    return _found(
        wiring,
        whole,
        taps,
        frozen=_share(_log_paths(wiring, frozen | {head: layers[head]}), whole),
        free=_share(_log_paths(wiring, free), whole),
        plastic={p: int(masks[p].sum() * active[p].sum() - fixed[p]) for p in masks},
        open_neurons={path: mask for path, mask in masks.items() if path != head},
        saturated=_saturated(masks, used, room),
        room=room,
    )


def _with_edges(
    model: MaskedModel, task: int, wiring: Wiring, masks: dict[str, Tensor], used: dict[str, Tensor]
) -> TaskTopology:
    """The same where a task has edges: those it reads are fixed, all others into neurons it owns are plastic.

    Of a layer that is wholly its own every weight is plastic. ``masks`` and ``used`` say who owns neurons.
    """
    assert model.edges is not None
    room = {path: len(mask) for path, mask in model.masks(task).items()}
    edges = {path: read.cpu() for path, read in model.edges.read(model, task).items()}
    own = {path: masks[path] & ~used[path] for path in masks}
    opened = _wide(model, model.open_neurons(task))
    own |= {path: opened[path] for path, layer in model.edges.by_path() if layer.whole}
    rows = {path: per_neuron(own[path], read) for path, read in edges.items()}
    head, classes = HEAD[0], wiring.widths[HEAD]
    everything = torch.ones(classes, wiring.inputs[HEAD], dtype=torch.bool)
    last = {head: WeightTaps(everything)}
    whole = measure(wiring, {path: WeightTaps(read) for path, read in edges.items()} | last)
    frozen = {path: WeightTaps(read & ~rows[path]) for path, read in edges.items()} | last
    free = {path: WeightTaps(read & rows[path]) for path, read in edges.items()} | last
    own[head] = torch.ones(classes, dtype=torch.bool)
    active = {path: _reached(wiring, path, opened) for path in own}
    return _found(
        wiring,
        whole,
        {path: int(read[0, 0].numel()) for path, read in edges.items()} | {head: 1},
        frozen=_share(_log_paths(wiring, frozen), whole),
        free=_share(_log_paths(wiring, free), whole),
        plastic={path: int(mask.sum() * active[path].sum()) for path, mask in own.items()},
        open_neurons=opened,
        saturated=_saturated(masks, used, room),
        room=room,
    )


def _saturated(masks: Mapping[str, Tensor], used: Mapping[str, Tensor], room: Mapping[str, int]) -> list[str]:
    """Layers in which the task took the last of the neurons that there were ``room`` for."""
    return [p for p in room if _full(used[p] | masks[p], room[p]) and not _full(used[p], room[p])]


def _found(
    wiring: Wiring,
    whole: Topology,
    taps: Mapping[str, int],
    *,
    frozen: float | None,
    free: float | None,
    plastic: dict[str, int],
    open_neurons: Mapping[str, Tensor],
    saturated: list[str],
    room: Mapping[str, int],
) -> TaskTopology:
    widths = {path: int(mask.sum()) for path, mask in open_neurons.items()}
    weights = {path: layer.effective_parameters for path, layer in whole.layers.items()}
    narrowest = min(widths, key=lambda path: widths[path])
    return TaskTopology(
        effective_nodes=whole.effective_nodes,
        effective_kernels=whole.effective_kernels,
        effective_parameters=whole.effective_parameters,
        log10_paths=whole.log10_paths,
        frozen_paths=frozen,
        free_paths=free,
        plastic_edges=plastic,
        narrowest_layer=narrowest,
        narrowest_neurons=widths[narrowest],
        collapsed=[p for p in widths if p in whole.collapsed or widths[p] < min(2, len(open_neurons[p]))],
        saturated=saturated,
        most_nodes=most_nodes(wiring, weights, room),
        most_log10_paths=most_log10_paths(wiring, weights, taps),
    )


class NeuronTaps:
    """All ``taps`` of every kernel between ``d`` inputs and the active neurons, bool [n].

    Inputs that no active neuron reaches carry no path.
    """

    def __init__(self, active: Tensor, d: int, taps: int) -> None:
        self.active, self.d, self.taps = active, d, taps

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.where(self.active, self.sum(inputs), -torch.inf)

    def backward(self, outputs: Tensor) -> Tensor:
        return self.sum(outputs[self.active]).expand(self.d)

    def count(self, inputs: Tensor, outputs: Tensor) -> tuple[int, int]:
        kernels = int((self.active & outputs).sum()) * int(inputs.sum())
        return kernels, kernels * self.taps

    def sum(self, logs: Tensor) -> Tensor:
        """log (taps * sum of exp(logs)), a scalar."""
        return logs.logsumexp(0) + math.log(self.taps)


class Frozen(NeuronTaps):
    """Those from used inputs, bool [d], to used neurons, bool [n]: earlier tasks fix them."""

    def __init__(self, active: Tensor, taps: int, used: Tensor, columns: Tensor) -> None:
        super().__init__(active, len(columns), taps)
        self.used, self.columns = used, columns

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.where(self.active & self.used, self.sum(inputs[self.columns]), -torch.inf)


class Free(Frozen):
    """The others: to a used neuron from inputs that are not used, to any other from all."""

    def forward(self, inputs: Tensor) -> Tensor:
        unused, everything = self.sum(inputs[~self.columns]), self.sum(inputs)
        return torch.where(self.active, torch.where(self.used, unused, everything), -torch.inf)


def _reached(wiring: Wiring, path: str, masks: Mapping[str, Tensor]) -> Tensor:
    """Bool [d]: the inputs of layer ``path`` that the network's input or a neuron in ``masks`` reaches."""
    stages = [stage for stage in wiring.stages if stage[0] == path]
    reached = torch.zeros(wiring.inputs[stages[0]], dtype=torch.bool)
    for link in (link for stage in stages for link in wiring.links[stage]):
        on = link.source == INPUT or masks[link.source[0]][link.neurons]
        reached[link.columns] |= on
    return reached


def _log_paths(wiring: Wiring, taps: Mapping[str, Taps]) -> float:
    forward = {INPUT: torch.zeros(wiring.widths[INPUT], dtype=torch.float64)}
    for stage in wiring.stages:
        forward[stage] = taps[stage[0]].forward(arriving(wiring, stage, forward))
    return float(arriving(wiring, OUTPUT, forward).logsumexp(0))


def _full(taken: Tensor, room: int) -> bool:
    return bool(taken[:room].all())


def _share(log_paths: float, whole: Topology) -> float | None:
    part = as_log10(log_paths)
    if whole.log10_paths is None:
        return None
    return 0.0 if part is None else 10 ** (part - whole.log10_paths)


def _wide(model: MaskedModel, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks on the CPU, [n] as the layers are now: neurons added since are not in them."""
    return {path: widened(mask.cpu(), model.layers[path]) for path, mask in masks.items()}
