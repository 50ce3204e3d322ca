"""The training step of a batch that is computed in parts.

Of the batch's n samples the k-th part has n_k. The loss is sum_k n_k/n L_k, L_k the criterion's mean over the
part with all prices and penalties: the weights sum to 1, so these are counted once. Gradients are summed in
the same tree (``tree.py``). Each process reads every batch whole and draws from its global random generators
what every other draws; within a part they are seeded anew, by a draw a batch.

Batch norms normalise a part by its own mean and variance, and keep the mean over the parts, as weighted.
"""

from __future__ import annotations

import random
from functools import cached_property
from typing import Any

import numpy as np
import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from ...ranks import Ranks
from ..random_states import put_random_states, take_random_states
from .layout import Layout
from .tree import TreeSum, cut


class ShardedUpdate(SupervisedTemplate):
    """An Avalanche strategy whose batches are computed in ``shards`` parts; with 1, Avalanche's own step."""

    shards = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Avalanche's, which lets each class's ``__init__`` look through those of all its bases: a class that
        has none of its own need not do so too."""
        inherits = "__init__" not in cls.__dict__
        super().__init_subclass__(**kwargs)
        if inherits:
            del cls.__init__

    @cached_property
    def ranks(self) -> Ranks:
        """The processes that share the parts."""
        return Ranks()

    def score_of_first(self, score: float) -> float:
        """The first process's ``score``, which decides for all."""
        return score if self.shards == 1 else self.ranks.number_of_first(score)

    def refuse_divergence(self, task: int) -> None:
        """Raise InputError, in all processes, where they have learnt ``task`` to different bits."""
        if self.shards > 1:
            self.ranks.refuse_different(f"task {task}", self.model.state_dict())

    def training_epoch(self, **kwargs: Any) -> None:
        """Avalanche's, the hooks around a forward and a backward pass left out but the last one."""
        if self.shards == 1:
            super().training_epoch(**kwargs)
            return
        for batch in self.dataloader:
            self.mbatch = batch
            if self._stop_training:
                break
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self._compute_in_parts()
            self._take_loss()
            self._after_backward(**kwargs)
            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)

    def _compute_in_parts(self) -> None:
        """Gradients, running statistics, loss and logits of the batch."""
        batch: Any = self.mbatch
        n = len(batch[0])
        rows = cut(n, self.shards)
        total = TreeSum(len(rows), self.ranks.share_of(self.shards), self.ranks)
        layout = Layout(self._trained_parameters(), self._moving_buffers(), n)
        seeds = torch.randint(2**31, (self.shards,)).tolist()
        states = take_random_states(self.device)
        for part in total.own:
            self.mbatch = [tensor[rows[part]] for tensor in batch]
            _seed(seeds[part])
            self.optimizer.zero_grad()
            self.mb_output = self.forward()
            self.loss = (self._make_empty_loss() + self.criterion()) * layout.weight(rows[part])
            self.loss.backward()
            total.add(part, layout.take(part, rows[part], self.loss, self.mb_output))
        put_random_states(states, self.device)
        self.mbatch = batch
        if not total.all_have_some:
            layout.classes = self.ranks.most(layout.classes)
        self.loss, self.mb_output = layout.put(total.total(layout.empty()))

    def _trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _moving_buffers(self) -> list[Tensor]:
        """The running statistics that a pass in training mode changes."""
        raise NotImplementedError

    def _take_loss(self) -> None:
        """Note the loss of a batch, which is computed and finished."""

    def _check_distributed_training_compatibility(self) -> bool:
        """Avalanche's warns of every plugin, where there are several processes."""
        return True


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
