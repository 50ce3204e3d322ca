"""The batches of a task: cut out of tensors by index, or, where those would be too large, read by workers.

Both give the same samples in the same order for a seed, and draw the same random numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import InputError

Finish = Callable[[Tensor], Tensor]


def read_samples(dataset: Any) -> tuple[Tensor, Tensor]:
    """All of a data set at once: x [n, ...] and y [n] int64.

    Where Avalanche's wrappers hold one whole data set with a method ``tensors()``, that gives them in one
    go; any other is read item by item, once, so its transforms must not be random.
    """
    inner = _only_inner(dataset, "tensors")
    if inner is not None:
        x, y = inner.tensors()
        if _same_ends(dataset, x, lambda rows: rows):
            return x, y
    items = [dataset[i] for i in range(len(dataset))]
    return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])


def read_compact(dataset: Any) -> tuple[Tensor, Tensor, Finish | None]:
    """The same in compact memory, e.g. uint8, and what makes x of some rows of it.

    Where the wrapped data set has no method ``compact()``: x itself, y and None.
    """
    inner = _only_inner(dataset, "compact")
    if inner is not None:
        kept, y, finish = inner.compact()
        if _same_ends(dataset, kept, finish):
            return kept, y, finish
    return *read_samples(dataset), None


def _same_ends(dataset: Any, kept: Tensor, finish: Finish) -> bool:
    """Whether the first and the last item are what ``finish`` makes of ``kept``: no wrapper changed them."""
    ends = (0, len(dataset) - 1)
    return len(kept) == len(dataset) and all(
        torch.equal(dataset[i][0], finish(kept[i : i + 1])[0]) for i in ends
    )


def _only_inner(dataset: Any, method: str) -> Any:
    """The data set with ``method`` inside wrappers that hold one data set each, or None."""
    while not hasattr(dataset, method):
        dataset = getattr(dataset, "_flat_data", dataset)
        parts: list[Any] = getattr(dataset, "_datasets", [])
        if len(parts) != 1 or len(parts[0]) != len(dataset):
            return None
        dataset = parts[0]
    return dataset


class TensorLoader:
    """Batches [x, y, task] of ``x`` [n, ...], ``y`` [n], in a new order each pass if ``shuffle``.

    ``finish`` makes the x of a batch of its rows of ``x``, where these are kept in another form. The last
    batch is left out where it would hold a single sample in training: batch norm has no variance for it.
    """

    def __init__(
        self, x: Tensor, y: Tensor, task: int, *, batch_size: int, shuffle: bool, finish: Finish | None = None
    ) -> None:
        self.x, self.y = x, y
        self.task = torch.full_like(y, task)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._finish = finish
        left_over = len(x) % batch_size
        self._end = len(x) - 1 if shuffle and left_over == 1 and len(x) > 1 else len(x)
        self.order: Tensor | None = None
        """of the pass that is going on, [n] int64, where it is shuffled"""
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
        self.order = torch.randperm(len(self.y)) if self.shuffle else None
        return 0

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


@contextmanager
def explaining_dead_workers() -> Iterator[None]:
    """Turn torch's error for a worker that died, which may come anywhere in the block, into an InputError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a worker that reads samples died ({error}); often memory ran out: use fewer workers, or "
            "num_workers=0 for none"
        ) from error


def sample_bytes(dataset: Any) -> int:
    """Bytes that all x of a data set take as tensors, from its first sample's size."""
    x = dataset[0][0]
    return len(dataset) * x.numel() * x.element_size()


class StreamLoader(TensorLoader):
    """The same batches, read item by item when they are due, by ``workers`` processes (0: by this one)."""

    def __init__(
        self, dataset: Any, task: int, *, batch_size: int, shuffle: bool, workers: int = 0, **options: Any
    ) -> None:
        y = torch.tensor([int(target) for target in dataset.targets])
        super().__init__(y, y, task, batch_size=batch_size, shuffle=shuffle)
        self._dataset, self._workers, self._options = dataset, workers, options

    def __iter__(self) -> Iterator[list[Tensor]]:
        first = self._begin()
        order = torch.arange(len(self.y)) if self.order is None else self.order
        left = [rows.tolist() for rows in order[first : self._end].split(self.batch_size)]
        return iter(
            DataLoader(
                self._dataset,
                batch_sampler=left if first < self._end else [],
                num_workers=self._workers,
                collate_fn=self._collate,
                # of its own: drawing a seed for the workers would shift all later random numbers
                generator=torch.Generator(),
                **self._options,
            )
        )

    def _collate(self, items: list[Any]) -> list[Tensor]:
        y = torch.tensor([int(item[1]) for item in items])
        return [torch.stack([item[0] for item in items]), y, self.task[: len(y)]]
