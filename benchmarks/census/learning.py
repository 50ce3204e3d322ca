"""What both tables learn a task with."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dsn import MaskedModel, ProtectedWeights

Build = Callable[[], tuple[nn.Module, str | None]]
"""a network and the path of its head, None where it has none"""


def timm_features(name: str) -> tuple[nn.Module, None]:
    """timm's network of that name, without its classifier."""
    import timm

    return timm.create_model(name, num_classes=0), None


class Learner:
    """One task's training, a step at a time; ``state`` is what a checkpoint holds of it."""

    def __init__(self, model: MaskedModel, task: int) -> None:
        self.model, self.task = model, task
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        self.protected = ProtectedWeights(model)

    def step(self, x: Tensor, y: Tensor, progress: float) -> None:
        self.model.train()
        self.model.anneal(progress)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x, self.task), y).backward()
        with self.protected:
            self.optimizer.step()

    def state(self) -> tuple[dict, dict, Tensor]:
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict(), torch.get_rng_state()))
