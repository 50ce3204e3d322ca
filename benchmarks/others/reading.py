"""Tasks from samples that were read: classes numbered within the task, images drawn, pixels scaled.

Shapes: x uint8 [n, C, H, W] (pixels) or float [n, ...] (used as it is); y int64 [n].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks import splitting
from benchmarks.base import StreamConfig
from benchmarks.tasks import FloatData, PixelScale, Task, TaskData, make_benchmark, measure_scale
from dsn.errors import InputError

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Raw:
    """What is known of one task: its samples, where they come from, and names of its classes by label."""

    train: Samples
    test: Samples
    valid: Samples | None = None
    names: Sequence[str] | None = None
    scale: PixelScale | None = None


def read(dataset: Any, where: str) -> Samples:
    """All of a data set whose items are (x, y, ...). Raises InputError, naming ``where``, for any other."""
    from dsn.training.samples import read_samples

    try:
        x, y = read_samples(dataset)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not len(y):
        raise InputError(f"{where}: has no samples; a task needs some for training and some for its test")
    return x, y


def build_stream(config: StreamConfig, raws: Sequence[Raw], seed: int) -> CLScenario:
    """The benchmark of ``raws``, one task each, with the config's limits and validation split.

    Raises InputError where samples of tasks have different shapes.
    """
    limits = splitting.limit_per_task(config.train_per_class, len(raws))
    _refuse_other_shapes(raws)
    first = None
    tasks, ranges = [], []
    for t, (raw, limit) in enumerate(zip(raws, limits, strict=True)):
        classes = torch.cat([raw.train[1], raw.test[1]]).unique()
        random = splitting.generator(seed, splitting.IMAGES, t)
        rows, held_out = splitting.pick_rows(
            raw.train[1].numpy(),
            classes.tolist(),
            limit=limit,
            validation=0.0 if raw.valid is not None else config.validation,
            random=random,
        )
        train = _part(raw.train, torch.from_numpy(rows))
        valid = raw.valid if raw.valid is not None else _part(raw.train, torch.from_numpy(held_out))
        scale = raw.scale or first or scale_of(config, train[0])
        first = first or scale
        tasks.append(
            Task(
                train=_data(train, classes, scale),
                valid=_data(valid, classes, scale) if len(valid[1]) else None,
                test=_data(raw.test, classes, scale),
                classes=[raw.names[c] if raw.names else str(c) for c in classes.tolist()],
            )
        )
        ranges.append(_range(train[0], scale))
    low, high = (torch.stack(limit) for limit in zip(*ranges, strict=True))
    return make_benchmark(tasks, pixel_range=(low.amin(0), high.amax(0)))


def _part(samples: Samples, rows: Tensor) -> Samples:
    return samples[0][rows], samples[1][rows]


def _data(samples: Samples, classes: Tensor, scale: PixelScale) -> TaskData | FloatData:
    x, labels = samples[0], torch.searchsorted(classes, samples[1].contiguous())
    if x.dtype != torch.uint8:
        return FloatData(x.float(), labels)
    return TaskData(x, torch.arange(len(x)), labels, scale)


def scale_of(config: StreamConfig, x: Tensor) -> PixelScale:
    """How the pixels of x are scaled: normalised by its own means where the config says so."""
    if x.dtype != torch.uint8 or not config.normalize:
        channels = x.shape[1] if x.dim() == 4 else 1
        return PixelScale(255, [0.0] * channels, [1.0] * channels)
    return measure_scale(x, 255)


def _range(x: Tensor, scale: PixelScale) -> tuple[Tensor, Tensor]:
    if x.dtype == torch.uint8:
        return scale.range()
    values = x.float().transpose(0, 1).flatten(1) if x.dim() == 4 else x.float().view(1, -1)
    return values.amin(1), torch.maximum(values.amax(1), values.amin(1) + 1e-6)


def _refuse_other_shapes(raws: Sequence[Raw]) -> None:
    for t, raw in enumerate(raws):
        for part, (x, _) in (("training", raw.train), ("test", raw.test)):
            if x.dtype == torch.uint8 and x.dim() != 4:
                raise InputError(
                    f"task {t}: its {part} samples are uint8 of shape {list(x.shape[1:])}, no image"
                )
            if x.shape[1:] != raws[0].train[0].shape[1:]:
                raise InputError(
                    f"task {t}: its {part} samples have the shape {list(x.shape[1:])}, those of task 0 "
                    f"{list(raws[0].train[0].shape[1:])}: set stream.image_size, or give all one shape"
                )
