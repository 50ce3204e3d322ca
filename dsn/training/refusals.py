"""Settings of a DSN that do not go together, and data that it cannot learn from."""

import os
import shutil
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin

from ..errors import InputError
from ..masking import MaskedModel
from ..masking.kinds.norm import asks_other_processes
from ..transfer import MECHANISMS
from .hooks import acts
from .settings import Compute, Schedule, Selection, Transfer
from .shards.tree import LEAST


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, or None."""
    found = (shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return next((path for path in found if path), None)


def refuse_settings(
    model: object,
    train_epochs: int,
    selection: Selection,
    schedule: Schedule,
    transfer: Transfer,
    compute: Compute,
    device: str | torch.device,
    shards: int,
) -> None:
    """Raise InputError for arguments of a DSN that do not go together."""
    if not isinstance(model, MaskedModel):
        raise InputError(f"model is a {type(model).__name__}: wrap it with mask_neurons(...) first")
    refuse_compiling(compute, device, shards)
    if train_epochs + schedule.warmup_epochs < 1:
        raise InputError("train_epochs and warmup_epochs are both 0: a task would learn nothing")
    if model.edges is not None:
        refuse_gates(selection, transfer)


def refuse_gates(selection: Selection, transfer: Transfer) -> None:
    """Raise InputError for what needs gates that learn, which a model with edges has not."""
    if transfer.mechanism == "gates":
        raise InputError(
            "transfer 'gates' changes masks, and with edges they say who owns a weight: "
            f"choose one of {', '.join(name for name in MECHANISMS if name != 'gates')}"
        )
    if selection.planned_tasks is None:
        raise InputError("edges: say how many tasks shall share the neurons, planned_tasks=...")
    if selection.budget is not None:
        raise InputError("edges choose what a task reads, and planned_tasks what it owns: leave budget out")


def refuse_compiling(compute: Compute, device: str | torch.device, shards: int) -> None:
    """Raise InputError where nothing can be compiled, or each process would compile other sums."""
    if compute.compile and shards > 1:
        raise InputError(
            f"compile: with batches in {shards} parts, compiled code may sum in another order in each "
            "process; leave out train.compile or train.shards"
        )
    if compute.compile and torch.device(device).type == "cpu" and not find_compiler():
        raise InputError("compile: torch.compile needs a C++ compiler on a CPU; install g++ or clang++")


def refuse_other_tasks(task: int, labels: Iterable[int]) -> None:
    """Raise InputError where the training data of ``task`` have other tasks' ``labels`` too."""
    others = sorted(set(labels) - {task})
    if others:
        raise InputError(
            f"the training data of task {task} hold samples of tasks {others}: remove the plugin that "
            "adds them (replay); earlier subnetworks are fixed and cannot learn from them"
        )


AMID_A_PASS = ("before_forward", "after_forward", "before_backward")


def refuse_shards(strategy: Any) -> None:
    """Raise InputError, naming the strategy, where its batches cannot be computed in its ``shards`` parts."""
    shards, name = strategy.shards, type(strategy).__name__
    strategy.ranks.share_of(shards)
    if strategy.train_mb_size < LEAST * shards:
        raise InputError(
            f"train.shards is {shards}: a batch of {strategy.train_mb_size} has not {LEAST} samples for each "
            f"part; set train.batch_size to {LEAST * shards} or more, or fewer parts"
        )
    if strategy.mixes_tasks:
        raise InputError(
            f"train.shards is {shards}, but {name} mixes samples of several tasks in a batch, and a part may "
            "lack some of them; set it to 1"
        )
    for plugin in strategy.plugins:
        amid = [event for event in AMID_A_PASS if acts(plugin, event)]
        if amid and not isinstance(plugin, EvaluationPlugin):
            raise InputError(
                f"train.shards is {shards}, but {type(plugin).__name__} of {name} acts {amid[0]}, where only "
                "a part of the batch is at hand; set it to 1"
            )
    for path, module in strategy.model.named_modules():
        if asks_other_processes(module):
            raise InputError(
                f"train.shards is {shards}, but '{path}' is a SyncBatchNorm, which asks other processes amid "
                "a pass; use a plain batch norm"
            )


def say_no_transfer() -> None:
    """Warn that a task has no validation data, by which transfers are judged."""
    warnings.warn(
        "without validation data no transfer can be judged, so none is made: give them as "
        "train(experience, eval_streams=[...]), or set transfer=Transfer(tasks=0, forward=0)",
        stacklevel=3,
    )
