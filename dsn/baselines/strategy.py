"""What every baseline shares, so that only the method differs: heads and norm state a task, loader, epochs,
schedule, early stopping.

Shapes: x [n, ...]; y [n] int64, the class's position in its task; logits [batch, classes of the task].
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError
from ..evaluation.experiences import name_of, task_label
from ..masking.kinds import is_layer
from ..masking.layers import evaluating
from ..training.groups import ParameterGroups, Undecayed, options_of
from ..training.loader import StreamLoader, TensorLoader
from ..training.loading import Loading, no_validation, refuse_below
from ..training.phases import Phases
from ..training.samples import read_samples
from ..training.schedule import Scheduler, summed_score
from ..training.settings import Schedule
from .memory import MemoryUse, bytes_of
from .network import TaskNetwork

Samples = tuple[Tensor, Tensor]
WEIGHT_BYTES = 4  # float32


class Baseline(Phases, Loading, SupervisedTemplate):
    """Training of one shared network task after task; by itself plain finetuning.

    Args: those of ``DSN`` that are not about masks; ``train_epochs`` counts all epochs of a task, so that
    ``schedule`` has none of its own.

    Validation data are the experiences of the task's label in ``train(experience, eval_streams=[...])``.

    Raises:
        InputError: an experience with no or several task labels, or of a task learnt before; a loss that is
            not finite; settings that need validation data without them.
    """

    model: TaskNetwork
    _stop_training: bool

    rehearses = False
    """whether what earlier tasks alone use, heads and norm state, goes on learning"""

    score_lr_factor = 1.0
    """learning rate of :meth:`scores` over that of everything else"""

    def __init__(
        self,
        *,
        model: TaskNetwork,
        optimizer: Optimizer,
        train_epochs: int = 1,
        train_mb_size: int = 64,
        eval_mb_size: int = 512,
        schedule: Schedule = Schedule(),
        device: str | torch.device = "cpu",
        plugins: Sequence[Any] | None = None,
        evaluator: EvaluationPlugin | Any = default_evaluator,
        **base_kwargs: Any,
    ) -> None:
        refuse_below(1, {"train_mb_size": train_mb_size, "eval_mb_size": eval_mb_size})
        refuse_below(0, {"train_epochs": train_epochs})
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=-1,
            **base_kwargs,
        )
        self.schedule = schedule
        self.groups = ParameterGroups(optimizer, model)
        self._validation: dict[int, Samples] = {}
        self._before: tuple[int, Any, Any] | None = None

    # ---- what a method changes -------------------------------------------------------------------------

    def phases(self) -> Iterator[int]:
        """Epochs of each part of a task's training; what stands between two yields runs between the parts."""
        yield self.train_epochs

    def judged_tasks(self) -> list[int]:
        """Tasks whose validation accuracy decides on the best epoch."""
        return self.model.tasks[-1:]

    def protection(self) -> AbstractContextManager[Any]:
        """Around each optimizer step."""
        return nullcontext()

    def scores(self) -> list[nn.Parameter]:
        """Trained parameters that take no weight decay, and have a learning rate of their own."""
        return []

    def shared_tensors(self) -> list[Tensor]:
        """State kept for later tasks that no one task owns."""
        return []

    def stored(self) -> list[Samples]:
        """Training samples kept for later tasks."""
        return []

    # ---- one task --------------------------------------------------------------------------------------

    def task_parameters(self, task: int) -> list[nn.Parameter]:
        """What training ``task`` changes."""
        tasks = self._trained_tasks(task)
        found = {id(p): p for t in tasks for p in self.model.task_parameters(t) if p.requires_grad}
        return list(found.values())

    def task_buffers(self, task: int) -> list[Tensor]:
        """The running statistics that training ``task`` changes."""
        tasks = self._trained_tasks(task)
        return [buffer for t in tasks for buffer in self.model.task_buffers(t)]

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> Any:
        """Avalanche's; what an interrupted call before has left half-learnt is dropped first."""
        if self._before is not None:
            self.drop_unfinished(*self._before)
            self._before = None
        try:
            return super().train(experiences, eval_streams, **kwargs)
        except BaseException:
            self.is_training, self._eval_streams = False, None
            raise

    def drop_unfinished(self, task: int, kept: Any, options: Any) -> None:
        """Make network and optimizer what they were before ``task``, which was not learnt to its end."""
        warnings.warn(
            f"the training of task {task} did not come to its end: the task is dropped, and the network is "
            "as it was before it",
            stacklevel=3,
        )
        self.model.go_back(kept)
        self.groups.put_options(options)

    def check_model_and_optimizer(self, **_kwargs: Any) -> None:
        """Begin the experience's task: head, norm state, a fresh optimizer."""
        task = task_label(self.experience)
        if task in self.model.tasks:
            raise InputError(
                f"{name_of(self.experience)} has task label {task}, which was learnt before: does the stream "
                "carry task labels? (return_task_id=True in Avalanche's classic streams, task_labels=True in "
                "nc_benchmark)"
            )
        self._before = task, self.model.keep(), options_of(self.optimizer)
        if self.schedule.rate != "constant":
            self.groups.put_options(self.groups.options)
        self.model.add_task(self.count_classes(), task)
        self.model.to(self.device).train()
        self.make_optimizer()

    def make_optimizer(self, **_kwargs: Any) -> None:
        """Empty the optimizer and fill it with what the task being learnt trains."""
        scores = self.scores()
        chosen = {id(p) for p in scores}
        others = [p for p in self.task_parameters(self.model.tasks[-1]) if id(p) not in chosen]
        self.groups.fill([*others, *scores])
        self._undecayed = Undecayed(self.optimizer, scores, self.score_lr_factor)

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        task = self.model.tasks[-1]
        self._read_validation(task)
        scheduler = self._make_scheduler()
        for epochs in self.phases():
            self._train_phase(task, epochs, scheduler, **kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        super()._after_training_exp(**kwargs)
        if not self.rehearses:
            self.model.end_task(self.model.tasks[-1])
        self._before = None

    def _restorable(self) -> Any:
        return self  # its task_parameters are what the method trains

    def _trained_tasks(self, task: int) -> list[int]:
        return self.model.tasks if self.rehearses else [task]

    def _begin_losses(self) -> None:
        self._first_bad = torch.full((), -1, device=self.device)

    def _refuse_bad_loss(self) -> None:
        if (iteration := int(self._first_bad)) >= 0:
            raise InputError(
                f"task {self.model.tasks[-1]}, epoch {self.clock.train_exp_epochs}, iteration {iteration}: "
                "the loss is not finite; lower the learning rate, or look for such values in the data"
            )

    def _make_scheduler(self) -> Scheduler:
        chosen = self.schedule
        return Scheduler(chosen.rate, self.optimizer, self.train_epochs, chosen.judge, chosen.plateau)

    # ---- one batch -------------------------------------------------------------------------------------

    def forward(self) -> Tensor:
        """Logits of the batch; all equal for a task that has not been learnt."""
        task = task_label(self.experience)
        if not self.is_training:
            return self.evaluated_logits(task)
        return cast(Tensor, self.model(self.mb_x, self.mb_task_id if self.rehearses else task))

    def _logits(self, x: Tensor, task: int) -> Tensor:
        return cast(Tensor, self.model(x, task))

    def backward(self) -> None:
        """Backward pass; remembers the first iteration whose loss is not finite, without waiting for it."""
        bad = ~torch.isfinite(self.loss.detach().squeeze()) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, self.clock.train_epoch_iterations, self._first_bad)
        super().backward()

    def optimizer_step(self) -> None:
        """A step inside :meth:`protection`."""
        with self.protection(), self._undecayed:
            self.optimizer.step()
        self._mean.update()

    # ---- data ------------------------------------------------------------------------------------------

    def model_adaptation(self, model: nn.Module | None = None) -> nn.Module:
        """The model as it is: tasks are added in training alone, so evaluating has no side effects."""
        return (self.model if model is None else model).to(self.device)

    def _kept(self, workers: int, **batches: Any) -> TensorLoader:
        if not self.is_training:
            return super()._kept(workers, **batches)
        self.samples = on(self.device, read_samples(self.adapted_dataset))
        return TensorLoader(*self.samples, task_label(self.experience), **batches).to(self.device)

    def _stream(
        self, workers: int, classes: int | None, kwargs: dict[str, Any], **batches: Any
    ) -> StreamLoader:
        if self.is_training:  # what a method keeps of the task
            self.samples = on(self.device, read_samples(self.adapted_dataset))
        return super()._stream(workers, classes, kwargs, **batches)

    def some_samples(self, count: int) -> Samples:
        """At most ``count`` of the task's training samples, drawn at random."""
        x, y = self.samples
        chosen = torch.randperm(len(x))[:count].to(x.device)
        return x[chosen], y[chosen]

    def _read_validation(self, task: int) -> None:
        if not self.schedule.judges:
            return
        samples = self.find_validation(task, self.count_classes())
        if samples is None:
            raise no_validation(task)
        self._validation[task] = on(self.device, samples)

    def _validation_score(self, _task: int) -> float:
        """Mean over the judged tasks of the score of their validation data."""
        shares = []
        with evaluating(self.model):
            for task in self.judged_tasks():
                x, y = self._validation[task]
                right = [
                    summed_score(self.model(part, task), target, self.schedule.judge)
                    for part, target in zip(
                        x.split(self.eval_mb_size), y.split(self.eval_mb_size), strict=True
                    )
                ]
                shares.append(torch.stack(right).sum() / len(y))
        return float(torch.stack(shares).mean())

    # ---- memory ----------------------------------------------------------------------------------------

    def task_tensors(self, task: int) -> list[Tensor]:
        """What is kept for ``task`` alone."""
        return [*self.model.own_parameters(task), *self.model.task_buffers(task)]

    def used_weights(self) -> list[Tensor]:
        """Of each layer, which of its weights some task uses, bool; by default all."""
        layers = [module for module in self.model.backbone.modules() if is_layer(module)]
        return [torch.ones_like(layer.get_parameter("weight"), dtype=torch.bool) for layer in layers]

    def memory(self) -> MemoryUse:
        """What the strategy keeps beside the backbone's weights."""
        stored, used = self.stored(), self.used_weights()
        return MemoryUse(
            bytes_per_task=[bytes_of(self.task_tensors(task)) for task in self.model.tasks],
            shared_bytes=bytes_of(self.shared_tensors()),
            stored_samples=sum(len(y) for _, y in stored),
            stored_sample_bytes=sum(bytes_of(samples) for samples in stored),
            backbone_bytes=sum(WEIGHT_BYTES * mask.numel() for mask in used),
            used_bytes=sum(WEIGHT_BYTES * int(mask.sum()) for mask in used),
        )


label_of = task_label


def on(device: Any, samples: Samples) -> Samples:
    """The samples on ``device``."""
    return samples[0].to(device), samples[1].to(device)
