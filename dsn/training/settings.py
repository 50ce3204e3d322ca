"""Settings of a strategy in groups; the blocks of a config mirror them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from ..errors import InputError, refuse_unknown
from ..presets import PRESETS
from ..transfer import ACCEPTANCE, MECHANISMS
from .loading import refuse_below
from .schedule import JUDGES, RATES, Plateau, Scheduler

ANNEALING = ("epoch", "task")
FIRST_EDGES = ("drawn", "balanced")
CACHES = (True, False, "always")
PRECISIONS = ("float32", "bfloat16")
PRESET_ARGUMENTS = ("train_epochs", "selection", "schedule", "replay", "transfer")


@dataclass(frozen=True)
class Selection:
    """Which neurons a task selects.

    sparsity: eta, the price of the free neurons (METHOD.md, section 1)
    s_max: largest annealing scale
    annealing: s goes from 1/s_max to s_max within each "epoch" (the paper) or once over all ("task")
    logit_mean, logit_std: gate logits start from N(mean, std)
    budget: at most this share of a layer's neurons is selected, for all layers or by layer path
    planned_tasks: how many tasks shall share the network's edges evenly; None: no plan
    growth: neurons added to a layer that has no free one when a task begins; 0 switches growth off
    score_lr_factor: the scores of edges learn at the optimizer's rate times this, without weight decay
        (``mask_neurons(..., edges="own_and_read")``)
    first_edges: which half of the edges ``own_and_read`` reads at first: a "drawn" one, or a "balanced" one
        (``dsn.topology.first_edges``)
    initial: arguments of ``dsn.masking.initial.start_task``: neurons that a task starts with
    """

    sparsity: float = 0.75
    s_max: float = 400.0
    annealing: str = "epoch"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    budget: float | Mapping[str, float] | None = None
    planned_tasks: int | None = None
    growth: int = 0
    score_lr_factor: float = 10.0
    first_edges: str = "drawn"
    initial: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_unknown("annealing", self.annealing, ANNEALING)
        refuse_unknown("first_edges", self.first_edges, FIRST_EDGES)
        refuse_below(0, {"growth": self.growth})

    @property
    def of_task(self) -> dict[str, Any]:
        """Arguments of ``MaskedModel.add_task``."""
        return {name: getattr(self, name) for name in ("budget", "planned_tasks", "logit_mean", "logit_std")}

    def progress(self, iteration: int, iterations: int, epoch: int, epochs: int) -> float:
        """How far annealing is, 0 to 1: within an epoch of ``iterations``, or within all ``epochs``.

        An epoch of a single batch has no room for it: then it goes over all epochs too.
        """
        if self.annealing == "task" or iterations == 1:
            iteration += iterations * max(epoch, 0)
            iterations *= max(epochs, 1)
        return min(iteration / max(iterations - 1, 1), 1.0)


@dataclass(frozen=True)
class Schedule:
    """A task's epochs beside those that are asked for, their learning rate, and which of them is kept.

    warmup_epochs: dense, before the epochs with soft gates
    consolidation_epochs: with the committed mask, after them
    rate: the learning rate over all of a task's epochs: "constant", "cosine" (to 0) or "plateau"
    plateau: when ``rate`` is that
    judge: what an epoch is judged by on validation data: "accuracy" or "loss" (cross-entropy)
    patience: end a phase after so many epochs that were not judged better; None: never
    restore_best: end each phase with the state of its epoch that was judged best
    average_epochs: what is judged, and kept at a phase's end, is the mean over the steps of about so many of
        its last epochs, of weights, scores, gate logits and norm statistics; 0: the last step's
    norm_samples: batch norms are judged, and kept, with the statistics of so many training samples, measured
        as evaluation computes, without dropout (``precise_norm.py``); 0: with those of training
    """

    warmup_epochs: int = 0
    consolidation_epochs: int = 0
    rate: str = "constant"
    plateau: Plateau = Plateau()
    judge: str = "accuracy"
    patience: int | None = None
    restore_best: bool = False
    average_epochs: float = 0.0
    norm_samples: int = 0

    def __post_init__(self) -> None:
        refuse_unknown("schedule", self.rate, RATES)
        refuse_unknown("judge", self.judge, JUDGES)
        refuse_below(1, {"patience": self.patience})
        refuse_below(
            0,
            {
                "warmup_epochs": self.warmup_epochs,
                "consolidation_epochs": self.consolidation_epochs,
                "average_epochs": self.average_epochs,
                "norm_samples": self.norm_samples,
            },
        )

    @property
    def judges(self) -> bool:
        """Whether epochs are judged, which needs validation data."""
        return self.patience is not None or self.restore_best or self.rate == "plateau"

    def scheduler(self, optimizer: Optimizer, epochs: int) -> Scheduler:
        """Of the learning rate over all ``epochs`` of a task."""
        return Scheduler(self.rate, optimizer, epochs, self.judge, self.plateau)


@dataclass(frozen=True)
class Transfer:
    """Between tasks, where there are validation data to judge it by.

    forward: how many earlier tasks a new one may read features of; 0: none
    tasks: how many earlier tasks may gain from a task once it is learnt; 0: none
    mechanism, acceptance: names in ``dsn.transfer``'s MECHANISMS and ACCEPTANCE
    """

    forward: int = 8
    tasks: int = 3
    mechanism: str = "correspondence"
    acceptance: str = "closeness"

    def __post_init__(self) -> None:
        refuse_unknown("transfer mechanism", self.mechanism, tuple(MECHANISMS))
        refuse_unknown("transfer acceptance", self.acceptance, tuple(ACCEPTANCE))

    @property
    def wanted(self) -> bool:
        """Whether any is tried."""
        return bool(self.forward or self.tasks)


@dataclass(frozen=True)
class Compute:
    """How it is computed; results differ by rounding at most.

    precision: "float32", or "bfloat16" for forward and backward passes under torch's autocast; weights, gates
        and the loss stay float32
    channels_last: keep convolution weights and images in that memory format
    compile: training passes through ``torch.compile``; evaluation never, see ``compile_training``
    cache: keep an experience's training samples as tensors where they are known to be the same in each epoch:
        tensors, torchvision's and Avalanche's data sets with transforms of theirs that draw nothing
        (``samples.py``). All others are read anew in each epoch, item by item when they are due, by as many
        workers as ``train(..., num_workers=...)`` says, so that random transforms are drawn anew. So are
        those that would take more than ``cache_bytes``, and with False all. "always": read once, whatever
        they are; for data sets and transforms of your own that draw nothing
    cache_bytes: also the most that the end of a task looks at: samples drawn at random, where there are more
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    cache: bool | str = True
    cache_bytes: int = 2**31

    def __post_init__(self) -> None:
        refuse_unknown("precision", self.precision, PRECISIONS)
        refuse_unknown("cache", self.cache, CACHES)


def preset(name: str, *, tasks: int | None = None, **changes: Any) -> dict[str, Any]:
    """Arguments ``train_epochs``, ``selection``, ``schedule``, ``replay`` and ``transfer`` of ``DSN``.

    Args:
        name: "paper", the published method, or "default", this project's own best; see ``dsn.presets``.
        tasks: how many the stream has, for "default", which shares the network among them.
        **changes: by the name of an argument, a dictionary of what differs from the preset, e.g.
            ``transfer={"tasks": 5}``; ``train_epochs``: a number.

    The optimizer is the script's own (the paper's: ``SGD(lr=0.05)``). So is the wrap: "default" reads edges,
    ``mask_neurons(..., edges="own_and_read")``.

    Raises:
        InputError: an unknown name, argument or setting; "default" without ``tasks``.
    """
    refuse_unknown("preset", name, tuple(PRESETS))
    for block in changes:
        refuse_unknown("preset's argument", block, PRESET_ARGUMENTS)
    values = {block: dict(keys) for block, keys in PRESETS[name].items()}
    train, selection = values["train"], values["selection"]
    selection.pop("edges")
    if selection.get("planned_tasks") == "stream":
        if tasks is None:
            raise InputError(
                f"preset '{name}' shares the network among the tasks: say how many, e.g. tasks=5"
            )
        selection["planned_tasks"] = tasks
    groups = {"selection": Selection, "schedule": Schedule, "transfer": Transfer}
    given: dict[str, Any] = {
        "selection": selection,
        "schedule": {"rate": train["schedule"]},
        "transfer": values["transfer"],
    }
    built = {
        block: _built(block, groups[block], {**given[block], **changes.get(block, {})}) for block in given
    }
    return {
        "train_epochs": changes.get("train_epochs", train["epochs"]),
        **built,
        "replay": {**values.get("replay", {}), **changes.get("replay", {})},
    }


def _built(block: str, group: Any, values: dict[str, Any]) -> Any:
    for key in values:
        refuse_unknown(f"preset's {block}", key, tuple(group.__dataclass_fields__))
    return group(**values)
