"""The batches of a task: cut out of tensors by index, or read item by item, by workers where there are any.

Both give the same samples in the same order for a seed, and draw the same random numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import InputError
from .samples import Finish, collate
from .samples import read_compact as read_compact
from .samples import read_samples as read_samples
from .samples import sample_bytes as sample_bytes


class Batches:
    """The order of ``n`` samples, cut into batches; a new one each pass if ``shuffle``.

    ``training``: the last batch is left out where it would hold a single sample, for which batch norm has no
    variance; by default as ``shuffle``. ``drop_last``: it is left out where it would be smaller than others.
    """

    def __init__(
        self, n: int, *, batch_size: int, shuffle: bool, training: bool | None = None, drop_last: bool = False
    ) -> None:
        self.batch_size = batch_size
        self.shuffle = shuffle
        left_over = n % batch_size
        lone = left_over == 1 and n > 1 and (shuffle if training is None else training)
        self._n, self._end = n, n - left_over if drop_last or lone else n
        self.order: Tensor | None = None
        """of the pass that is going on, [n] int64, where it is shuffled"""
        self.classes = 0
        """the largest label + 1, of all samples or, where that is not known, of the batch given last"""
        self._first: int | None = None

    def __len__(self) -> int:
        return -(-self._end // self.batch_size)

    def go_on(self, order: Tensor, done: int) -> None:
        """Begin the next pass with the samples in ``order`` behind its first ``done`` batches."""
        self.order, self._first = order, done

    def _begin(self) -> int:
        """Draw the order of a pass; returns the sample it begins with."""
        first, self._first = self._first, None
        if first is not None:
            return first * self.batch_size
        self.order = torch.randperm(self._n) if self.shuffle else None
        return 0


class TensorLoader(Batches):
    """Batches [x, y, task] of ``x`` [n, ...], ``y`` [n]; see :class:`Batches`.

    ``finish`` makes the x of a batch of its rows of ``x``, where these are kept in another form.
    """

    def __init__(
        self, x: Tensor, y: Tensor, task: int, *, finish: Finish | None = None, **batches: Any
    ) -> None:
        super().__init__(len(y), **batches)
        self.x, self.y = x, y
        self.task = torch.full_like(y, task)
        self._finish = finish

    def to(self, device: torch.device) -> "TensorLoader":
        """The same with its tensors on ``device``; its ``classes`` are counted on the way."""
        self.classes = int(self.y.max()) + 1 if len(self.y) else 0
        self.x, self.y, self.task = (part.to(device) for part in (self.x, self.y, self.task))
        return self

    def __iter__(self) -> Iterator[list[Tensor]]:
        first = self._begin()
        order = None if self.order is None else self.order.to(self.x.device)
        for start in range(first, self._end, self.batch_size):
            cut = slice(start, min(start + self.batch_size, self._end))
            parts = (self.x, self.y, self.task)
            if order is None:
                x, y, task = (part[cut] for part in parts)
            else:
                x, y, task = (part.index_select(0, order[cut]) for part in parts)
            yield [x if self._finish is None else self._finish(x), y, task]


class StreamLoader(Batches):
    """The same batches, read item by item when they are due, by ``workers`` processes (0: by this one).

    ``most_classes``: labels beyond it are refused; ``options``: more arguments of torch's DataLoader.
    """

    def __init__(
        self,
        dataset: Any,
        task: int,
        *,
        workers: int = 0,
        most_classes: int | None = None,
        options: dict[str, Any] | None = None,
        **batches: Any,
    ) -> None:
        super().__init__(len(dataset), **batches)
        self._task, self._most_classes = task, most_classes
        self._passes = 0
        self._left: list[list[int]] = []
        # a generator of its own: drawing a seed for the workers would shift all later random numbers
        self._seeds = torch.Generator()
        self._loader = DataLoader(
            dataset,
            batch_sampler=_Changing(self._left),
            num_workers=workers,
            collate_fn=_Collate(dataset, task),
            generator=self._seeds,
            **options or {},
        )

    def __iter__(self) -> Iterator[list[Tensor]]:
        first = self._begin()
        order = torch.arange(self._n) if self.order is None else self.order
        left = order[first : self._end].split(self.batch_size) if first < self._end else ()
        self._left[:] = [rows.tolist() for rows in left]
        self._seeds.manual_seed(self._seed())
        for batch in self._loader:
            self.classes = int(batch[1].max()) + 1
            if self._most_classes is not None and self.classes > self._most_classes:
                raise InputError(
                    f"task {self._task}: a training sample has the label {self.classes - 1}, but the "
                    f"experience says that its classes are 0 to {self._most_classes - 1}"
                )
            yield batch

    def _seed(self) -> int:
        """For the workers: another one each pass, of torch's own random state, which stays as it is."""
        copy = torch.Generator()
        copy.set_state(torch.get_rng_state())
        self._passes += 1
        return int(torch.randint(2**62, (self._passes,), generator=copy)[-1])


class _Collate:
    """Items to a batch [x, y, task]; on its own, because workers get a copy of it."""

    def __init__(self, dataset: Any, task: int) -> None:
        self._dataset, self._task = dataset, task

    def __call__(self, items: list[Any]) -> list[Tensor]:
        x, y = collate(self._dataset, items)
        return [x, y, torch.full_like(y, self._task)]


class _Changing:
    """Batches of indices that may be others in each pass."""

    def __init__(self, batches: list[list[int]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(list(self._batches))

    def __len__(self) -> int:
        return len(self._batches)


@contextmanager
def explaining_dead_workers() -> Iterator[None]:
    """Turn torch's error for a worker that died, which may come anywhere in the block, into an InputError.

    One that a worker raised, which torch hands on with the worker's traceback in its text, is put straight.
    """
    try:
        yield
    except InputError as error:
        if not str(error).startswith("Caught InputError"):
            raise
        *_, last = str(error).strip().splitlines()
        raise InputError(last.partition("InputError: ")[2]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a worker that reads samples died ({error}); often memory ran out: use fewer workers, or "
            "num_workers=0 for none"
        ) from error
