"""Settings of a DSN that do not go together."""

import os
import shutil

import torch

from ..errors import InputError
from ..transfer import MECHANISMS
from .settings import Compute, Selection, Transfer


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, or None."""
    found = (shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return next((path for path in found if path), None)


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
