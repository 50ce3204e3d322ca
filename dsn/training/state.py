"""The whole state of a DSN strategy, taken at rest and put back to the last bit.

At rest: between two iterations, between the last epoch of a task and what ends it, or between two tasks. Data
are not part of it; the order in which the epoch goes through them is.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..masking import ProtectedWeights
from ..masking.state.fit import refuse_unfit
from ..storage import Tree, first_difference, plain_values
from ..transfer import ForwardOutcome, TransferOutcome
from .random_states import put_random_states, take_random_states

if TYPE_CHECKING:
    from .strategy import DSN

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


def settings(strategy: "DSN") -> dict[str, Any]:
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
    return plain_values({**chosen, "optimizer": optimizer})


def take_state(strategy: "DSN") -> dict[str, Tree]:
    """Everything that training goes on from."""
    return {
        "settings": settings(strategy),
        "model": copied(strategy.model.state_dict()),
        "clock": {name: getattr(strategy.clock, name) for name in CLOCK},
        "transfers": [asdict(outcome) for outcome in strategy.transfers],
        "forward_transfers": [asdict(outcome) for outcome in strategy.forward_transfers],
        "random": take_random_states(strategy.device),
        "within": None if strategy.phase is None else _take_task(strategy),
    }


def _take_task(strategy: "DSN") -> dict[str, Tree]:
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
            "losses": torch.stack(strategy._losses),
            "best": strategy._best.take_state(),
            "mean": strategy._mean.take_state(),
            "optimizer": copied(strategy.optimizer.state_dict()),
            "scheduler": None if scheduler is None else copied(scheduler.state_dict()),
        }
    return within


def put_state(strategy: "DSN", state: Mapping[str, Tree]) -> None:
    """Put back what :func:`take_state` took from a strategy with the same settings and backbone.

    If it was taken within a task, the next ``train`` must be given that task's experience: it goes on there.

    Raises:
        InputError: settings or model differ; the first difference is named, and nothing is changed.
    """
    if (difference := first_difference(state["settings"], settings(strategy))) is not None:
        raise InputError(f"the state does not fit this strategy: {difference}")
    groups = ((state["within"] or {}).get("optimizer") or {}).get("param_groups")
    if groups is not None and len(groups) != len(strategy.optimizer.param_groups):
        raise InputError(
            f"the state's optimizer has {len(groups)} parameter groups, this strategy's has "
            f"{len(strategy.optimizer.param_groups)} (earlier versions gave gate logits one of their own)"
        )
    refuse_unfit(strategy.model, state["model"])
    strategy.model.load_state_dict(state["model"])
    strategy.model.to(strategy.device)
    put_clock(strategy, state["clock"])
    strategy.transfers[:] = [TransferOutcome(**outcome) for outcome in state["transfers"]]
    strategy.forward_transfers[:] = [ForwardOutcome(**outcome) for outcome in state["forward_transfers"]]
    strategy._begun = None
    strategy.resumed = None if state["within"] is None else Resumed(state)
    if strategy.resumed is None:
        put_random_states(state["random"], strategy.device)


class Resumed:
    """A state within a task, put back piece by piece as training comes to where each belongs."""

    def __init__(self, state: Mapping[str, Tree]) -> None:
        self.state = state
        self._random, self._clock = state["random"], state["clock"]
        self._within = state["within"]
        self.task: int = self._within["task"]
        self.phase: int = self._within["phase"]
        self.epoch: int = self._within["epoch"]

    def begin_task(self, strategy: "DSN", task: int) -> ProtectedWeights:
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

    def begin_training(self, strategy: "DSN") -> None:
        """Before the first epoch: counters, optimizer and scheduler, or, at the end, random states."""
        put_clock(strategy, self._clock)
        if self.phase == END:
            put_random_states(self._random, strategy.device)
            return
        put_optimizer(strategy.optimizer, self._within["optimizer"])
        if strategy._scheduler.torch is not None:
            strategy.optimizer._opt_called = True  # or torch warns of step order
            strategy._scheduler.torch.load_state_dict(self._within["scheduler"])

    def begin_epoch(self, strategy: "DSN") -> None:
        """Right before the first batch: the best state so far, the place in the epoch, random states."""
        put_clock(strategy, self._clock)
        strategy._best.put_state(self._within["best"])
        strategy._mean.put_state(self._within["mean"])
        strategy._losses = list(self._within["losses"].to(strategy.device).unbind())
        strategy.dataloader.go_on(self._within["order"], self._clock["train_epoch_iterations"])
        put_random_states(self._random, strategy.device)


def put_clock(strategy: "DSN", clock: Mapping[str, int]) -> None:
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
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(value) for value in tree)
    return tree
