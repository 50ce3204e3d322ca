"""The whole state of a DSN strategy, taken at rest and put back to the last bit; docs/checkpoint.md.

At rest: between two iterations, between the last epoch of a task and what ends it, or between two tasks. Data
are not part of it; the order in which the epoch goes through them is.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..masking import MaskedModel, ProtectedWeights
from ..masking.state.fit import refuse_unfit
from ..masking.state.snapshot import StateCopies, on_cpu
from ..storage import Tree, first_difference, plain_values, read_tree, write_tree
from ..transfer import ForwardOutcome, TransferOutcome
from .losses import Losses
from .random_states import put_random_states, take_random_states
from .schedule import Scheduler
from .settings import Compute, Selection, Transfer
from .tasks import TaskByTask

STATE_FILE, STATE_FORMAT, STATE_VERSION = "strategy.safetensors", "dsn-strategy", 1

CLOCK = (
    "train_iterations",
    "train_exp_counter",
    "train_exp_epochs",
    "train_exp_iterations",
    "train_epoch_iterations",
    "total_iterations",
)
END = 3
"""The phase of a task after its epochs: warm-up, soft gates and consolidation are 0, 1 and 2."""


class Resumable(TaskByTask):
    """What a state is of: :class:`dsn.DSN` sets all of it."""

    model: MaskedModel
    selection: Selection
    transfer: Transfer
    compute: Compute
    replay: dict[str, Any]
    seed: int
    transfers: list[TransferOutcome]
    forward_transfers: list[ForwardOutcome]
    _scheduler: Scheduler

    _copies: StateCopies

    phase: int | None = None
    """of the task being learnt, see ``END``; None between tasks"""
    resumed: "Resumed | None" = None
    """the state within a task that training goes on from"""
    at_rest: Callable[[str], None] | None = None
    """called wherever the state can be taken: after each "iteration", and before the "end" of a task"""

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        if self.resumed is not None:
            self.resumed.begin_epoch(self)
            self.resumed = None

    def _after_training_iteration(self, **kwargs: Any) -> None:
        super()._after_training_iteration(**kwargs)
        if self.at_rest is not None:
            self.at_rest("iteration")

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, also amid training: logits and loss of the last batch are numbers there, without graph.

        A copy of a half-learnt task is one whose training was interrupted: its next ``train`` drops the task.
        """
        return {
            name: value.detach() if isinstance(value, Tensor) and not value.is_leaf else value
            for name, value in self.__dict__.items()
        }

    def take_state(self) -> dict[str, Tree]:
        """Everything that training goes on from, while the strategy is at rest; not to be written into."""
        self._refuse_bad_loss()
        return {
            "settings": settings(self),
            # training itself changes nothing of earlier tasks, and they were copied when it began
            **self._take_outcome(closed_stay=self.phase == END),
            "clock": {name: getattr(self.clock, name) for name in CLOCK},
            "within": None if self.phase is None else _take_task(self),
        }

    def put_state(self, state: Mapping[str, Tree]) -> None:
        """Put back what :meth:`take_state` took from a strategy with the same settings and backbone.

        If it was taken within a task, the next ``train`` must be given that task's experience: it goes on
        there.

        Raises:
            InputError: settings or model differ; the first difference is named, and nothing is changed.
        """
        if (difference := first_difference(state["settings"], settings(self))) is not None:
            raise InputError(f"the state does not fit this strategy: {difference}")
        groups = ((state["within"] or {}).get("optimizer") or {}).get("param_groups")
        if groups is not None and len(groups) != len(self.optimizer.param_groups):
            raise InputError(
                f"the state's optimizer has {len(groups)} parameter groups, this strategy's has "
                f"{len(self.optimizer.param_groups)} (earlier versions gave gate logits one of their own)"
            )
        refuse_unfit(self.model, state["model"])
        self._put_outcome(state)
        put_clock(self, state["clock"])
        self._begun = None
        self.resumed = None if state["within"] is None else Resumed(state)
        if self.resumed is None:
            put_random_states(state["random"], self.device)

    def _take_outcome(self, *, closed_stay: bool = False) -> dict[str, Tree]:
        return {
            "model": self._copies.of(self.model, closed_stay=closed_stay),
            "transfers": [vars(outcome) for outcome in self.transfers],
            "forward_transfers": [vars(outcome) for outcome in self.forward_transfers],
            "random": take_random_states(self.device),
        }

    def _put_outcome(self, state: Mapping[str, Tree]) -> None:
        """Put back what :meth:`_take_outcome` took, but for the random states."""
        self.model.load_state_dict(state["model"])
        self.model.to(self.device)
        self.transfers[:] = [TransferOutcome(**outcome) for outcome in state["transfers"]]
        self.forward_transfers[:] = [ForwardOutcome(**outcome) for outcome in state["forward_transfers"]]

    def _take_over_outcome(self) -> None:
        """Of several processes that have ended a task, all go on with what the first has found."""
        if self.shards > 1 and self.ranks.count > 1:
            first = self.ranks.number == 0
            state = self.ranks.tree_of_first(self._take_outcome() if first else None)
            if not first:
                self._put_outcome(state)
                put_random_states(state["random"], self.device)

    def save(self, folder: str | Path) -> None:
        """Keep the whole state, while the strategy is at rest, in ``folder``; docs/checkpoint.md.

        The file is written whole or not at all. Raises OSError where the disk refuses.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tree(folder / STATE_FILE, self.take_state(), format=STATE_FORMAT, version=STATE_VERSION)

    def load(self, folder: str | Path) -> None:
        """Put back what :meth:`save` kept, into a strategy with the same settings and backbone.

        Random states are put back too. If it was saved within a task, ``train`` must be given that task's
        experience next: it goes on there.

        Raises:
            InputError: a missing, damaged or foreign file, or one that does not fit: the first difference is
                named, and nothing is changed.
        """
        path = Path(folder) / STATE_FILE
        state = read_tree(path, format=STATE_FORMAT, version=STATE_VERSION)
        try:
            self.put_state(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def settings(strategy: Resumable) -> dict[str, Any]:
    """What must be the same for a state to fit, by name, as plain values."""
    first, *others = ({k: v for k, v in o.items() if k != "initial_lr"} for o in strategy.groups.options)
    optimizer = {"name": type(strategy.optimizer).__name__, **first}
    if others:
        optimizer["groups"] = others
    schedule, transfer, compute = strategy.schedule, strategy.transfer, strategy.compute
    chosen = {
        "train_epochs": strategy.train_epochs,
        "train_mb_size": strategy.train_mb_size,
        **asdict(strategy.selection),
        **{name: value for name, value in asdict(schedule).items() if name != "rate"},
        "schedule": schedule.rate,
        "transfer_tasks": transfer.tasks,
        "forward_tasks": transfer.forward,
        "transfer": transfer.mechanism,
        "acceptance": transfer.acceptance,
        "replay": strategy.replay,
        "seed": strategy.seed,
        "precision": compute.precision,
        "channels_last": compute.channels_last,
    }
    if strategy.augment is not None:
        chosen["augment"] = str(getattr(strategy.augment, "transforms", type(strategy.augment).__name__))
    if strategy.shards != 1:
        chosen["shards"] = strategy.shards
    return plain_values({**chosen, "optimizer": optimizer})


def _take_task(strategy: Resumable) -> dict[str, Tree]:
    """What is under way of the task being learnt."""
    gates = strategy.model.gates_by_path.items()
    within: dict[str, Tree] = {
        "task": strategy.model.tasks[-1],
        "limits": {path: [gate.budget, gate.fresh] for path, gate in gates},
        "phase": strategy.phase,
        "epoch": strategy.phase_epoch,
    }
    if strategy.phase != END:
        scheduler = strategy._scheduler.torch
        within |= {
            "order": strategy.dataloader.order,
            "losses": torch.stack(strategy._losses.taken),
            "best": strategy._best.take_state(),
            "mean": strategy._mean.take_state(),
            "optimizer": copied(strategy.optimizer.state_dict()),
            "scheduler": None if scheduler is None else copied(scheduler.state_dict()),
        }
    return within


class Resumed:
    """A state within a task, put back piece by piece as training comes to where each belongs."""

    def __init__(self, state: Mapping[str, Tree]) -> None:
        self.state = state
        self._random, self._clock = state["random"], state["clock"]
        self._within = state["within"]
        self.task: int = self._within["task"]
        self.phase: int = self._within["phase"]
        self.epoch: int = self._within["epoch"]

    def begin_task(self, strategy: Resumable, task: int) -> ProtectedWeights:
        """In the place of adding the task: it is there already. Returns what earlier tasks need."""
        if task != self.task:
            raise InputError(
                f"the state was taken while task {self.task} was learnt, but the experience is of task "
                f"{task}: train on that task's experience first"
            )
        for path, (budget, fresh) in self._within["limits"].items():
            gate = strategy.model.gates_by_path[path]
            gate.budget, gate.fresh = budget, fresh
        if self.phase != END:
            strategy.model.thaw(task)
        return ProtectedWeights(strategy.model, before=task)

    def restore(self, strategy: Resumable) -> None:
        """Go back to where training went on from, where it does not come to its end either."""
        strategy.put_state(self.state)

    def begin_training(self, strategy: Resumable) -> None:
        """Before the first epoch: counters, optimizer and scheduler, or, at the end, random states."""
        put_clock(strategy, self._clock)
        if self.phase == END:
            put_random_states(self._random, strategy.device)
            return
        put_optimizer(strategy.optimizer, self._within["optimizer"])
        if strategy._scheduler.torch is not None:
            strategy.optimizer._opt_called = True  # or torch warns of step order
            strategy._scheduler.torch.load_state_dict(self._within["scheduler"])

    def begin_epoch(self, strategy: Resumable) -> None:
        """Right before the first batch: the best state so far, the place in the epoch, random states."""
        put_clock(strategy, self._clock)
        strategy._best.put_state(self._within["best"])
        strategy._mean.put_state(self._within["mean"])
        strategy._losses = Losses(self._within["losses"].to(strategy.device).unbind())
        strategy.dataloader.go_on(self._within["order"], self._clock["train_epoch_iterations"])
        put_random_states(self._random, strategy.device)


def put_clock(strategy: Resumable, clock: Mapping[str, int]) -> None:
    """Set Avalanche's counters."""
    for name in CLOCK:
        setattr(strategy.clock, name, clock[name])


def put_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a ``state_dict``, moments laid out in memory as their parameters are."""
    optimizer.load_state_dict(dict(state))
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def copied(tree: Tree) -> Tree:
    """The tree with every tensor copied to the CPU, so that it stays as it is while training goes on."""
    if isinstance(tree, Tensor):
        return on_cpu(tree)
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(value) for value in tree)
    return tree
