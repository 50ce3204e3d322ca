"""DSN as an Avalanche strategy: each task learns a subnetwork, no earlier task changes.

One task goes: add_task -> epochs with soft gates -> commit -> (consolidation) -> freeze. Shapes as in
``dsn.masking``: x [batch, ...], logits [batch, classes of the task].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError
from ..evaluation.experiences import task_label
from ..masking import MaskedModel, ProtectedWeights, grow, sparsity
from ..masking.initial import start_task
from ..masking.state.snapshot import StateCopies
from ..topology.first_edges import balance_first_edges
from ..transfer import ForwardOutcome, TransferOutcome
from .groups import Undecayed
from .hooks import IterationHooks
from .judging import Judging
from .loader import Batches
from .losses import Losses
from .refusals import refuse_other_tasks, refuse_settings, say_no_transfer
from .samples import task_labels
from .settings import Compute, Schedule, Selection, Transfer
from .state import END, Resumable
from .task_end import end_task


class DSN(Resumable, Judging, IterationHooks):
    """Data-free subnetworks (Gao et al., NeurIPS 2023) for task-incremental streams.

    Args:
        model: a backbone wrapped by ``mask_neurons``.
        optimizer: any torch optimizer. For each task its groups are emptied and filled with what the task
            trains: weights in the group where they were, head and gate logits in the first. Gate logits take
            no weight decay. Groups and their options stay, so that any scheduler works on them.
        criterion: loss of (logits, targets).
        train_epochs: epochs with soft gates; ``schedule`` may have others before and after them.
        train_mb_size, eval_mb_size: batch sizes.
        selection, schedule, transfer, compute: settings, by what they are about.
        replay: arguments of ``dsn.replay.synthesise`` where impressions are needed, with ``images``.
        seed: of the impressions.
        device, evaluator, **avalanche: as in Avalanche; ``augment``, ``shards``: as in ``TaskByTask``.

    Validation data are the experiences of the task's label in ``train(experience, eval_streams=[...])``, the
    training experience itself excepted. Without them nothing can be judged, and transfer is left out with a
    warning. ``transfers`` holds a TransferOutcome for each attempt, ``forward_transfers`` a ForwardOutcome
    for each task after the first.

    Where ``train`` does not come to its end (Ctrl-C, an error), the next ``train`` drops the half-learnt task
    and begins with the network as it was before it, on the same experience or another.

    In an evaluation, samples of classes that the task has never seen count as wrong.

    Raises:
        InputError: bad settings; an experience with no or several task labels, without samples, with labels
            that are no class numbers, or of a task learnt before; a loss that is not finite (names task,
            epoch and iteration).
    """

    def __init__(
        self,
        *,
        model: MaskedModel,
        optimizer: Optimizer,
        criterion: Any = None,
        train_epochs: int = 1,
        train_mb_size: int = 64,
        eval_mb_size: int | None = 512,
        selection: Selection = Selection(),
        schedule: Schedule = Schedule(),
        transfer: Transfer = Transfer(),
        replay: Mapping[str, Any] | None = None,
        compute: Compute = Compute(),
        seed: int = 0,
        device: str | torch.device = "cpu",
        evaluator: EvaluationPlugin | Any = default_evaluator,
        **avalanche: Any,
    ) -> None:
        shards = avalanche.get("shards", 1)
        refuse_settings(model, train_epochs, selection, schedule, transfer, compute, device, shards)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_epochs=train_epochs,
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            schedule=schedule,
            device=device,
            evaluator=evaluator,
            **avalanche,
        )
        self.selection, self.transfer, self.compute = selection, transfer, compute
        self.replay = {"images": 200, **(replay or {})}
        self.seed = seed
        self._copies = StateCopies()
        self.transfers: list[TransferOutcome] = []
        self.forward_transfers: list[ForwardOutcome] = []
        self.cache, self.cache_bytes = compute.cache, compute.cache_bytes
        self.precision, self.channels_last = compute.precision, compute.channels_last
        if compute.compile:
            model.compile_training()

    # ---- one task --------------------------------------------------------------------------------------

    def check_model_and_optimizer(self, **_kwargs: Any) -> None:
        """Begin the experience's task: neurons, head, norm state, protected weights, optimizer."""
        if self.resumed is not None:
            self._to_device()
            self.protected = self.resumed.begin_task(self, task_label(self.experience))
            self._begun = self.resumed
            self.make_optimizer()
            return
        task, selection = self._task_to_learn(), self.selection
        refuse_other_tasks(task, task_labels(self.adapted_dataset))
        if selection.growth:
            grow(self.model, by=selection.growth)
        self._begin(task, self._copies.of(self.model))
        self.model.add_task(self.count_classes(), task, **selection.of_task)
        self._to_device()
        self.protected = ProtectedWeights(self.model)
        start_task(self.model, self.protected, **selection.initial)
        if selection.first_edges == "balanced":
            balance_first_edges(self.model, np.random.default_rng(int(torch.randint(2**31, ()))))
        self.make_optimizer()

    def _to_device(self) -> None:
        self.model.to(self.device)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)

    def go_back(self, _task: int, kept: Any) -> None:
        """Make the network what it was before a task that is half learnt."""
        self.model.load_state_dict(kept)
        self.model.dense = False
        self.model.select(None)
        self.phase, self.resumed = None, None

    def make_optimizer(self, **_kwargs: Any) -> None:
        """Empty the optimizer and fill it with what the task being learnt trains."""
        self.groups.fill(self.model.task_parameters(self.model.tasks[-1]))
        faster = self.selection.score_lr_factor if self.model.edges is not None else 1.0
        self._undecayed = Undecayed(self.optimizer, self._choice(), faster)

    def _choice(self) -> list[nn.Parameter]:
        """Gate logits and scores of edges: gone with the commit, never decayed."""
        return [*self.model.gate_logits(), *self.model.scores()]

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        task = self.model.tasks[-1]
        self._validation = self._validation_samples(task, self.transfer.wanted)
        self._scheduler = self.schedule.scheduler(self.optimizer, sum(self._phases()))
        first = 0
        if self.resumed is not None:
            first = self.resumed.phase
            self.resumed.begin_training(self)
        for self.phase in range(first, END):
            self._begin_phase(task)
            go_on = None if self.resumed is None else self.resumed.epoch
            epochs = self._phases()[self.phase]
            self._train_phase(task, epochs, self._scheduler, go_on=go_on, **kwargs)
        self.phase, self.resumed, self._losses = END, None, Losses()
        self.model.freeze(task)
        self.refuse_divergence(task)
        if self.transfer.wanted:
            if self.at_rest is not None:
                self.at_rest("end")
            self._end_task(task)
            self._take_over_outcome()
        self.phase = self._begun = None

    def _begin_phase(self, task: int) -> None:
        """Warm-up, then soft gates, then the committed mask."""
        if self.phase == 2 and self.model.learning == task:
            self.groups.remove(self._choice())
            self.model.commit(task, freeze=False)
        self.model.dense = self.phase == 0 or (self.phase == 1 and not self.train_epochs)

    def _end_task(self, task: int) -> None:
        if self._validation is None:
            say_no_transfer()
            return
        forward, backward = end_task(
            self.model,
            task,
            *self.read_some(self.seed + task),
            self._validation,
            self.transfer,
            replay=self.replay,
            seed=self.seed,
        )
        self.transfers += backward
        if forward is not None:
            self.forward_transfers.append(forward)

    def _restorable(self) -> MaskedModel:
        return self.model

    def _phases(self) -> tuple[int, int, int]:
        """Epochs of warm-up, of soft gates, of consolidation."""
        return self.schedule.warmup_epochs, self.train_epochs, self.schedule.consolidation_epochs

    # ---- one batch -------------------------------------------------------------------------------------

    def forward(self) -> Tensor:
        """Logits of the experience's task; all equal for a task that has not been learnt."""
        self.refuse_foreign_type(self.mb_x)
        if not self.is_training:
            return self.evaluated_logits(task_label(self.experience))
        task = self.model.tasks[-1]
        if not isinstance(self.dataloader, Batches):
            refuse_other_tasks(task, self.mb_task_id.unique().tolist())
        self.model.anneal(self._annealing(), self.selection.s_max)
        return self._logits(self.mb_x, task)

    def _annealing(self) -> float:
        """How far it is, 0 to 1."""
        epoch = self.clock.train_exp_epochs - self.schedule.warmup_epochs
        iteration, iterations = self.clock.train_epoch_iterations, len(self.dataloader)
        return self.selection.progress(iteration, iterations, epoch, self.train_epochs)

    def criterion(self) -> Tensor:
        """Cross-entropy, and while training the price of free neurons: L + eta * sparsity."""
        loss = super().criterion()
        if not self.is_training:
            return loss
        return torch.add(loss, sparsity(self.model, self.model.tasks[-1]), alpha=self.selection.sparsity)

    def optimizer_step(self) -> None:
        """A step that leaves protected weights and the range of the gate logits as they are."""
        with self.protected, self._undecayed:
            self.optimizer.step()
        self.model.clamp_logits()
        self._mean.update()

    def _refuse_bad_loss(self) -> None:
        try:
            super()._refuse_bad_loss()
        except InputError:
            self.model.clear_divergence()  # 0 * nan is nan: earlier tasks must not feel it
            raise
