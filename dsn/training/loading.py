"""How a strategy comes to the batches of an experience: its loaders, its validation data, its classes.

Shapes as in ``samples.py``.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..evaluation.experiences import name_of, task_label
from .loader import Batches, StreamLoader, TensorLoader, explaining_dead_workers
from .samples import (
    can_read_at_once,
    count_classes,
    is_fixed,
    read_at_once,
    read_items,
    read_samples,
    read_some,
    same_samples,
    sample_bytes,
    with_unknown_classes,
)
from .shards import ShardedUpdate


def refuse_below(least: int, numbers: Mapping[str, float | None]) -> None:
    """Raise InputError for the first of some named numbers that is smaller; None is no number."""
    for name, number in numbers.items():
        if number is not None and number < least:
            raise InputError(f"{name} is {number}: it must be at least {least}")


def no_validation(task: int) -> InputError:
    """What to raise where ``task`` has no validation data and needs them."""
    return InputError(
        f"task {task}: patience, restore_best and schedule 'plateau' need validation data other than the "
        "training data; give them as train(experience, eval_streams=[validation experience]), or set the "
        "stream's validation share"
    )


class Loading(ShardedUpdate):
    """An Avalanche strategy whose ``model`` has ``tasks``."""

    dataloader: Any
    cache: bool | str = True
    cache_bytes = 2**31
    precision = "float32"

    def make_train_dataloader(
        self, shuffle: bool = True, drop_last: bool = False, num_workers: int = 0, **kwargs: Any
    ) -> None:
        """Batches of the experience's samples, from tensors or read when they are due."""
        dataset = self.adapted_dataset
        if not len(dataset):
            raise InputError(f"{name_of(self.experience)} has no samples to train on: leave it out")
        batches = {"batch_size": self.train_mb_size, "shuffle": shuffle, "training": True}
        batches |= {"drop_last": drop_last}
        if self._keeps(fixed=True):
            self.dataloader = self._kept(num_workers, **batches)
        else:
            known = count_classes(self.experience, dataset)
            self.dataloader = self._stream(num_workers, known, kwargs, **batches)
        if not len(self.dataloader):
            raise InputError(
                f"{name_of(self.experience)} has {len(dataset)} samples, and drop_last leaves no batch of "
                f"{self.train_mb_size} of them: lower train_mb_size"
            )

    def make_eval_dataloader(self, num_workers: int = 0, **kwargs: Any) -> None:
        """The same for evaluation. Nothing is kept for the next one: then the data may be others."""
        if not len(self.adapted_dataset):
            raise InputError(f"{name_of(self.experience)} has no samples to evaluate: leave it out")
        batches = {"batch_size": self.eval_mb_size, "shuffle": False, "training": False}
        if self._keeps(fixed=False):
            self.dataloader = self._kept(num_workers, **batches)
        else:
            self.dataloader = self._stream(num_workers, None, kwargs, **batches)

    def training_epoch(self, **kwargs: Any) -> None:
        """Avalanche's; a reading worker that dies is named."""
        with explaining_dead_workers():
            super().training_epoch(**kwargs)

    def eval_epoch(self, **kwargs: Any) -> None:
        """Avalanche's; a reading worker that dies is named."""
        with explaining_dead_workers():
            super().eval_epoch(**kwargs)

    def _keeps(self, *, fixed: bool) -> bool:
        """Whether all samples are read now: without reading items, or, with ``fixed``, where that is safe."""
        dataset = self.adapted_dataset
        if not self.cache:
            return False
        safe = can_read_at_once(dataset) or (fixed and (self.cache == "always" or is_fixed(dataset)))
        return safe and sample_bytes(dataset) <= self.cache_bytes

    def _kept(self, workers: int, **batches: Any) -> TensorLoader:
        task = task_label(self.experience)
        x, y, finish = read_at_once(self.adapted_dataset) or (*self._read(workers, task), None)
        return TensorLoader(x, y, task, finish=finish, **batches).to(self.device)

    def _read(self, workers: int, task: int) -> tuple[Tensor, Tensor]:
        if not workers:
            return read_items(self.adapted_dataset)
        loader = StreamLoader(
            self.adapted_dataset, task, workers=workers, batch_size=self.eval_mb_size, shuffle=False
        )
        with explaining_dead_workers():
            batches = list(loader)
        x, y, _ = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return x, y

    def _stream(
        self, workers: int, classes: int | None, kwargs: dict[str, Any], **batches: Any
    ) -> StreamLoader:
        pin = kwargs.get("pin_memory")
        options: dict[str, Any] = {"pin_memory": self.device.type == "cuda" if pin is None else bool(pin)}
        if workers:
            options |= {"prefetch_factor": 4, "persistent_workers": bool(kwargs.get("persistent_workers"))}
        return StreamLoader(
            self.adapted_dataset,
            task_label(self.experience),
            workers=workers,
            most_classes=classes,
            options=options,
            **batches,
        )

    def read_some(self, seed: int) -> tuple[Tensor, Tensor]:
        """x [n, ...], y [n] of the experience; of one beyond ``cache_bytes`` as many as stay below."""
        most = self.cache_bytes // (4 * math.prod(self.model.input_shape))
        return read_some(self.adapted_dataset, most, seed)

    def refuse_foreign_type(self, x: Tensor) -> None:
        """Raise InputError for samples of another type than the weights: nothing converts them on the way."""
        wanted = self.model.dtype
        if x.dtype != wanted and not (self.precision != "float32" and x.is_floating_point()):
            raise InputError(
                f"samples of {name_of(self.experience)} are {x.dtype}, the network's weights {wanted}: "
                "convert them with a transform (torchvision's ToTensor for images, x.float())"
            )

    def count_classes(self) -> int:
        """Outputs of a head for the classes of the experience that is to be learnt."""
        read = self.dataloader.classes if isinstance(self.dataloader, Batches) else 0
        return max(count_classes(self.experience, self.adapted_dataset), read)

    def evaluated_logits(self, task: int) -> Tensor:
        """Logits of the batch [batch, C], also for classes of the data that ``task`` has not learnt (never
        chosen), or for a task that has not been learnt (all equal)."""
        classes = self.dataloader.classes if isinstance(self.dataloader, Batches) else 0
        if task not in self.model.tasks:
            known = count_classes(self.experience, self.adapted_dataset)
            return torch.zeros(len(self.mb_x), max(known, classes, 1), device=self.device)
        return with_unknown_classes(self._logits(self.mb_x, task), classes)

    def find_validation(self, task: int, classes: int) -> tuple[Tensor, Tensor] | None:
        """x [n, ...], y [n] of the first experience of ``task`` that was given as ``eval_streams``, if any.

        Raises InputError where it has other classes than the first ``classes``, which the task learns.
        """
        for experience in [e for stream in self._eval_streams or [] for e in stream]:
            data = experience.dataset
            # without eval_streams, Avalanche gives the training experience
            if not len(data) or task_label(experience) != task or same_samples(data, self.experience.dataset):
                continue
            x, y = read_samples(data.eval())
            if int(y.max()) >= classes:
                raise InputError(
                    f"{name_of(experience)} has validation samples of class {int(y.max())}, but task {task} "
                    f"is trained on the classes 0 to {classes - 1}"
                )
            return x, y
        return None
