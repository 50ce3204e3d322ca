"""DSN as an Avalanche strategy: each task learns a subnetwork, no earlier task changes.

One task goes: add_task -> epochs with soft gates -> commit -> (consolidation) -> freeze. Shapes as in
``dsn.masking``: x [batch, ...], logits [batch, classes of the task].
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError
from ..evaluation.experiences import name_of, task_label
from ..masking import MaskedModel, ProtectedWeights, grow, sparsity
from ..masking.initial import start_task
from ..transfer import ForwardOutcome, TransferOutcome
from .beginning import Beginning
from .groups import ParameterGroups, Undecayed
from .hooks import IterationHooks
from .judging import Judging
from .loader import Batches, explaining_dead_workers
from .loading import refuse_below
from .phases import Phases
from .refusals import refuse_compiling, refuse_gates
from .resumable import Resumable
from .samples import read_samples
from .schedule import Scheduler
from .settings import Compute, Schedule, Selection, Transfer
from .state import END, Resumed
from .task_end import end_task


class DSN(IterationHooks, Judging, Phases, Resumable, SupervisedTemplate):
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
        device, evaluator, **avalanche: as in every Avalanche strategy.

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

    model: MaskedModel
    dataloader: Any
    _stop_training: bool

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
        if not isinstance(model, MaskedModel):
            raise InputError(f"model is a {type(model).__name__}: wrap it with mask_neurons(...) first")
        refuse_compiling(compute, device)
        if train_epochs + schedule.warmup_epochs < 1:
            raise InputError("train_epochs and warmup_epochs are both 0: a task would learn nothing")
        refuse_below(1, {"train_mb_size": train_mb_size, "eval_mb_size": eval_mb_size})
        refuse_below(0, {"train_epochs": train_epochs})
        if model.edges is not None:
            refuse_gates(selection, transfer)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            evaluator=evaluator,
            **avalanche,
        )
        self.selection, self.schedule, self.transfer, self.compute = selection, schedule, transfer, compute
        self.replay = {"images": 200, **(replay or {})}
        self.seed = seed
        self._losses: list[Tensor] = []
        self.transfers: list[TransferOutcome] = []
        self.forward_transfers: list[ForwardOutcome] = []
        self.cache, self.cache_bytes = compute.cache, compute.cache_bytes
        self.precision, self.channels_last = compute.precision, compute.channels_last
        if compute.compile:
            model.compile_training()
        self.groups = ParameterGroups(optimizer, model)
        self._begun: Beginning | None = None
        self.phase: int | None = None
        """of the task being learnt, see ``state.END``; None between tasks"""
        self.resumed: Resumed | None = None
        self.at_rest: Callable[[str], None] | None = None
        """called wherever the state can be taken: after each "iteration", and before the "end" of a task"""

    # ---- one task --------------------------------------------------------------------------------------

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> Any:
        """Avalanche's; what an interrupted call before has left half-learnt is dropped first."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun.restore(self)
        try:
            return super().train(experiences, eval_streams, **kwargs)
        except BaseException:
            self.is_training, self._eval_streams = False, None
            raise

    def check_model_and_optimizer(self, **_kwargs: Any) -> None:
        """Begin the experience's task: neurons, head, norm state, protected weights, optimizer."""
        if self.resumed is not None:
            self._to_device()
            self.protected = self.resumed.begin_task(self, task_label(self.experience))
            self._begun = Beginning(self, self.resumed.task, self.resumed.state)
            self.make_optimizer()
            return
        task = self._task_to_learn()
        selection = self.selection
        if selection.growth:
            grow(self.model, by=selection.growth)
        self._begun = Beginning(self, task)
        if self.schedule.rate != "constant":
            self.groups.put_options(self.groups.options)
        self.model.add_task(
            self.count_classes(),
            task,
            budget=selection.budget,
            planned_tasks=selection.planned_tasks,
            logit_mean=selection.logit_mean,
            logit_std=selection.logit_std,
        )
        self._to_device()
        self.protected = ProtectedWeights(self.model)
        start_task(self.model, self.protected, **selection.initial)
        self.make_optimizer()

    def _to_device(self) -> None:
        self.model.to(self.device)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)

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
        self._validation = self._validation_samples(task)
        self._scheduler = self._make_scheduler()
        first = 0
        if self.resumed is not None:
            first = self.resumed.phase
            self.resumed.begin_training(self)
        for self.phase in range(first, END):
            self._begin_phase(task)
            go_on = None if self.resumed is None else self.resumed.epoch
            epochs = self._phases()[self.phase]
            self._train_phase(task, epochs, self._scheduler, go_on=go_on, **kwargs)
        self.phase, self.resumed, self._losses = END, None, []
        self.model.freeze(task)
        if self.transfer.wanted:
            if self.at_rest is not None:
                self.at_rest("end")
            self._end_task(task)
        self.phase = self._begun = None

    def _begin_phase(self, task: int) -> None:
        """Warm-up, then soft gates, then the committed mask."""
        if self.phase == 2 and self.model.learning == task:
            self.groups.remove(self._choice())
            self.model.commit(task, freeze=False)
        self.model.dense = self.phase == 0 or (self.phase == 1 and not self.train_epochs)

    def _end_task(self, task: int) -> None:
        if self._validation is None:
            warnings.warn(
                "without validation data no transfer can be judged, so none is made: give them as "
                "train(experience, eval_streams=[...]), or set transfer=Transfer(tasks=0, forward=0)",
                stacklevel=2,
            )
            return
        forward, backward = end_task(
            self.model,
            task,
            *read_samples(self.adapted_dataset),
            self._validation,
            tasks=self.transfer.tasks,
            forward=self.transfer.forward,
            mechanism=self.transfer.mechanism,
            acceptance=self.transfer.acceptance,
            replay=self.replay,
            seed=self.seed,
        )
        self.transfers += backward
        if forward is not None:
            self.forward_transfers.append(forward)

    def _restorable(self) -> MaskedModel:
        return self.model

    def _begin_losses(self) -> None:
        self._losses = []
        if self.resumed is not None:
            self.resumed.begin_epoch(self)
            self.resumed = None

    def _phases(self) -> tuple[int, int, int]:
        """Epochs of warm-up, of soft gates, of consolidation."""
        return self.schedule.warmup_epochs, self.train_epochs, self.schedule.consolidation_epochs

    def _make_scheduler(self) -> Scheduler:
        chosen = self.schedule
        return Scheduler(chosen.rate, self.optimizer, sum(self._phases()), chosen.judge, chosen.plateau)

    def training_epoch(self, **kwargs: Any) -> None:
        with explaining_dead_workers():
            super().training_epoch(**kwargs)

    def eval_epoch(self, **kwargs: Any) -> None:
        with explaining_dead_workers():
            super().eval_epoch(**kwargs)

    # ---- one batch -------------------------------------------------------------------------------------

    def forward(self) -> Tensor:
        """Logits of the experience's task; all equal for a task that has not been learnt."""
        self.refuse_foreign_type(self.mb_x)
        if not self.is_training:
            return self.evaluated_logits(task_label(self.experience))
        task = self.model.tasks[-1]
        if not isinstance(self.dataloader, Batches):
            self._refuse_other_tasks(task, self.mb_task_id.unique().tolist())
        self.model.anneal(self._progress(), self.selection.s_max)
        return self._logits(self.mb_x, task)

    def _progress(self) -> float:
        """How far annealing is, 0 to 1: within the epoch, or within all epochs with soft gates.

        An epoch of a single batch has no room for it: then it goes over all epochs too.
        """
        done, length = self.clock.train_epoch_iterations, len(self.dataloader)
        if self.selection.annealing == "task" or length == 1:
            done += length * max(self.clock.train_exp_epochs - self.schedule.warmup_epochs, 0)
            length *= max(self.train_epochs, 1)
        return min(done / max(length - 1, 1), 1.0)

    def criterion(self) -> Tensor:
        """Cross-entropy, and while training the price of free neurons: L + eta * sparsity."""
        loss = super().criterion()
        if not self.is_training:
            return loss
        loss = torch.add(loss, sparsity(self.model, self.model.tasks[-1]), alpha=self.selection.sparsity)
        self._losses.append(loss.detach())
        return loss

    def optimizer_step(self) -> None:
        """A step that leaves protected weights and the range of the gate logits as they are."""
        with self.protected, self._undecayed:
            self.optimizer.step()
        self.model.clamp_logits()
        self._mean.update()

    def _after_training_iteration(self, **kwargs: Any) -> None:
        super()._after_training_iteration(**kwargs)
        if self.at_rest is not None:
            self.at_rest("iteration")

    def _refuse_bad_loss(self) -> None:
        bad = (~torch.isfinite(torch.stack(self._losses or [torch.zeros(())]))).nonzero()
        if not len(bad):
            return
        iteration = int(bad[0])
        for _, layer in self.model.layer_modules():
            for parameter in layer.parameters():  # 0 * nan is nan: earlier tasks must not feel it
                parameter.data.nan_to_num_(0.0, 0.0, 0.0)
        raise InputError(
            f"task {self.model.tasks[-1]}, epoch {self.clock.train_exp_epochs}, iteration {iteration}: "
            "the loss is not finite; lower the learning rate, or look for such values in the data"
        )

    # ---- data ------------------------------------------------------------------------------------------

    def _task_to_learn(self) -> int:
        task = task_label(self.experience)
        if task in self.model.tasks:
            raise InputError(
                f"{name_of(self.experience)} has task label {task}, which was learnt before and never "
                "changes: does the stream carry task labels? (return_task_id=True in Avalanche's classic "
                "streams, task_labels=True in nc_benchmark)"
            )
        labels = getattr(self.adapted_dataset, "targets_task_labels", None)
        self._refuse_other_tasks(task, [] if labels is None else labels.uniques)
        return task

    def _refuse_other_tasks(self, task: int, labels: Iterable[int]) -> None:
        others = sorted(set(labels) - {task})
        if others:
            raise InputError(
                f"the training data of task {task} hold samples of tasks {others}: remove the plugin that "
                "adds them (replay); earlier subnetworks are fixed and cannot learn from them"
            )

    def model_adaptation(self, model: nn.Module | None = None) -> nn.Module:
        """The model as it is: tasks are added in training alone, so evaluating has no side effects."""
        return (self.model if model is None else model).to(self.device)
