"""A backbone whose neurons are masked, one subnetwork a task.

Shapes: x [batch, ...]; features [batch, d]; logits [batch, classes of the task]; masks [n] a layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import InputError
from .annealing import Prices, priced_gates
from .edges import EDGES, Edges, weights_of
from .fit import is_small, limit, refuse_unfit
from .gates import LOGIT_LIMIT, Gate
from .growth import adopt_widths
from .kinds import LINEAR, Maskable, computes_plainly, is_layer, is_norm, layer_kind
from .layers import evaluating, find_sites
from .norms import TaskNorm
from .passes import PassLock, flush_denormals, flushes_denormals
from .plan import fresh_neurons, owned_neurons
from .records import Lateral, TaskRecord
from .rehearsal import refuse_forgetting
from .subnetwork import subnetwork
from .task_file import load_task, save_task
from .wiring import InputsOfTask, refuse_leaks


def mask_neurons(
    backbone: nn.Module,
    *,
    example_input: Tensor,
    head: str | None = None,
    edges: str = "none",
    rehearse: bool = True,
) -> MaskedModel:
    """Wrap ``backbone`` so that each task gets a mask over its neurons, a head and norm state of its own.

    Args:
        backbone: any module made of Linear, Conv1d, Conv2d, batch, layer or group norm and layers without
            parameters; it is changed in place, :meth:`MaskedModel.unmask` gives it back.
        example_input: one batch as the backbone takes it, e.g. ``torch.zeros(1, 3, 32, 32)``.
        head: path of the classifier (a Linear) that the tasks' own heads replace; None where the backbone
            returns features [batch, d].
        edges: "none": masks over neurons alone. "own_and_read": a task owns the weights of its fresh
            neurons, and packed bits choose which of all other weights it reads; "own_and_sign": they choose
            the signs that it reads them with; "own": it reads them all as they are (``edges.py``). All three
            replace the backbone's weights by constants with random signs, and each task says how many there
            shall be: ``add_task(planned_tasks=...)``.
        rehearse: try on a copy that earlier tasks stay bit-equal when others are learnt (``rehearsal.py``),
            now and after each growth. It takes a copy of the backbone and some twenty passes over four
            samples.

    Raises:
        InputError: for what cannot be masked, with the layer's path, the reason and the remedy.
    """
    return MaskedModel(backbone, example_input=example_input, head=head, edges=edges, rehearse=rehearse)


class MaskedModel(nn.Module):
    """See :func:`mask_neurons`. One task is learnt at a time: ``add_task``, train, ``commit``."""

    task_ids: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        example_input: Tensor,
        head: str | None = None,
        edges: str = "none",
        rehearse: bool = True,
    ) -> None:
        super().__init__()
        self.lock = PassLock()  # of the pass: select() and what computes after it
        if edges not in EDGES:
            raise InputError(f"edges is '{edges}': choose one of {', '.join(EDGES)}")
        if is_layer(backbone) or is_norm(backbone):
            raise InputError(
                f"the backbone is a single {type(backbone).__name__}: put it into an nn.Sequential"
            )
        self._head_path = head
        # in a tuple, so that it is not a submodule: it only waits for unmask()
        self._original_head = (_take_head(backbone, head),)
        try:
            sites = find_sites(backbone, example_input)
        except InputError:
            _put_head(backbone, head, self._original_head[0])
            raise
        modules = dict(backbone.named_modules())
        self.backbone = backbone
        self.input_shape = (1, *example_input.shape[1:])
        self.norm_of: dict[str, str | None] = {site.path: site.norm for site in sites}
        self.map_sizes = {site.path: site.map_sizes for site in sites}  # height, width of a Conv's outputs
        # layers whose weight is not used as it stands: a row may mix its columns, so used rows are kept whole
        self.whole_rows = frozenset(site.path for site in sites if not computes_plainly(site.layer))
        self.gates = nn.ModuleDict()
        for site in sites:
            kind = layer_kind(site.layer)
            self.gates[site.path.replace(".", "/")] = Gate(kind.neurons(site.layer), kind.neuron_dim)
        for path, module in modules.items():
            if is_norm(module):
                backbone.set_submodule(path, TaskNorm(module))
        self.heads = nn.ModuleDict()
        self.records = nn.ModuleDict()
        self.laterals = nn.ModuleDict()
        self.register_buffer("task_ids", torch.zeros(0, dtype=torch.long))
        self.edges: Edges | None = None
        self.tasks: list[int] = []
        self.scale, self.s_max = 1.0, 400.0
        self.dense = False  # while True, the task being learnt uses every neuron
        self.narrow_columns: dict[int, dict[str, Tensor]] = {}  # growth.py: input columns of a task's layers
        self.seen_live: tuple[Any, dict[str, Tensor]] | None = None  # wiring.py: live with all neurons open
        self.inputs_of_tasks: dict[int, InputsOfTask] = {}  # wiring.py: what a task's mask lets through
        self._gates: dict[str, Gate] = {key.replace("/", "."): g for key, g in self.gates.items()}  # type: ignore[misc]
        self._norms = [module for module in backbone.modules() if isinstance(module, TaskNorm)]
        # layers whose gates multiply their weights while training: those on maps that no norm follows
        self._foldable = [
            site.path
            for site in sites
            if layer_kind(site.layer).on_maps and site.norm is None and site.path not in self.whole_rows
        ]
        self._price: tuple[tuple[object, ...], Tensor] | None = None  # of this step's soft gates
        self._prices: Prices | None = None  # made anew when the free neurons are others
        self._compiled: Any = None
        self._flushes = False
        self._hooks = self._register_hooks()
        self.rehearse = rehearse
        try:
            refuse_leaks(self)
            self._feature_size()
            if edges != "none":
                self.edges = Edges(self, edges).to(self.device)
            self.gates.to(self.device)
            if rehearse:
                refuse_forgetting(self)
        except InputError:
            self.unmask()
            raise

    # ---- structure -------------------------------------------------------------------------------------

    @property
    def gates_by_path(self) -> dict[str, Gate]:
        """The gates of each masked layer, in forward order."""
        return self._gates

    @property
    def layers(self) -> dict[str, int]:
        """Neurons of each masked layer, in forward order."""
        return {path: gate.n for path, gate in self.gates_by_path.items()}

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
        return iter(self._norms)

    @property
    def device(self) -> torch.device:
        """Where the backbone's weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    def _register_hooks(self) -> list[Any]:
        handles = []
        for path, layer in self.layer_modules():
            gate, site = self.gates_by_path[path], self.mask_module(path)
            handles.append(site.register_forward_hook(gate.gate_output))
            if isinstance(site, TaskNorm) and site.mixes_neurons:
                # its statistics must not see neurons outside the mask
                handles.append(layer.register_forward_hook(gate.gate_output))
        return handles

    # ---- tasks -----------------------------------------------------------------------------------------

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

    def add_task(
        self,
        num_classes: int,
        task: int | None = None,
        *,
        budget: float | Mapping[str, float] | None = None,
        planned_tasks: int | None = None,
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
    ) -> int:
        """Begin a task: a head, norm state and gate logits of its own.

        Args:
            num_classes: outputs of its head.
            task: its number; by default the next one.
            budget: at most this share of a layer's neurons is selected, for all layers or by layer path.
            planned_tasks: how many tasks shall share the network's edges evenly (``plan.py``): limits the
                fresh neurons of each. None: no limit. With edges: they share its neurons, and it is needed.
            logit_mean, logit_std: the gate logits start from N(mean, std).

        Returns: the task's number. Warns, naming the layer, where no neuron is free any more.

        Raises:
            InputError: a task already there, one not yet committed, fewer than one class, a bad
                budget or plan.
        """
        task = (max(self.tasks) + 1 if self.tasks else 0) if task is None else int(task)
        if task in self.tasks:
            raise InputError(f"task {task} exists already: its subnetwork never changes; use a new number")
        if self.learning is not None:
            raise InputError(
                f"task {self.learning} is still being learnt: commit({self.learning}) before the next"
            )
        if num_classes < 1:
            raise InputError(f"task {task} has {num_classes} classes: a head needs at least 1")
        limits = self._limits(budget)
        if self.edges is not None:
            fresh = self._owned(task, budget, planned_tasks)
            self._warn_if_full(task)
            self.edges.begin(self, task, fresh)
        else:
            fresh = {} if planned_tasks is None else fresh_neurons(self, planned_tasks)
            self._warn_if_full(task)
            for path, gate in self.gates_by_path.items():
                gate.open(logit_mean, logit_std, limits[path], fresh.get(path))
        for norm in self.norms():
            norm.add_task(task)
        self.heads[str(task)] = nn.Linear(
            self._feature_size(), num_classes, device=self.device, dtype=self.dtype
        )
        self.records[str(task)] = TaskRecord()
        self.laterals[str(task)] = nn.ModuleList()
        self.tasks.append(task)
        self.task_ids = torch.tensor(self.tasks, device=self.device)
        return task

    def _limits(self, budget: float | Mapping[str, float] | None) -> dict[str, int | None]:
        if isinstance(budget, Mapping):
            unknown = set(budget) - set(self.layers)
            if unknown:
                raise InputError(
                    f"budget names {sorted(unknown)}, but the masked layers are {list(self.layers)}"
                )
        limits: dict[str, int | None] = {}
        for path, n in self.layers.items():
            share = budget.get(path) if isinstance(budget, Mapping) else budget
            if share is not None and not 0 < share <= 1:
                raise InputError(f"budget of layer '{path}' is {share}: give a share in (0, 1]")
            limits[path] = None if share is None else max(1, int(share * n))
        return limits

    def _owned(self, task: int, budget: object, planned_tasks: int | None) -> dict[str, int]:
        if budget is not None:
            raise InputError(f"task {task} has a budget, but edges choose what it reads: leave budget out")
        if planned_tasks is None:
            raise InputError(
                f"task {task}: with edges, say how many tasks shall share the neurons: planned_tasks=..."
            )
        return owned_neurons(self, planned_tasks)

    def _warn_if_full(self, task: int) -> None:
        full = [path for path, used in self.used().items() if bool(used.all())]
        if full:
            warnings.warn(
                f"task {task}: no free neuron is left in {', '.join(full)}; it learns by reuse and its head "
                "(growth would add neurons)",
                stacklevel=3,
            )

    def commit(self, task: int, *, freeze: bool = True) -> dict[str, Tensor]:
        """Fix the mask of ``task`` as bits: m = [sigma(s_max e) > 1/2] (METHOD.md, section 1).

        Returns the mask, bool [n] a layer. With ``freeze=False`` training may go on with the mask
        (consolidation); call :meth:`freeze` after it.

        Raises:
            InputError: for a task that is not being learnt, or that has diverged: 0 times a weight that is
                not finite is not 0, so every other task would feel it. Nothing is changed then;
                :meth:`drop_task` undoes the task.
        """
        if task != self.learning:
            raise InputError(f"task {task} is not being learnt: add_task(task={task}) first")
        self._refuse_divergence(task)
        chosen = {path: self._selection(path) for path in self.gates_by_path}
        if self.edges is not None:
            self.edges.commit(task)
        for path, gate in self.gates_by_path.items():
            gate.store(chosen[path])
        self.select(task)  # nothing of the last step's graph lives on: it could not be copied
        if freeze:
            self._freeze(task)
        return self.masks(task)

    def _divergence(self, task: int) -> str | None:
        """The name of a tensor that ``task`` trains and that is not finite or close to overflow, if any."""
        named: dict[str, Tensor] = {
            f"'{path}.{name}'": p
            for path, layer in self.layer_modules()
            for name, p in layer.named_parameters()
        }
        named |= {
            f"gate logits of '{p}'": g.logits for p, g in self.gates_by_path.items() if g.logits is not None
        }
        named |= {f"its head's {name}": p for name, p in self.heads[str(task)].named_parameters()}
        if self.edges is not None:
            named |= {f"scores {n}": score for n, score in enumerate(self.scores())}
            named |= {f"its own {n}": own for n, own in enumerate(self.edges.own_parameters(task))}
        for path, norm in self.backbone.named_modules():
            if isinstance(norm, TaskNorm):
                own = norm.of(task)
                named |= {f"'{path}.{n}'": t for n, t in [*own.named_parameters(), *own.named_buffers()]}
        finite = torch.stack([is_small(tensor) for tensor in named.values()])
        return None if bool(finite.all()) else list(named)[int(finite.int().argmin())]

    def _refuse_divergence(self, task: int) -> None:
        name = self._divergence(task)
        if name is not None:
            raise InputError(
                f"task {task} has diverged: {name} is not finite, or close to overflow, and masked neurons "
                f"would carry that into every task; drop_task({task}) undoes the task, then learn it with a "
                "lower rate or better data"
            )

    def drop_task(self, task: int) -> None:
        """Undo :meth:`add_task` for a task that is not frozen yet: nothing that it alone has is left.

        Weights that no committed task needs keep the values that training gave them; those that are not
        finite, or close to overflow, become 0, or every later task would compute with them.

        Raises:
            InputError: for a task that is committed (and not in consolidation), or unknown.
        """
        consolidating = task in self.committed[-1:] and any(
            p.requires_grad for p in self.own_parameters(task)
        )
        if task != self.learning and not consolidating:
            raise InputError(
                f"task {task} is not being learnt, so it cannot be dropped; committed tasks "
                f"{self.committed} never change"
            )
        for gate in self.gates_by_path.values():
            if consolidating:
                gate.forget_last()
            gate.close()
        if self.edges is not None:
            self.edges.drop(task)
        for norm in self.norms():
            norm.drop_task(task)
        for owned in (self.heads, self.records, self.laterals):
            del owned[str(task)]
        for _, layer in self.layer_modules():
            for parameter in layer.parameters():
                parameter.data.masked_fill_(~(parameter.detach().abs() <= limit(parameter.dtype)), 0.0)
                parameter.grad = None
        self.tasks.remove(task)
        self.task_ids = torch.tensor(self.tasks, device=self.device, dtype=torch.long)
        self.dense = False
        self.select(None)

    def _selection(self, path: str) -> Tensor:
        """Bits [n] that a commit stores."""
        if self.edges is not None:
            return self.edges.mask(self, path)
        gate = self.gates_by_path[path]
        return torch.ones_like(gate.selection()) if self.dense else gate.selection()

    def freeze(self, task: int) -> None:
        """End all training of a committed task: its head and norm state take no gradient any more.

        Its norms compute in evaluation mode from now on, also while the model is in training mode.

        Raises:
            InputError: where training after the commit has diverged; :meth:`drop_task` undoes the task.
        """
        self._refuse_divergence(task)
        self._freeze(task)

    def _freeze(self, task: int) -> None:
        for norm in self.norms():
            norm.freeze(task)
        for parameter in self.own_parameters(task):
            parameter.requires_grad_(False)
            parameter.grad = None

    def thaw(self, task: int) -> None:
        """Let the training of the last task go on where it was loaded in the middle of its consolidation.

        Raises:
            InputError: for any other task: what comes after it was learnt beside what it is.
        """
        if task != self.tasks[-1]:
            raise InputError(f"task {task} cannot be trained again: task {self.tasks[-1]} came after it")
        for norm in self.norms():
            norm.thaw(task)
        for parameter in self.own_parameters(task):
            parameter.requires_grad_(True)

    def own_parameters(self, task: int) -> list[nn.Parameter]:
        """Parameters that ``task`` alone uses: head and norm state; with edges, biases and small layers."""
        return [
            *self.heads[str(task)].parameters(),
            *(p for norm in self.norms() for p in norm.of(task).parameters()),
            *([] if self.edges is None else self.edges.own_parameters(task)),
        ]

    def task_parameters(self, task: int) -> list[nn.Parameter]:
        """What training ``task`` changes: the layers' weights, its own parameters, gate logits or scores."""
        shared: list[nn.Parameter]
        if self.edges is None:
            shared = [p for _, layer in self.layer_modules() for p in layer.parameters()]
        else:
            shared = [
                cast(nn.Parameter, self.layer(path).weight)
                for path, edges in self.edges.by_path()
                if not edges.whole
            ]
        return [*shared, *self.own_parameters(task), *self.gate_logits(), *self.scores()]

    def task_buffers(self, task: int) -> list[Tensor]:
        """The running statistics that ``task`` alone uses."""
        return [buffer for norm in self.norms() for buffer in norm.of(task).buffers()]

    def gate_logits(self) -> list[nn.Parameter]:
        """The gate logits [n] of each layer while a task is learnt; empty otherwise."""
        return [gate.logits for gate in self.gates_by_path.values() if gate.logits is not None]

    def scores(self) -> list[nn.Parameter]:
        """The scores of edges of each layer while a task is learnt with them; empty otherwise."""
        return [] if self.edges is None else self.edges.scores()

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

    # ---- forward ---------------------------------------------------------------------------------------

    def anneal(self, progress: float, s_max: float = 400.0) -> None:
        """Set the annealing scale: s from 1/s_max at ``progress`` 0 to s_max at 1 (HAT, eq. 3)."""
        self.scale = 1 / s_max + (s_max - 1 / s_max) * progress
        self.s_max = s_max

    def clamp_logits(self) -> None:
        """Keep gate logits within +-6 after a step (HAT, section 2.5)."""
        for logits in self.gate_logits():
            logits.detach().clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)

    def select(self, task: int | None) -> None:
        """Make the backbone compute as ``task``; None: as the plain backbone, no gates, its own norms."""
        self._price = None
        learning = task is not None and task == self.learning
        row = None if task is None or learning else self._row(task)
        for gate in self.gates_by_path.values():
            if task is None or (learning and (self.dense or self.edges is not None)):
                gate.values = None
            elif row is not None:
                gate.values = gate.bits(row, self.dtype)
            elif not self.training:
                gate.values = gate.selection().to(self.dtype)
        if learning and self.training and not self.dense and self.edges is None:
            self._open_softly()
        for norm in self.norms():
            norm.task = task

    def _open_softly(self) -> None:
        """Give every gate its soft values, and keep their price for :meth:`price`."""
        values, price = self._soft_gates()
        for gate, value in zip(self._gates.values(), values, strict=True):
            gate.values = value
        self._price = (self._price_key(), price) if torch.is_grad_enabled() else None

    def _soft_gates(self) -> tuple[list[Tensor], Tensor]:
        """Soft gates [n] of each layer for the task being learnt, and their price, a scalar."""
        gates = self._gates.values()
        free = [gate.free for gate in gates]
        if self._prices is None or any(a is not b for a, b in zip(self._prices.free, free, strict=True)):
            self._prices = Prices(free)
        return priced_gates([gate.effective_logits() for gate in gates], self._prices, self.scale, self.s_max)

    def _price_key(self) -> tuple[object, ...]:
        return (self.scale, self.s_max, *((id(logits), logits._version) for logits in self.gate_logits()))

    def price(self) -> Tensor:
        """Share of the free neurons that the soft gates of the task being learnt take, a scalar.

        Taken over from the forward pass where there was one with the same gates, once.
        """
        kept, self._price = self._price, None
        return kept[1] if kept is not None and kept[0] == self._price_key() else self._soft_gates()[1]

    def features(self, x: Tensor, task: int) -> Tensor:
        """What the head of ``task`` reads: [batch, d]."""
        with self.lock:
            self.select(task)
            return self.compute(x, task)

    def compute(self, x: Tensor, task: int) -> Tensor:
        """Features [batch, d] with the gates as they are set, the weights as wide as ``task`` knew them."""
        if self._compiled is None:
            return self._compute(x, task, self._run)
        flush_denormals(self._flushes)
        try:
            return self._compute(x, task, self._compiled if self.training else self._run)
        finally:
            flush_denormals(self._flushes)

    def _compute(self, x: Tensor, task: int, run: Callable[[dict[str, Tensor], Tensor], Tensor]) -> Tensor:
        weights = weights_of(self, task)
        folding = [path for path in self._foldable if self.training and self._gates[path].values is not None]
        for path in folding:
            weights |= self._fold(path, weights)
        try:
            for path in folding:
                self._gates[path].folded = True
            return run(weights, x)
        finally:
            for path in folding:
                self._gates[path].folded = False

    def _run(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        if not weights:
            return self.backbone(x)
        return functional_call(self.backbone, weights, (x,), tie_weights=False)  # find_sites refuses ties

    def compile_training(self) -> None:
        """Let ``torch.compile`` speed up training passes.

        Evaluation stays as it is: compiled code may be compiled anew, with sums in another order, and earlier
        tasks' logits would no longer be the same to the last bit. For the same reason it stays as it is now
        whether numbers too small to be normal count as 0: torch 2.5 links compiled code with -ffast-math,
        and where that is loaded, in a forward or backward pass, they do in the whole thread.
        """
        self._compiled = torch.compile(self._run)
        self._flushes = flushes_denormals()

    def _fold(self, path: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        layer = self.layer(path)
        names = f"{path}.weight", f"{path}.bias"
        weight, bias = self._gates[path].fold(
            weights.get(names[0], layer.weight), weights.get(names[1], layer.bias)
        )
        return {names[0]: weight} if bias is None else {names[0]: weight, names[1]: bias}

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """Logits [batch, classes] of ``task`` for x [batch, ...].

        With a committed mask, and in evaluation mode always, gates are bits; while the task is learnt in
        training mode they are soft: sigma(s e). Threads may ask for different tasks at once: they take turns.
        """
        if task is None:
            raise InputError(
                "model(x) was called without a task, but every task is a subnetwork of its own: call "
                "model(x, task); a plugin or metric that cannot do so does not work with masked models"
            )
        if task not in self.tasks:
            raise InputError(f"task {task} is unknown, known are {self.tasks}: add_task(task={task}) first")
        with self.lock:
            own = self.features(x, task)
            logits = self.heads[str(task)](own)
            for lateral in self.lateral_heads(task):
                source = cast(Lateral, lateral).source_task
                logits = lateral(logits, own if source == task else self.features(x, source))
        learning = self.learning
        if learning not in (None, task) and not self.training and not bool(logits.isfinite().all()):
            self._refuse_divergence(cast(int, learning))
        return logits

    def subnetwork(self, task: int) -> nn.Module:
        """A plain, physically smaller module x -> logits with what ``task`` needs alone, in evaluation mode.

        It shares nothing with this model. See :func:`dsn.masking.subnetwork.subnetwork`.
        """
        return subnetwork(self, task)

    def save_task(self, task: int, path: str | Path) -> None:
        """Write ``task`` with all that its logits depend on; see :func:`dsn.masking.task_file.save_task`."""
        save_task(self, task, Path(path))

    def load_task(self, path: str | Path, task: int | None = None) -> int:
        """Put a task that :meth:`save_task` wrote into this model; returns its number.

        Refuses what does not fit; see :func:`dsn.masking.task_file.load_task`.
        """
        return load_task(self, Path(path), task)

    def record(self, task: int) -> TaskRecord:
        """What ``task`` keeps beside its mask."""
        return cast(TaskRecord, self.records[str(task)])

    def lateral_heads(self, task: int) -> nn.ModuleList:
        """What ``task`` reads from later ones, in the order it was accepted."""
        return cast(nn.ModuleList, self.laterals[str(task)])

    @property
    def feature_size(self) -> int:
        """d of the features [batch, d] that heads read."""
        return self._feature_size()

    def _feature_size(self) -> int:
        with evaluating(self):
            self.select(None)
            features = self.backbone(torch.zeros(self.input_shape, device=self.device, dtype=self.dtype))
        if features.dim() != 2:
            raise InputError(
                f"the backbone returns shape {tuple(features.shape)}, not features [batch, d]: "
                "flatten or pool at its end, or name its classifier as head="
            )
        return features.shape[1]

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, also amid training: the price that a pass has left belongs to this model's graph, and
        compiled code reads this model's weights."""
        return {**self.__dict__, "_price": None, "_compiled": self._compiled is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_compiled": None})
        if state["_compiled"]:
            self.compile_training()

    # ---- undoing and loading ---------------------------------------------------------------------------

    def unmask(self) -> nn.Module:
        """The backbone as it was handed in: no gates, its own norms and head, the weights as they are now.

        This model cannot be used any more afterwards.
        """
        for handle in self._hooks:
            handle.remove()
        for path, module in list(self.backbone.named_modules()):
            if isinstance(module, TaskNorm):
                original = module.original.requires_grad_(True).train(module.training)
                self.backbone.set_submodule(path, original)
        _put_head(self.backbone, self._head_path, self._original_head[0])
        return self.backbone

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As ever, while no thread computes."""
        with self.lock:
            return super().load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make room for the tasks (and grown layers) that ``state_dict`` holds, then load as ever.

        Raises InputError, and changes nothing, where it is not the state of such a model.
        """
        ids, strict = state_dict.get(f"{prefix}task_ids"), args[1]
        if ids is not None or strict:
            own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
            refuse_unfit(self, own, same_types=False)
        if ids is not None:
            self._take_structure(state_dict, prefix, [int(task) for task in ids])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _take_structure(self, state_dict: Mapping[str, Tensor], prefix: str, tasks: list[int]) -> None:
        adopt_widths(self, state_dict, prefix)
        self.narrow_columns.clear()
        self.tasks = tasks
        self.task_ids = torch.tensor(tasks, device=self.device, dtype=torch.long)
        for path, gate in self.gates_by_path.items():
            gate.take_structure(state_dict, f"{prefix}gates.{path.replace('.', '/')}.")
        self.heads, self.records, self.laterals = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for norm in self.norms():
            norm.tasks, norm.frozen = nn.ModuleDict(), set()
        for task in tasks:
            record = self.records[str(task)] = TaskRecord()
            record.take_structure(state_dict, f"{prefix}records.{task}.")
            laterals = self.laterals[str(task)] = nn.ModuleList()
            while f"{prefix}laterals.{task}.{len(laterals)}.source" in state_dict:
                start = f"{prefix}laterals.{task}.{len(laterals)}."
                laterals.append(Lateral.from_state(state_dict, start).to(self.device))
            weight = state_dict.get(f"{prefix}heads.{task}.weight")
            if weight is not None:
                classes, size = weight.shape
                self.heads[str(task)] = nn.Linear(size, classes, device=self.device, dtype=self.dtype)
        if self.edges is not None:
            self.edges.take_structure(self, state_dict, f"{prefix}edges.")
        for path, norm in ((path, m) for path, m in self.backbone.named_modules() if isinstance(m, TaskNorm)):
            for task in tasks:
                norm.take_structure(task, state_dict, f"{prefix}backbone.{path}.")
        for task in self.committed:
            self._freeze(task)


def _take_head(backbone: nn.Module, path: str | None) -> nn.Module | None:
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


def _put_head(backbone: nn.Module, path: str | None, head: nn.Module | None) -> None:
    """Undo :func:`_take_head`."""
    if path is not None and head is not None:
        backbone.set_submodule(path, head)
