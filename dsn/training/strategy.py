"""DSN as an Avalanche strategy: each task learns a subnetwork, no earlier task changes.

One task goes: add_task -> epochs with soft gates -> commit -> (consolidation) -> freeze. Shapes as in
``dsn.masking``: x [batch, ...], logits [batch, classes of the task].
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
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
from ..masking.layers import evaluating
from ..storage import Tree, read_tree, write_tree
from ..transfer import ACCEPTANCE, MECHANISMS, ForwardOutcome, TransferOutcome
from .average import running_mean
from .beginning import Beginning
from .best_state import BestState
from .groups import ParameterGroups, Undecayed
from .hooks import IterationHooks
from .loader import Batches, explaining_dead_workers
from .loading import Loading, no_validation, refuse_below
from .samples import read_samples
from .schedule import Schedule, checked, summed_score
from .state import END, Resumed, put_state, take_state
from .task_end import end_task

ANNEALING = ("epoch", "task")
CACHES = (True, False, "always")
PRECISIONS = ("float32", "bfloat16")
STATE_FILE, STATE_FORMAT, STATE_VERSION = "strategy.safetensors", "dsn-strategy", 1


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, or None."""
    found = (shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return next((path for path in found if path), None)


def _refuse_gates(transfer: str, planned_tasks: int | None, budget: object) -> None:
    """Raise InputError for what needs gates that learn, which a model with edges has not."""
    if transfer == "gates":
        raise InputError(
            "transfer 'gates' changes masks, and with edges they say who owns a weight: "
            f"choose one of {', '.join(name for name in MECHANISMS if name != 'gates')}"
        )
    if planned_tasks is None:
        raise InputError("edges: say how many tasks shall share the neurons, planned_tasks=...")
    if budget is not None:
        raise InputError("edges choose what a task reads, and planned_tasks what it owns: leave budget out")


class DSN(IterationHooks, Loading, SupervisedTemplate):
    """Data-free subnetworks (Gao et al., NeurIPS 2023) for task-incremental streams.

    Args:
        model: a backbone wrapped by ``mask_neurons``.
        optimizer: any torch optimizer. For each task its groups are emptied and filled with what the task
            trains: weights in the group where they were, head and gate logits in the first. Gate logits take
            no weight decay. Groups and their options stay, so that any scheduler works on them.
        criterion: loss of (logits, targets).
        train_epochs: epochs with soft gates.
        annealing: s goes from 1/s_max to s_max within each "epoch" (the paper) or once over all ("task").
        warmup_epochs: dense epochs before them.
        consolidation_epochs: epochs with the committed mask after them.
        train_mb_size, eval_mb_size: batch sizes.
        sparsity: eta, the price of the free neurons (METHOD.md, section 1).
        s_max: largest annealing scale.
        budget: at most this share of a layer's neurons is selected, for all layers or by layer path.
        planned_tasks: how many tasks shall share the network's edges evenly; None: no plan.
        logit_mean, logit_std: gate logits start from N(mean, std).
        score_lr_factor: the scores of edges learn at the optimizer's rate times this, without weight decay
            (``mask_neurons(..., edges="own_and_read")``).
        initial: arguments of ``dsn.masking.initial.start_task``: neurons that a task starts with.
        growth: neurons added to a layer that has no free one when a task begins; 0 switches growth off.
        schedule: of the learning rate over a task's epochs: "constant", "cosine" (to 0) or "plateau", with
            the fields of ``schedule.Plateau`` in ``plateau``.
        judge: what an epoch is judged by on validation data: "accuracy" or "loss" (cross-entropy).
        patience: end a phase after so many epochs that were not judged better; None: never.
        restore_best: end each phase with the state of its epoch that was judged best.
        average_epochs: what is judged, and kept at a phase's end, is the mean over the steps of about so many
            of its last epochs, of weights, scores, gate logits and norm statistics; 0: the last step's.
        transfer_tasks: how many earlier tasks may gain from a task once it is learnt; 0 switches it off.
        forward_tasks: how many earlier tasks a new one may read features of; 0 switches it off.
        transfer, acceptance: names in ``dsn.transfer``'s MECHANISMS and ACCEPTANCE.
        replay: arguments of ``dsn.replay.synthesise`` where impressions are needed, with ``images``.
        seed: of the impressions.
        precision: "float32", or "bfloat16" for forward and backward passes under torch's autocast; weights,
            gates and the loss stay float32.
        channels_last: keep convolution weights and images in that memory format.
        compile: training passes through ``torch.compile``; evaluation never, see ``compile_training``.
        cache: keep an experience's training samples as tensors where they are known to be the same in each
            epoch: tensors, torchvision's and Avalanche's data sets with transforms of theirs that draw
            nothing (``samples.py``). All others are read anew in each epoch, item by item when they are due,
            by as many workers as ``train(..., num_workers=...)`` says, so that random transforms are drawn
            anew. So are those that would take more than ``cache_bytes``, and with False all. "always": read
            once, whatever they are; for data sets and transforms of your own that draw nothing.
        device, plugins, evaluator, eval_every: as in every Avalanche strategy.

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
        warmup_epochs: int = 0,
        consolidation_epochs: int = 0,
        train_mb_size: int = 64,
        eval_mb_size: int | None = 512,
        sparsity: float = 0.75,
        s_max: float = 400.0,
        annealing: str = "epoch",
        budget: float | Mapping[str, float] | None = None,
        planned_tasks: int | None = None,
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        score_lr_factor: float = 10.0,
        initial: Mapping[str, Any] | None = None,
        growth: int = 0,
        schedule: str = "constant",
        plateau: Mapping[str, Any] | None = None,
        judge: str = "accuracy",
        patience: int | None = None,
        restore_best: bool = False,
        average_epochs: float = 0.0,
        transfer_tasks: int = 3,
        forward_tasks: int = 8,
        transfer: str = "correspondence",
        acceptance: str = "closeness",
        replay: Mapping[str, Any] | None = None,
        seed: int = 0,
        precision: str = "float32",
        channels_last: bool = False,
        compile: bool = False,
        cache: bool | str = True,
        cache_bytes: int = 2**31,
        device: str | torch.device = "cpu",
        plugins: Sequence[Any] | None = None,
        evaluator: EvaluationPlugin | Any = default_evaluator,
        eval_every: int = -1,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(model, MaskedModel):
            raise InputError(f"model is a {type(model).__name__}: wrap it with mask_neurons(...) first")
        self.plateau = checked(schedule, judge, plateau)
        if annealing not in ANNEALING:
            raise InputError(f"annealing is '{annealing}': choose one of {', '.join(ANNEALING)}")
        if precision not in PRECISIONS:
            raise InputError(f"precision is '{precision}': choose one of {', '.join(PRECISIONS)}")
        if compile and torch.device(device).type == "cpu" and not find_compiler():
            raise InputError("compile: torch.compile needs a C++ compiler on a CPU; install g++ or clang++")
        if train_epochs + warmup_epochs < 1:
            raise InputError("train_epochs and warmup_epochs are both 0: a task would learn nothing")
        if cache not in CACHES:
            raise InputError(f"cache is {cache!r}: choose one of {', '.join(map(repr, CACHES))}")
        sizes = {"train_mb_size": train_mb_size, "eval_mb_size": eval_mb_size}
        refuse_below(1, sizes)
        epochs = {"train_epochs": train_epochs, "warmup_epochs": warmup_epochs}
        refuse_below(0, {**epochs, "consolidation_epochs": consolidation_epochs, "growth": growth})
        refuse_below(0, {"average_epochs": average_epochs})
        for value, known in ((transfer, MECHANISMS), (acceptance, ACCEPTANCE)):
            if value not in known:
                raise InputError(f"transfer or acceptance is '{value}': choose one of {', '.join(known)}")
        if model.edges is not None:
            _refuse_gates(transfer, planned_tasks, budget)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )
        self.warmup_epochs = warmup_epochs
        self.consolidation_epochs = consolidation_epochs
        self.sparsity = sparsity
        self.s_max = s_max
        self.annealing = annealing
        self.budget, self.planned_tasks = budget, planned_tasks
        self.logit_mean, self.logit_std = logit_mean, logit_std
        self.score_lr_factor = score_lr_factor
        self.initial = initial or {}
        self.growth = growth
        self.schedule, self.judge = schedule, judge
        self.patience = patience
        self.restore_best = restore_best
        self.average_epochs = average_epochs
        self.transfer_tasks, self.forward_tasks = transfer_tasks, forward_tasks
        self.transfer, self.acceptance = transfer, acceptance
        self.replay = {"images": 200, **(replay or {})}
        self.seed = seed
        self._losses: list[Tensor] = []
        self.transfers: list[TransferOutcome] = []
        self.forward_transfers: list[ForwardOutcome] = []
        self.cache, self.cache_bytes = cache, cache_bytes
        self.precision, self.channels_last = precision, channels_last
        if compile:
            model.compile_training()
        self.groups = ParameterGroups(optimizer, model)
        self._begun: Beginning | None = None
        self.phase: int | None = None
        """of the task being learnt, see ``state.END``; None between tasks"""
        self.phase_epoch = 0
        self.resumed: Resumed | None = None
        self.at_rest: Callable[[str], None] | None = None
        """called wherever the state can be taken: after each "iteration", and before the "end" of a task"""

    # ---- the whole state -------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, also amid training: logits and loss of the last batch are numbers there, without graph.

        A copy of a half-learnt task is one whose training was interrupted: its next ``train`` drops the task.
        """
        return {
            name: value.detach() if isinstance(value, Tensor) and not value.is_leaf else value
            for name, value in self.__dict__.items()
        }

    def take_state(self) -> dict[str, Tree]:
        """Everything that training goes on from, while the strategy is at rest; see ``state.py``."""
        self._refuse_bad_loss()
        return take_state(self)

    def put_state(self, state: Mapping[str, Tree]) -> None:
        """Put back what :meth:`take_state` took. Raises InputError, naming the first thing that differs."""
        put_state(self, state)

    def save(self, folder: str | Path) -> None:
        """Keep the whole state, while the strategy is at rest, in ``folder``; docs/checkpoint.md.

        The file is written whole or not at all. Raises OSError where the disk refuses.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tree(folder / STATE_FILE, self.take_state(), format=STATE_FORMAT, version=STATE_VERSION)

    def load(self, folder: str | Path) -> None:
        """Put back what :meth:`save` kept, into a strategy with the same settings and backbone.

        Random states are put back too. If it was saved within a task, ``train`` must be given that task's
        experience next: it goes on there.

        Raises:
            InputError: a missing, damaged or foreign file, or one that does not fit: the first difference is
                named, and nothing is changed.
        """
        path = Path(folder) / STATE_FILE
        state = read_tree(path, format=STATE_FORMAT, version=STATE_VERSION)
        try:
            self.put_state(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

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
        if self.growth:
            grow(self.model, by=self.growth)
        self._begun = Beginning(self, task)
        if self.schedule != "constant":
            self.groups.put_options(self.groups.options)
        self.model.add_task(
            self.count_classes(),
            task,
            budget=self.budget,
            planned_tasks=self.planned_tasks,
            logit_mean=self.logit_mean,
            logit_std=self.logit_std,
        )
        self._to_device()
        self.protected = ProtectedWeights(self.model)
        start_task(self.model, self.protected, **self.initial)
        self.make_optimizer()

    def _to_device(self) -> None:
        self.model.to(self.device)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)

    def make_optimizer(self, **_kwargs: Any) -> None:
        """Empty the optimizer and fill it with what the task being learnt trains."""
        self.groups.fill(self.model.task_parameters(self.model.tasks[-1]))
        faster = self.score_lr_factor if self.model.edges is not None else 1.0
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
            self._train_phase(task, **kwargs)
        self.phase, self.resumed, self._losses = END, None, []
        self.model.freeze(task)
        if self.transfer_tasks or self.forward_tasks:
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
                "train(experience, eval_streams=[...]), or set transfer_tasks=0 and forward_tasks=0",
                stacklevel=2,
            )
            return
        forward, backward = end_task(
            self.model,
            task,
            *read_samples(self.adapted_dataset),
            self._validation,
            tasks=self.transfer_tasks,
            forward=self.forward_tasks,
            mechanism=self.transfer,
            acceptance=self.acceptance,
            replay=self.replay,
            seed=self.seed,
        )
        self.transfers += backward
        if forward is not None:
            self.forward_transfers.append(forward)

    def _train_phase(self, task: int, **kwargs: Any) -> None:
        epochs = (self.warmup_epochs, self.train_epochs, self.consolidation_epochs)[self.phase or 0]
        best = self._best = BestState(self.model, task)
        mean = self._mean = running_mean(self, best.tensors)
        if self.resumed is None:
            self._scheduler.begin_phase()
        first = 0 if self.resumed is None else self.resumed.epoch
        for self.phase_epoch in range(first, epochs):
            self._before_training_epoch(**kwargs)
            if self._stop_training:
                self._stop_training = False
                break
            self._losses = []
            if self.resumed is not None:
                self.resumed.begin_epoch(self)
                self.resumed = None
            self.training_epoch(**kwargs)
            self._refuse_bad_loss()
            self._after_training_epoch(**kwargs)
            if self._judges_epochs and self._validation is not None:
                score = self.accuracy if self.judge == "accuracy" else self.minus_loss
                with mean.in_place():
                    best.offer(score(*self._validation, task))
            ended = self._scheduler.step(best.latest)
            if ended or (self.patience is not None and best.epochs_since >= self.patience):
                break
        if self.restore_best:
            best.restore()
        else:
            mean.put()

    @property
    def _judges_epochs(self) -> bool:
        return self.patience is not None or self.restore_best or self.schedule == "plateau"

    def _make_scheduler(self) -> Schedule:
        epochs = self.warmup_epochs + self.train_epochs + self.consolidation_epochs
        return Schedule(self.schedule, self.optimizer, epochs, self.judge, self.plateau)

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
        self.model.anneal(self._progress(), self.s_max)
        return self._logits(self.mb_x, task)

    def _logits(self, x: Tensor, task: int) -> Tensor:
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.precision == "float32":
            return self.model(x, task)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.model(x, task).float()

    def _progress(self) -> float:
        """How far annealing is, 0 to 1: within the epoch, or within all epochs with soft gates.

        An epoch of a single batch has no room for it: then it goes over all epochs too.
        """
        done, length = self.clock.train_epoch_iterations, len(self.dataloader)
        if self.annealing == "task" or length == 1:
            done += length * max(self.clock.train_exp_epochs - self.warmup_epochs, 0)
            length *= max(self.train_epochs, 1)
        return min(done / max(length - 1, 1), 1.0)

    def criterion(self) -> Tensor:
        """Cross-entropy, and while training the price of free neurons: L + eta * sparsity."""
        loss = super().criterion()
        if not self.is_training:
            return loss
        loss = torch.add(loss, sparsity(self.model, self.model.tasks[-1]), alpha=self.sparsity)
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

    def _validation_samples(self, task: int) -> tuple[Tensor, Tensor] | None:
        if not (self._judges_epochs or self.transfer_tasks or self.forward_tasks):
            return None
        samples = self.find_validation(task, self.count_classes())
        if samples is None and self._judges_epochs:
            raise no_validation(task)
        return samples

    def accuracy(self, x: Tensor, y: Tensor, task: int) -> float:
        """Share of x [n, ...] that ``task`` gives the class y [n], with the committed bits, in [0, 1]."""
        return self._mean_score(x, y, task, "accuracy")

    def minus_loss(self, x: Tensor, y: Tensor, task: int) -> float:
        """Minus the mean cross-entropy of ``task`` over x [n, ...], y [n], with the committed bits."""
        return self._mean_score(x, y, task, "loss")

    @torch.no_grad()
    def _mean_score(self, x: Tensor, y: Tensor, task: int, judge: str) -> float:
        with evaluating(self.model):
            parts = [
                summed_score(self._logits(part.to(self.device), task), target.to(self.device), judge)
                for part, target in zip(x.split(self.eval_mb_size), y.split(self.eval_mb_size), strict=True)
            ]
        return float(torch.stack(parts).sum()) / len(y)
