"""Settings of a DSN that do not go together, and data that it cannot learn from."""

import os
import shutil
from collections.abc import Iterable

import torch

from ..errors import InputError
from ..masking import MaskedModel
from ..transfer import MECHANISMS
from .settings import Compute, Schedule, Selection, Transfer


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
) -> None:
    """Raise InputError for arguments of a DSN that do not go together."""
    if not isinstance(model, MaskedModel):
        raise InputError(f"model is a {type(model).__name__}: wrap it with mask_neurons(...) first")
    refuse_compiling(compute, device)
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


def refuse_compiling(compute: Compute, device: str | torch.device) -> None:
    """Raise InputError where nothing can be compiled."""
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
