"""What a masked backbone is made of: layers with gates, norms with a copy a task, and what each task has.

Shapes: masks [n] a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .annealing import Prices
from .caches import Caches
from .gates import Gate
from .kinds import Maskable, computes_plainly, is_norm, layer_kind
from .layers import Site
from .map import NetworkMap, Size
from .norms import TaskNorm
from .passes import PassLock
from .records import Follower, Laterals, OfTasks, TaskRecord


class Structure(nn.Module):
    """The base of :class:`dsn.masking.MaskedModel`; ``sites``: the layers of ``backbone`` that get a mask."""

    task_ids: Tensor

    def __init__(self, backbone: nn.Module, example_input: Tensor, sites: list[Site]) -> None:
        super().__init__()
        self.lock = PassLock()  # of the pass: select() and what computes after it
        self.backbone = backbone
        self.input_shape = (1, *example_input.shape[1:])
        self.size: Size  # reach: at which values are sent
        self.followers: list[Follower] = []
        self.caches: Caches | None = None  # where the backbone has any
        self._place_masks(sites)
        self.heads, self.records, self.laterals = OfTasks(), OfTasks(), OfTasks()
        self.register_buffer("task_ids", torch.zeros(0, dtype=torch.long))
        self.tasks: list[int] = []
        self.scale, self.s_max = 1.0, 400.0
        self.dense = False  # while True, the task being learnt uses every neuron
        self.narrow_columns: dict[int, dict[str, Tensor]] = {}  # growth.py: input columns of a task's layers
        self.network_map: NetworkMap | None = None  # reach.map_of
        self.mixes_samples = False  # reach.mapping: whether a sample's features depend on those beside it
        self._price: tuple[tuple[object, ...], Tensor] | None = None  # of this step's soft gates
        self._prices: Prices | None = None  # made anew when the free neurons are others
        self._compiled: Any = None
        self._flushes = False

    def _place_masks(self, sites: list[Site]) -> None:
        """Give each layer its gates and each norm a copy a task, and let the backbone's passes meet them."""
        self.norm_of: dict[str, str | None] = {site.path: site.norm for site in sites}
        self.map_sizes = {site.path: site.map_sizes for site in sites}  # height, width of a Conv's outputs
        # layers whose weight is not used as it stands: a row may mix its columns, so used rows are kept whole
        self.whole_rows = frozenset(site.path for site in sites if not computes_plainly(site.layer))
        self.gates = nn.ModuleDict()
        for site in sites:
            kind = layer_kind(site.layer)
            self.gates[site.path.replace(".", "/")] = Gate(kind.neurons(site.layer), kind.neuron_dim)
        self._gates: dict[str, Gate] = {key.replace("/", "."): g for key, g in self.gates.items()}  # type: ignore[misc]
        for path, module in list(self.backbone.named_modules()):
            if is_norm(module):
                self.backbone.set_submodule(path, TaskNorm(module))
        self.norms_by_path = {p: m for p, m in self.backbone.named_modules() if isinstance(m, TaskNorm)}
        self._hooks = self._register_hooks()

    def free_norm(self, path: str) -> None:
        """Put the mask of layer ``path`` at the layer itself; the norm behind it stands free from now on."""
        self.norm_of[path] = None
        self._hook_anew()

    def let_follow(self, followers: list[Follower]) -> None:
        """Multiply what ``followers`` give by the masks of their leaders from now on."""
        self.followers = [*self.followers, *followers]
        self._hook_anew()

    def _hook_anew(self) -> None:
        for handle in self._hooks:
            handle.remove()
        self._hooks = self._register_hooks()

    # ---- structure -------------------------------------------------------------------------------------

    @property
    def gates_by_path(self) -> dict[str, Gate]:
        """The gates of each masked layer, in forward order."""
        return self._gates

    @property
    def layers(self) -> dict[str, int]:
        """Neurons of each masked layer, in forward order."""
        return {path: gate.n for path, gate in self.gates_by_path.items()}

    @property
    def pretrained(self) -> bool:
        """Whether its backbone counts as a task before the first: shared by all, and never changed."""
        return any(gate.kept_neurons for gate in self._gates.values())

    @property
    def fresh(self) -> dict[str, int]:
        """Neurons beside those of a pretrained backbone, of each layer that has any."""
        counts = {path: gate.n - gate.kept_neurons for path, gate in self._gates.items() if gate.kept_neurons}
        return {path: count for path, count in counts.items() if count}

    def layer(self, path: str) -> Maskable:
        """The masked Linear or Conv at ``path``."""
        return cast(Maskable, self.backbone.get_submodule(path))

    def layer_modules(self) -> Iterator[tuple[str, Maskable]]:
        """(path, Linear or Conv) of each masked layer, in forward order."""
        return ((path, self.layer(path)) for path in self.gates_by_path)

    def mask_module(self, path: str) -> nn.Module:
        """The module whose output the mask of layer ``path`` multiplies: the layer or the norm behind it."""
        return self.backbone.get_submodule(self.norm_of[path] or path)

    def norms(self) -> Iterator[TaskNorm]:
        """Every norm of the backbone."""
        return iter(self.norms_by_path.values())

    @property
    def device(self) -> torch.device:
        """Where the backbone's weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As ever; on the device of the backbone all else is, too: there nothing is walked through."""
        device_alone = len(args) == 1 and not kwargs and isinstance(args[0], (str, torch.device))
        # an empty tensor knows which one "cuda" is
        if device_alone and torch.empty(0, device=args[0]).device == self.device:
            return self
        return super().to(*args, **kwargs)

    def _register_hooks(self) -> list[Any]:
        # layers whose gates multiply their weights in training: those on maps or tokens that no norm follows
        self._foldable = [
            path
            for path in self.gates_by_path
            if self._at_many_places(path) and self.norm_of[path] is None and path not in self.whole_rows
        ]
        handles = []
        for path, layer in self.layer_modules():
            gate, site = self.gates_by_path[path], self.mask_module(path)
            handles.append(site.register_forward_hook(gate.gate_output))
            if isinstance(site, TaskNorm) and site.mixes_neurons:
                # its statistics must not see neurons outside the mask
                handles.append(layer.register_forward_hook(gate.gate_output))
        for follower in self.followers:
            module, gate = self.backbone.get_submodule(follower.site), self.gates_by_path[follower.leader]
            handles.append(module.register_forward_hook(gate.gate_follower))
        return handles

    def _at_many_places(self, path: str) -> bool:
        """Whether a neuron of layer ``path`` is a map, or a number a token, in the recorded pass."""
        return layer_kind(self.layer(path)).on_maps or any(len(size) > 0 for size in self.map_sizes[path])

    def open_plainly(self) -> None:
        """Make the backbone compute as it stands: no gates, its own norms."""
        self._price = None
        for gate in self.gates_by_path.values():
            gate.values = None
        for norm in self.norms():
            norm.task = None

    # ---- tasks and their masks -----------------------------------------------------------------------------

    @property
    def committed(self) -> list[int]:
        """Tasks whose mask is committed, in the order of their commits."""
        return self.tasks[: self._commits]

    @property
    def learning(self) -> int | None:
        """The task that is added but not committed, if there is one."""
        return self.tasks[-1] if len(self.tasks) > self._commits else None

    @property
    def _commits(self) -> int:
        return len(next(iter(self._gates.values())).widths)

    def _row(self, task: int) -> int:
        if task not in self.committed:
            raise InputError(f"task {task} has no committed mask; committed tasks: {self.committed}")
        return self.committed.index(task)

    def masks(self, task: int) -> dict[str, Tensor]:
        """The committed mask of ``task``: bool [n] a layer, n as it was at the commit."""
        row = self._row(task)
        return {path: gate.mask(row) for path, gate in self.gates_by_path.items()}

    def open_neurons(self, task: int) -> dict[str, Tensor]:
        """What ``task`` computes with, bool [n] a layer: its mask; with edges also what nobody owned then."""
        row = self._row(task)
        return {path: gate.open_mask(row) for path, gate in self.gates_by_path.items()}

    def used(self, before: int | None = None) -> dict[str, Tensor]:
        """Used neurons, bool [n] a layer: the union of the masks committed (before task ``before``)."""
        rows = len(self.committed) if before is None else self.tasks.index(before)
        return {path: gate.used(rows) for path, gate in self.gates_by_path.items()}

    @property
    def belongings(self) -> tuple[OfTasks, ...]:
        """What each task has beside its mask and norms, by kind."""
        return self.heads, self.records, self.laterals

    def record(self, task: int) -> TaskRecord:
        """What ``task`` keeps beside its mask."""
        return cast(TaskRecord, self.records[str(task)])

    def lateral_heads(self, task: int) -> Laterals:
        """What ``task`` reads from later ones, in the order it was accepted."""
        return cast(Laterals, self.laterals[str(task)])

    def gate_logits(self) -> list[nn.Parameter]:
        """The gate logits [n] of each layer while a task is learnt; empty otherwise."""
        return [gate.logits for gate in self.gates_by_path.values() if gate.logits is not None]
