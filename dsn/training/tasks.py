"""A stream's tasks one after the other: what every strategy here does around the epochs of a task."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError
from ..evaluation.experiences import name_of, task_label
from ..masking.records import in_use
from .groups import Options, ParameterGroups, options_of
from .loading import refuse_below
from .losses import Losses
from .phases import Phases
from .refusals import refuse_shards
from .settings import Schedule


@dataclass(frozen=True)
class Beginning:
    """How everything was before ``task``: ``kept`` the network, as the strategy's ``go_back`` takes it, and
    ``options`` those of the optimizer's groups."""

    task: int
    kept: Any
    options: Options

    def restore(self, strategy: Any) -> None:
        """Drop the half-learnt task; network and optimizer are then as they were before it."""
        warnings.warn(
            f"the training of task {self.task} did not come to its end: the task is dropped, and the network "
            "is as it was before it",
            stacklevel=3,
        )
        strategy.go_back(self.task, self.kept)
        strategy.groups.put_options(self.options)


class Before(Protocol):
    """What is to be done where the training of a task does not come to its end."""

    def restore(self, strategy: Any) -> None:
        """Make ``strategy`` what it was before."""


class TaskByTask(Phases):
    """The base of ``DSN`` and of the baselines, an Avalanche strategy; ``model`` has ``tasks``.

    ``augment``: what each batch of training samples goes through, e.g. a :class:`dsn.augment.Augment`.
    ``shards``: into how many parts each batch is cut, for several processes (docs/scale.md); results depend
    on it, not on how many processes there are. ``criterion`` is then a mean over samples.

    Raises:
        InputError: sizes or epochs that are too small; an experience with no or several task labels, or of a
            task learnt before; a loss that is not finite (names task, epoch and iteration).
    """

    model: Any
    mixes_tasks = False
    """whether a batch holds samples of several tasks"""

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Any = None,
        train_epochs: int,
        train_mb_size: int,
        eval_mb_size: int | None,
        schedule: Schedule,
        augment: Callable[[Tensor], Tensor] | None = None,
        shards: int = 1,
        **avalanche: Any,
    ) -> None:
        refuse_below(1, {"train_mb_size": train_mb_size, "eval_mb_size": eval_mb_size, "shards": shards})
        refuse_below(0, {"train_epochs": train_epochs})
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_epochs=train_epochs,
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            **avalanche,
        )
        self.schedule, self.augment = schedule, augment
        self.groups = ParameterGroups(optimizer, model)
        self._begun: Before | None = None
        self._there: nn.Module | None = None
        self._losses = Losses()
        self.shards = shards
        if shards > 1:
            refuse_shards(self)

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

    def _unpack_minibatch(self) -> None:
        """Avalanche's; then training samples are augmented."""
        super()._unpack_minibatch()
        if self.is_training and self.augment is not None:
            self.mbatch[0] = self.augment(self.mbatch[0])

    def go_back(self, task: int, kept: Any) -> None:
        """Make the network what it was before ``task``, which ``kept`` says; see :meth:`_begin`."""
        raise NotImplementedError

    def _begin(self, task: int, kept: Any) -> None:
        """Right before ``task`` is added: learn at the full rate, and know how everything was."""
        self._begun = Beginning(task, kept, options_of(self.optimizer))
        if self.schedule.rate != "constant":
            self.groups.put_options(self.groups.options)

    def _task_to_learn(self) -> int:
        """The number of the experience's task."""
        task = task_label(self.experience)
        if task in self.model.tasks:
            raise InputError(
                f"{name_of(self.experience)} has task label {task}, which was learnt before: does the stream "
                "carry task labels? (return_task_id=True in Avalanche's classic streams, task_labels=True in "
                "nc_benchmark)"
            )
        return task

    def eval(self, exp_list: Any, **kwargs: Any) -> Any:
        """Avalanche's; the model is moved to the device once, not for each experience."""
        self._there = None
        return super().eval(exp_list, **kwargs)

    def _save_train_state(self) -> Any:
        """Avalanche's; modes are kept without a walk through all that closed tasks have."""
        modes = [(module, module.training) for _, module in in_use(self.model)]
        with self._model_aside():
            return {**super()._save_train_state(), "modes": modes}

    def _load_train_state(self, prev_state: Any) -> None:
        with self._model_aside():
            super()._load_train_state(prev_state)
        for module, mode in prev_state["modes"]:
            module.training = mode

    @contextmanager
    def _model_aside(self) -> Iterator[None]:
        model, self.model = self.model, nn.Identity()
        try:
            yield
        finally:
            self.model = model

    def model_adaptation(self, model: nn.Module | None = None) -> nn.Module:
        """The model as it is: tasks are added in training alone, so evaluating has no side effects."""
        model = self.model if model is None else model
        if self._there is not model:
            self._there = model.to(self.device)
        return self._there
