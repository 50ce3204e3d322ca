"""The life of a task in a masked model: begun, committed, frozen or dropped, and what it trains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .computes import Computes
from .kinds import layer_kind
from .plan import fresh_neurons, owned_neurons
from .reach import needed_inputs
from .records import Laterals, TaskRecord
from .state.fit import is_small, limit


class TaskLife(Computes):
    """Passes, and tasks that come and go."""

    rehearse = True
    """whether wrapping and growth try on a copy that no task would change"""

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
        if self.pretrained:
            self._forget_free()
        for norm in self.norms():
            norm.add_task(task)
        self.heads[str(task)] = nn.Linear(
            self.feature_size, num_classes, device=self.device, dtype=self.dtype
        )
        self.records[str(task)] = TaskRecord()
        self.laterals[str(task)] = Laterals()
        self.tasks.append(task)
        self.task_ids = torch.tensor(self.tasks, device=self.device)
        return task

    @torch.no_grad()
    def _forget_free(self) -> None:
        """Let used neurons read nothing of free ones, so that a task begins with the pretrained function."""
        used, needed = self.used(), needed_inputs(self)
        for path, layer in self.layer_modules():
            read = layer_kind(layer).block(layer.weight, used[path], ~needed[path])
            layer.weight.masked_fill_(read, 0.0)

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
            n -= self.gates_by_path[path].kept_neurons
            limits[path] = None if share is None or n == 0 else max(1, int(share * n))
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
        full = [
            path
            for path, used in self.used().items()
            if bool(used.all()) and (path in self.fresh or not self.pretrained)
        ]
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
            self.end_training(task)
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
        for path, norm in self.norms_by_path.items():
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
        for owned in self.belongings:
            del owned[str(task)]
        self.clear_divergence()
        self.tasks.remove(task)
        self.task_ids = torch.tensor(self.tasks, device=self.device, dtype=torch.long)
        self.dense = False
        self.select(None)

    def clear_divergence(self) -> None:
        """Make 0 what is not finite, or close to overflow, in the layers; their gradients are dropped."""
        for _, layer in self.layer_modules():
            for parameter in layer.parameters():
                parameter.data.masked_fill_(~(parameter.detach().abs() <= limit(parameter.dtype)), 0.0)
                parameter.grad = None

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
        self.end_training(task)

    def end_training(self, task: int) -> None:
        """:meth:`freeze`, whatever the values are."""
        for norm in self.norms():
            norm.freeze(task)
        for owned in self.belongings:
            owned.close(str(task))
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
        for owned in self.belongings:
            owned.reopen(str(task))
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
