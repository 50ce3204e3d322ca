"""What every baseline shares, so that only the method differs: heads and norm state a task, loader, epochs,
schedule, early stopping.

Shapes: x [n, ...]; y [n] int64, the class's position in its task; logits [batch, classes of the task].
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import Tensor, nn
from torch.optim import Optimizer

from ..evaluation.experiences import task_label
from ..masking.kinds import is_layer
from ..masking.layers import evaluating
from ..training.groups import Undecayed
from ..training.loader import StreamLoader, TensorLoader
from ..training.samples import read_samples
from ..training.settings import Schedule
from ..training.tasks import TaskByTask
from .memory import MemoryUse, bytes_of
from .network import TaskNetwork

Samples = tuple[Tensor, Tensor]
WEIGHT_BYTES = 4  # float32


class Baseline(TaskByTask):
    """Training of one shared network task after task; by itself plain finetuning.

    Args: those of ``DSN`` that are not about masks; ``train_epochs`` counts all epochs of a task, so that
    ``schedule`` has none of its own.

    Validation data are the experiences of the task's label in ``train(experience, eval_streams=[...])``.

    Raises:
        InputError: as ``TaskByTask``; settings that need validation data without them.
    """

    model: TaskNetwork

    rehearses = False
    """whether what earlier tasks alone use, heads and norm state, goes on learning"""

    keeps_tasks = False
    """whether a task that was learnt stays as it is, bit for bit"""

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
        super().__init__(
            model=model,
            optimizer=optimizer,
            train_epochs=train_epochs,
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            schedule=schedule,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=-1,
            **base_kwargs,
        )
        self._validation: dict[int, Samples] = {}

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

    def go_back(self, task: int, kept: Any) -> None:
        """Make the network what it was before ``task``, which is half learnt."""
        self.model.go_back(kept)

    def check_model_and_optimizer(self, **_kwargs: Any) -> None:
        """Begin the experience's task: head, norm state, a fresh optimizer."""
        task = self._task_to_learn()
        self._begin(task, self.model.keep())
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
        samples = self._validation_samples(task)
        if samples is not None:
            self._validation[task] = on(self.device, samples)
        scheduler = self.schedule.scheduler(self.optimizer, self.train_epochs)
        for epochs in self.phases():
            self._train_phase(task, epochs, scheduler, **kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        super()._after_training_exp(**kwargs)
        self.refuse_divergence(self.model.tasks[-1])
        if not self.rehearses:
            self.model.end_task(self.model.tasks[-1])
        self._begun = None

    def _restorable(self) -> Any:
        return self  # its task_parameters are what the method trains

    def _trained_tasks(self, task: int) -> list[int]:
        return self.model.tasks if self.rehearses else [task]

    # ---- one batch -------------------------------------------------------------------------------------

    def forward(self) -> Tensor:
        """Logits of the batch; all equal for a task that has not been learnt."""
        task = task_label(self.experience)
        if not self.is_training:
            return self.evaluated_logits(task)
        return cast(Tensor, self.model(self.mb_x, self.mb_task_id if self.rehearses else task))

    def _logits(self, x: Tensor, task: int) -> Tensor:
        return cast(Tensor, self.model(x, task))

    def optimizer_step(self) -> None:
        """A step inside :meth:`protection`."""
        with self.protection(), self._undecayed:
            self.optimizer.step()
        self._mean.update()

    # ---- data ------------------------------------------------------------------------------------------

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

    def _validation_score(self, _task: int) -> float:
        """Mean over the judged tasks of the score of their validation data."""
        scores = []
        with evaluating(self.model):
            for task in self.judged_tasks():
                x, y = self._validation[task]
                scores.append(self._summed_score(x, y, task, self.schedule.judge) / len(y))
        return float(torch.stack(scores).mean())

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
