"""What is at hand when a task has just been learnt and an earlier one might gain: no data of the latter.

Shapes: x [n, ...] and y [n] of the later task, its own training data; match [classes of the earlier task].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ..masking import MaskedModel
from ..replay import Impressions
from .assessment import own_logits, remembered
from .correspondence import SAMPLES, Correspondence, correspond

Replay = Callable[[int, int], Impressions]  # (task, seed) -> impressions of the task
Targets = tuple[Tensor, Tensor]
"""x [n, ...], targets [n, classes], whose rows sum to 1"""


@dataclass(frozen=True, eq=False)
class Situation:
    """An earlier ``task``, and the later task ``source`` with its training data x [n, ...], y [n]."""

    model: MaskedModel
    task: int
    source: int
    x: Tensor
    y: Tensor
    replay: Replay
    seed: int = 0

    def classes(self, task: int) -> int:
        """How many classes ``task`` has."""
        return self.model.heads[str(task)].out_features  # type: ignore[return-value]

    def look(self) -> None:
        """Take in what must be seen before the earlier task is changed."""
        _ = (self.correspondence, self.temperature)

    @cached_property
    def correspondence(self) -> Correspondence | None:
        """Which of the later task's classes stand for the earlier task's; None if there are too few."""
        return correspond(self.model, self.task, self.x, self.y, self.classes(self.source))

    @cached_property
    def outputs(self) -> Tensor:
        """What the earlier task says of the later task's images: calibrated probabilities [n, classes]."""
        return self.says_of(self.x)

    def says_of(self, x: Tensor) -> Tensor:
        """What the earlier task says of x [n, ...]: calibrated probabilities [n, classes]."""
        return (own_logits(self.model, x, self.task) / self.temperature).softmax(1)

    @cached_property
    def impressions(self) -> Impressions:
        """Impressions of the earlier task to train on."""
        return self.replay(self.task, 2 * self.seed)

    @cached_property
    def held_out_impressions(self) -> Impressions:
        """Impressions of the earlier task from another seed, to judge by."""
        return self.replay(self.task, 2 * self.seed + 1)

    @cached_property
    def temperature(self) -> float:
        """What suits the earlier task's own logits on its own validation data; 1 if unknown."""
        return remembered(self.model, self.task, "temperature") or 1.0

    def relabelled(self) -> tuple[Tensor, Tensor] | None:
        """The later task's images that stand for a class of the earlier one, with that class: x, y."""
        if self.correspondence is None:
            return None
        match = self.correspondence.match.to(self.y.device)
        step = -(-len(self.x) // SAMPLES)
        x, y = self.x[::step], self.y[::step]
        mine = torch.full((self.classes(self.source),), -1, device=self.y.device)
        mine[match] = torch.arange(len(match), device=self.y.device)
        shared = mine[y] >= 0
        return x[shared], mine[y[shared]]

    def relabelled_targets(self) -> Targets | None:
        """:meth:`relabelled`, its labels as targets."""
        relabelled = self.relabelled()
        if relabelled is None:
            return None
        x, y = relabelled
        return x, F.one_hot(y, self.classes(self.task)).float()

    def anchored_targets(self) -> Targets | None:
        """:meth:`relabelled_targets`, and impressions of the earlier task with what it says of them."""
        relabelled = self.relabelled_targets()
        if relabelled is None:
            return None
        (x, targets), made = relabelled, self.impressions.x
        says = self.says_of(made).to(targets.device, targets.dtype)
        return torch.cat([x, made.to(x.device)]), torch.cat([targets, says])
