"""Scores that say how well an input fits a task, and the task inferred from them.

Shapes: x [n, ...]; T tasks; scores [T, n], larger where it fits better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import InputError
from .known import Known, look

Score = Literal["confidence", "energy", "distance", "combined"]
SCORES: tuple[Score, ...] = ("confidence", "energy", "distance", "combined")
"""confidence: the largest probability of a class in the task's head.
energy: its energy at its own temperature, as the task's validation data have it: mean 0, deviation 1.
distance: minus the distance of its features from its nearest class, in the same units.
combined: the sum of the last two."""


@dataclass(frozen=True)
class Recognised:
    """For each input: ``tasks`` [n], the inferred task, and ``classes`` [n], the class within that task."""

    tasks: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Fit:
    """How inputs fit one task: ``scores`` [S, n], a row for each of ``SCORES``, and ``classes`` [n]."""

    scores: Tensor
    classes: Tensor


def fit(network: nn.Module, task: int, known: Known, x: Tensor) -> Fit:
    """How x [n, ...] fits ``task``, whose subnetwork looks at it."""
    logits, features = look(network, x, task)
    raw = torch.stack([known.energy(logits), known.nearness(features)])
    energy, distance = (raw - known.level[:, None]) / known.spread[:, None]
    scores = {
        "confidence": logits.softmax(1).amax(1),
        "energy": energy,
        "distance": distance,
        "combined": energy + distance,
    }
    return Fit(torch.stack([scores[name] for name in SCORES]), logits.argmax(1))


def choose(fits: Mapping[int, Fit]) -> dict[Score, Recognised]:
    """By each score, the task that inputs fit best, and its choice of a class.

    Raises InputError where there are no tasks to choose among.
    """
    if not fits:
        raise InputError(
            "no task knows its own data, so nothing tells which task an input is of: learn with "
            "evaluation.class_incremental: true, or call model.know_task(task, train, validation)"
        )
    scores = torch.stack([one.scores for one in fits.values()])
    classes = torch.stack([one.classes for one in fits.values()])
    labels = torch.tensor(list(fits), device=classes.device)
    best = scores.argmax(0)  # [S, n]
    return {
        name: Recognised(labels[place], classes.gather(0, place[None])[0])
        for name, place in zip(SCORES, best, strict=True)
    }
