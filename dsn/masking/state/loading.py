"""The state of a masked model, put into another one that may be narrower and have no tasks yet."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..growth import adopt_widths
from ..records import Lateral, Laterals, OfTasks, TaskRecord
from ..task_life import TaskLife


def make_room(model: TaskLife, state_dict: Mapping[str, Tensor], prefix: str, tasks: list[int]) -> None:
    """Give ``model`` the structure of ``state_dict``: its ``tasks``, and layers as wide."""
    adopt_widths(model, state_dict, prefix)
    model.narrow_columns.clear()
    model.tasks = tasks
    model.task_ids = torch.tensor(tasks, device=model.device, dtype=torch.long)
    for path, gate in model.gates_by_path.items():
        gate.take_structure(state_dict, f"{prefix}gates.{path.replace('.', '/')}.")
    model.heads, model.records, model.laterals = OfTasks(), OfTasks(), OfTasks()
    for norm in model.norms():
        norm.tasks = OfTasks()
    for task in tasks:
        record = model.records[str(task)] = TaskRecord()
        record.take_structure(state_dict, f"{prefix}records.{task}.")
        laterals = model.laterals[str(task)] = Laterals()
        while f"{prefix}laterals.{task}.{len(laterals)}.source" in state_dict:
            start = f"{prefix}laterals.{task}.{len(laterals)}."
            laterals.append(Lateral.from_state(state_dict, start).to(model.device))
        weight = state_dict.get(f"{prefix}heads.{task}.weight")
        if weight is not None:
            classes, size = weight.shape
            model.heads[str(task)] = nn.Linear(size, classes, device=model.device, dtype=model.dtype)
    if model.edges is not None:
        model.edges.take_structure(model, state_dict, f"{prefix}edges.")
    for path, norm in model.norms_by_path.items():
        for task in tasks:
            norm.take_structure(task, state_dict, f"{prefix}backbone.{path}.")
    for task in model.committed:
        model.end_training(task)
