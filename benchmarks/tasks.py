"""Task data sets in compact memory, and the Avalanche benchmark made of them.

Shapes: pixels uint8 [N, C, H, W], shared by all tasks that show them; x float32 [C, H, W], or [C·H·W] when
flattened; y int64, 0 .. classes of the task − 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks import splitting
from benchmarks.base import ClassSplitConfig, StreamConfig

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


_FEW = 1024  # images


@dataclass(frozen=True)
class Images:
    """A labelled data set in memory.

    train_x, test_x: uint8 [N, C, H, W], 0 .. top
    train_y, test_y: int64 [N], indices into ``classes``
    mean, std: of the pixels divided by ``top``, one number a channel; None: to be taken from the first task
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: list[str]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    top: int = 255


class PixelScale:
    """uint8 pixels [N, C, H, W] in 0 .. top to float32 (pixels / top − mean) / std."""

    def __init__(self, top: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.top = top
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self._there: tuple[Tensor, Tensor] | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        if self._there is None or self._there[0].device != pixels.device:  # once, or each batch waits for it
            self._there = self.mean.to(pixels.device), self.std.to(pixels.device)
        mean, std = self._there
        return pixels.float().div_(self.top).sub_(mean).div_(std)

    def range(self) -> tuple[Tensor, Tensor]:
        """The values of the darkest and the brightest pixel, float32 [C] each."""
        darkest = torch.zeros_like(self.mean, dtype=torch.uint8)[None]
        return self(darkest).flatten(), self(darkest + self.top).flatten()


def measure_scale(pixels: Tensor, top: int, rows: Tensor | None = None) -> PixelScale:
    """Scale by the mean and standard deviation (at least one grey level) of these images, a channel each.

    ``rows``: of them alone; they are looked at a few at a time.
    """
    levels = np.arange(top + 1) / top
    counts = np.zeros((pixels.shape[1], top + 1), np.int64)
    for some in torch.arange(len(pixels)).split(_FEW) if rows is None else rows.split(_FEW):
        for channel, seen in enumerate(pixels[some].unbind(1)):
            counts[channel] += np.bincount(seen.numpy().ravel(), minlength=top + 1)
    mean = [float(np.average(levels, weights=seen)) for seen in counts]
    std = [
        max(float(np.average((levels - m) ** 2, weights=seen) ** 0.5), 1 / top)
        for m, seen in zip(mean, counts, strict=True)
    ]
    return PixelScale(top, mean, std)


class TaskData(Dataset[tuple[Tensor, int]]):
    """Some images of a pixel tensor with the labels of one task; normalised when they are asked for.

    pixels: uint8 [N, C, H, W]
    rows: int64 [n], which images
    labels: int64 [n], their classes within the task
    permutation: int64 [H·W] or None; the pixel that comes to each place
    """

    def __init__(
        self,
        pixels: Tensor,
        rows: Tensor,
        labels: Tensor,
        scale: PixelScale,
        *,
        permutation: Tensor | None = None,
        flatten: bool = False,
    ) -> None:
        self.pixels = pixels
        self.rows = rows
        self.labels = labels
        self.targets: list[int] = labels.tolist()
        self.scale = scale
        self.permutation = permutation
        self.flatten = flatten

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._x(self.rows[index].view(1))[0], self.targets[index]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The whole task at once: x float32 [n, …], y int64 [n]; equal to its items stacked."""
        return self._x(self.rows), self.labels

    def compact(self) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """The same as pixels uint8 [n, C, H, W], y int64 [n], and what makes x of any of these pixels."""
        return self._pixels(self.rows), self.labels, self._normalised

    def _x(self, rows: Tensor) -> Tensor:
        return self._normalised(self._pixels(rows))

    def _pixels(self, rows: Tensor) -> Tensor:
        pixels = self.pixels[rows]
        if self.permutation is None:
            return pixels
        return pixels.flatten(2)[:, :, self.permutation].view_as(pixels)

    def _normalised(self, pixels: Tensor) -> Tensor:
        x = self.scale(pixels)
        return x.flatten(1) if self.flatten else x


class FloatData(Dataset[tuple[Tensor, int]]):
    """Samples x float32 [n, ...] of one task, as they are, with labels int64 [n]."""

    def __init__(self, x: Tensor, labels: Tensor) -> None:
        self.x, self.labels = x, labels
        self.targets: list[int] = labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The whole task at once."""
        return self.x, self.labels


@dataclass(frozen=True)
class Task:
    """What one experience of each stream is made of. ``classes``: names, in the order of the labels."""

    train: TaskData | FloatData
    valid: TaskData | FloatData | None
    test: TaskData | FloatData
    classes: list[str]


def split_classes(
    config: ClassSplitConfig, images: Images, seed: int, *, flatten: bool = False
) -> CLScenario:
    """The stream whose tasks have different classes, in the order that ``config.class_order`` asks for."""
    order = splitting.order_classes(images.classes, config.class_order, seed)
    groups = splitting.group_classes(order, config.tasks, config.classes_per_task, config.shared_classes)
    return make_stream(config, images, groups, seed, flatten=flatten)


def make_stream(
    config: StreamConfig,
    images: Images,
    groups: Sequence[Sequence[int]],
    seed: int,
    *,
    flatten: bool = False,
    permutations: Sequence[Tensor | None] | None = None,
    redraw: Callable[[int, Tensor], Tensor] | None = None,
) -> CLScenario:
    """The stream whose task t has the classes ``groups[t]``.

    permutations: one pixel order a task, applied when images are read
    redraw: (task, uint8 [n, C, H, W]) -> the same shape, applied once to a task's images
    """
    labels = images.train_y.numpy()
    limits = splitting.limit_per_task(config.train_per_class, len(groups))
    picked = [
        splitting.pick_rows(
            labels,
            group,
            limit=limits[t],
            validation=config.validation,
            random=splitting.generator(seed, splitting.IMAGES, t),
        )
        for t, group in enumerate(groups)
    ]
    scale = _scale(config, images, torch.from_numpy(picked[0][0]))

    def data(t: int, pixels: Tensor, y: Tensor, rows: Tensor) -> TaskData:
        local = torch.full((len(images.classes),), -1)
        local[list(groups[t])] = torch.arange(len(groups[t]))
        task_labels = local[y[rows]]
        if redraw is not None:
            pixels, rows = redraw(t, pixels[rows]), torch.arange(len(rows))
        permutation = permutations[t] if permutations is not None else None
        return TaskData(pixels, rows, task_labels, scale, permutation=permutation, flatten=flatten)

    tasks = []
    for t, group in enumerate(groups):
        train, valid = map(torch.from_numpy, picked[t])
        test = torch.isin(images.test_y, torch.tensor(list(group))).nonzero().flatten()
        tasks.append(
            Task(
                train=data(t, images.train_x, images.train_y, train),
                valid=data(t, images.train_x, images.train_y, valid) if config.validation > 0 else None,
                test=data(t, images.test_x, images.test_y, test),
                classes=[images.classes[label] for label in group],
            )
        )
    return make_benchmark(tasks, pixel_range=scale.range())


def _scale(config: StreamConfig, images: Images, first_task: Tensor) -> PixelScale:
    channels = images.train_x.shape[1]
    if not config.normalize:
        return PixelScale(images.top, [0.0] * channels, [1.0] * channels)
    if images.mean is None or images.std is None:
        return measure_scale(images.train_x, images.top, first_task)
    return PixelScale(images.top, images.mean, images.std)


def make_benchmark(tasks: Sequence[Task], *, pixel_range: tuple[Tensor, Tensor]) -> CLScenario:
    """An Avalanche benchmark with one experience a task and task labels 0, 1, 2, …

    Beside Avalanche's own attributes it has ``valid_stream`` (None without validation images),
    ``pixel_range`` (lowest and highest value of a normalised pixel, float32 [C] each) and ``task_classes``
    (the class names of each task, in the order of the labels).
    """
    from avalanche.benchmarks import dataset_benchmark
    from avalanche.benchmarks.utils import (
        ConstantSequence,
        DataAttribute,
        TaskAwareSupervisedClassificationDataset,
    )

    def labelled(parts: Sequence[TaskData | FloatData]) -> list:
        return [
            TaskAwareSupervisedClassificationDataset(
                [part],
                data_attributes=[
                    DataAttribute(part.targets, "targets"),
                    DataAttribute(ConstantSequence(t, len(part)), "targets_task_labels", use_in_getitem=True),
                ],
            )
            for t, part in enumerate(parts)
        ]

    valid = [task.valid for task in tasks if task.valid is not None]
    benchmark = dataset_benchmark(
        labelled([task.train for task in tasks]),
        labelled([task.test for task in tasks]),
        other_streams_datasets={"valid": labelled(valid)} if valid else None,
    )
    if not valid:
        benchmark.valid_stream = None
    benchmark.pixel_range = pixel_range
    benchmark.task_classes = [task.classes for task in tasks]
    return benchmark
