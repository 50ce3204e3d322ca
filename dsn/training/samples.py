"""What a data set gives: its samples as tensors, and whether they are the same at every reading.

Shapes: x [n, ...] the samples of a data set; y [n] int64 their classes.

Samples may be kept only where it is *known* that reading them again would give the same. Reading twice and
comparing proves nothing: a transform may act on one sample in a thousand, or begin to act later. So known is
what is listed here: tensors, torchvision's and Avalanche's own data sets, and transforms of theirs that draw
nothing. All else, every data set and function of the user's among it, is read anew each epoch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.benchmarks.utils.flat_data import FlatData
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from ..errors import InputError

Finish = Callable[[Tensor], Tensor]

MOST_CLASSES = 2**20
"""A head has an output for each number up to the largest label: beyond this, labels are no class numbers."""

# of torchvision.transforms, .transforms.v2 and Avalanche: each gives the same for the same input, always
_FIXED_TRANSFORMS = {
    "CenterCrop", "ConvertImageDtype", "FiveCrop", "Grayscale", "Identity", "ImageClassification",
    "LinearTransformation", "Normalize", "PILToTensor", "Pad", "PixelsPermutation", "RGB", "Resize",
    "TenCrop", "ToDtype", "ToImage", "ToPILImage", "ToPureTensor", "ToTensor",
}  # fmt: skip
# what only calls other transforms, and the attributes that hold these
_OF_OTHERS = ("transforms", "transform", "target_transform")
_COMPOSITIONS = {
    "Compose", "MultiParamCompose", "MultiParamTransformCallable", "StandardTransform", "TupleTransform"
}  # fmt: skip
_KNOWN_MODULES = ("torchvision.", "avalanche.benchmarks.")
_KNOWN_DATA = ("torchvision.datasets.", "avalanche.benchmarks.datasets.")


# ---- the tree of a data set ----------------------------------------------------------------------------


def is_fixed(dataset: Any) -> bool:
    """Whether it is known that every sample is the same each time it is read; see the head of this file."""
    return _custom_collate(dataset) is None and _is_fixed(_flat(dataset), _group(dataset))


def same_samples(one: Any, other: Any) -> bool:
    """Whether two data sets are the same samples: judged by the first, the middle and the last."""
    n = len(one)
    return n == len(other) and all(_origin(one, i) == _origin(other, i) for i in {0, n // 2, n - 1} if n)


def _flat(dataset: Any) -> Any:
    return dataset._flat_data if isinstance(dataset, AvalancheDataset) else dataset


def _group(dataset: Any) -> str:
    groups = getattr(_flat(dataset), "_transform_groups", None)
    return "train" if groups is None else groups.current_group


def _own_transforms(dataset: FlatData[Any], group: str) -> list[Any]:
    """The transforms that Avalanche's wrapper ``dataset`` itself applies."""
    groups = [getattr(dataset, name, None) for name in ("_frozen_transform_groups", "_transform_groups")]
    transforms = [g.transform_groups[group] for g in groups if g is not None]
    return [transform for transform in transforms if not _does_nothing(transform)]


def _does_nothing(transform: Any) -> bool:
    """Whether it is None, or calls nothing but that."""
    return transform is None or (_composes(transform) and all(map(_does_nothing, _called_by(transform))))


def _composes(transform: Any) -> bool:
    """Whether it is nothing but the transforms that it calls."""
    kind = type(transform)
    return kind in (list, tuple) or (
        kind.__module__.startswith(_KNOWN_MODULES) and kind.__name__ in _COMPOSITIONS
    )


def _called_by(transform: Any) -> Sequence[Any]:
    if isinstance(transform, (list, tuple)):
        return transform
    return [getattr(transform, name, None) for name in _OF_OTHERS]


def _is_fixed(dataset: Any, group: str) -> bool:
    kind = type(dataset)
    if isinstance(dataset, FlatData):
        parts = [(_flat(part), group) for part in dataset._datasets]
        if not all(map(_is_fixed_transform, _own_transforms(dataset, group))):
            return False
    elif kind in (Subset, ConcatDataset):
        inner = dataset.datasets if kind is ConcatDataset else [dataset.dataset]
        parts = [(_flat(part), _group(part)) for part in inner]
    else:
        return _is_fixed_source(dataset)
    return all(_is_fixed(*part) for part in parts)


def _is_fixed_source(dataset: Any) -> bool:
    kind = type(dataset)
    if kind in (TensorDataset, list, tuple) or _gives(dataset, "compact") or _gives(dataset, "tensors"):
        return True
    if not kind.__module__.startswith(_KNOWN_DATA):
        return False
    transforms = [getattr(dataset, name, None) for name in _OF_OTHERS]
    return _is_known(getattr(dataset, "loader", None)) and all(map(_is_fixed_transform, transforms))


def _is_fixed_transform(transform: Any) -> bool:
    if transform is None:
        return True
    if _composes(transform):
        return all(map(_is_fixed_transform, _called_by(transform)))
    kind = type(transform)
    if kind is partial:  # how Avalanche renumbers classes: a list, looked up
        return _is_known(transform.func)
    return kind.__module__.startswith(_KNOWN_MODULES) and kind.__name__ in _FIXED_TRANSFORMS


def _is_known(function: Any) -> bool:
    return function is None or (getattr(function, "__module__", None) or "").startswith(_KNOWN_MODULES)


def _gives(dataset: Any, method: str) -> bool:
    return callable(getattr(dataset, method, None))


def _whole(dataset: Any) -> tuple[Any, Tensor | None] | None:
    """The one data set that untransformed wrappers hold, and which of its samples (None: all), in order.

    None where there are several, or transforms.
    """
    group, dataset = _group(dataset), _flat(dataset)
    rows: Tensor | None = None
    while isinstance(dataset, FlatData):
        if len(dataset._datasets) != 1 or _own_transforms(dataset, group):
            return None
        if dataset._indices is not None:
            chosen = torch.tensor([int(i) for i in dataset._indices], dtype=torch.long)
            rows = chosen if rows is None else chosen[rows]
        dataset = _flat(dataset._datasets[0])
    return dataset, rows


def _origin(dataset: Any, index: int) -> tuple[int, int]:
    """Which sample of which innermost data set (its id) ``index`` is."""
    dataset = _flat(dataset)
    while isinstance(dataset, FlatData):
        part, index = dataset._get_idx(index)
        dataset = _flat(dataset._datasets[part])
    return id(dataset), index


# ---- reading -------------------------------------------------------------------------------------------


def _custom_collate(dataset: Any) -> Any:
    function = getattr(dataset, "collate_fn", None)
    return None if function is default_collate else function


def collate(dataset: Any, items: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """x [batch, ...] and y [batch] of some items (x, y, ...) of ``dataset``; its ``collate_fn`` is obeyed.

    Raises InputError for what is no tensor then, and for labels that are no class numbers.
    """
    own = _custom_collate(dataset)
    if own is not None:
        x, y = own(items)[:2]
        return x, check_labels(y)
    if not all(isinstance(item, (list, tuple)) and len(item) > 1 for item in items):
        raise InputError(
            f"an item of the data set is a {type(items[0]).__name__}: it must be (x, y) or longer"
        )
    try:
        x = default_collate([item[0] for item in items])
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"samples cannot be put into one tensor ({error}): give tensors or numpy arrays of one shape "
            "(a transform: torchvision's Resize, ToTensor)"
        ) from error
    if not isinstance(x, Tensor):
        raise InputError(
            f"a sample is a {type(items[0][0]).__name__}, not a tensor or numpy array: the network takes one "
            "tensor; choose it with a transform"
        )
    return x, torch.tensor([class_number(item[1]) for item in items], dtype=torch.long)


def class_number(label: Any) -> int:
    """A label as int. Raises InputError for all but whole numbers from 0 on."""
    scalar = label.item() if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0 else label
    if not isinstance(scalar, (int, np.integer, np.bool_)) or not 0 <= scalar < MOST_CLASSES:
        raise InputError(
            f"a label is {label!r}: labels must be the classes' numbers within the task, whole and from 0 on"
        )
    return int(scalar)


def check_labels(y: Tensor) -> Tensor:
    """The labels [n] of a whole data set as int64. Raises InputError as :func:`class_number` does."""
    if y.dim() != 1 or y.is_floating_point() or y.is_complex():
        raise InputError(
            f"labels are {y.dtype} of shape {list(y.shape)}: they must be one whole number a sample, "
            "the class within the task"
        )
    for extreme in (y.min(), y.max()) if len(y) else ():
        class_number(extreme.item())
    return y.long()


def read_samples(dataset: Any) -> tuple[Tensor, Tensor]:
    """All of a data set at once: x [n, ...] and y [n], both of what the data set gives now.

    Tensors are taken in one go; any other data set is read item by item.
    """
    kept, y, finish = read_compact(dataset)
    return kept if finish is None else finish(kept), y


def read_some(dataset: Any, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same of at most ``most`` samples, in their order; drawn by ``seed`` where there are more."""
    if len(dataset) <= max(1, most):
        return read_samples(dataset)
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[: max(1, most)]
    return collate(dataset, [dataset[i] for i in rows.sort().values.tolist()])


def read_compact(dataset: Any) -> tuple[Tensor, Tensor, Finish | None]:
    """The same in compact memory, e.g. uint8, and what makes x of some rows of it; None where that is x."""
    return read_at_once(dataset) or (*read_items(dataset), None)


def can_read_at_once(dataset: Any) -> bool:
    """Whether :func:`read_at_once` gives something."""
    return _at_once(dataset) is not None


def read_at_once(dataset: Any) -> tuple[Tensor, Tensor, Finish | None] | None:
    """:func:`read_compact` where no item need be read: a TensorDataset, a data set with a method ``compact``
    or ``tensors``, or some rows of one. None otherwise."""
    found = _at_once(dataset)
    if found is None:
        return None
    give, rows = found
    x, y, *finish = give()
    if rows is not None:
        x, y = x[rows], y[rows]
    return x, check_labels(y), finish[0] if finish else None


def _at_once(dataset: Any) -> tuple[Callable[[], tuple[Any, ...]], Tensor | None] | None:
    found = _whole(dataset)
    if found is None or _custom_collate(dataset) is not None:
        return None
    inner, rows = found
    if type(inner) is TensorDataset and len(inner.tensors) >= 2:
        return lambda: inner.tensors[:2], rows
    for method in ("compact", "tensors"):
        if _gives(inner, method):
            return getattr(inner, method), rows
    return None


def read_items(dataset: Any) -> tuple[Tensor, Tensor]:
    """x [n, ...] and y [n] of a data set, read item by item."""
    if not len(dataset):
        return torch.zeros(0), torch.zeros(0, dtype=torch.long)
    return collate(dataset, [dataset[i] for i in range(len(dataset))])


def sample_bytes(dataset: Any) -> int:
    """Bytes that all x of a data set take as tensors, from its first sample's size."""
    x = collate(dataset, [dataset[0]])[0] if len(dataset) else torch.zeros(0)
    return len(dataset) * x.numel() * x.element_size()


def count_classes(experience: Any, dataset: Any) -> int:
    """Outputs that a head for the experience's classes needs: the largest label + 1.

    Taken from the experience where it knows its classes, else from the labels of ``dataset``.
    """
    known = getattr(experience, "classes_in_this_experience", None)
    targets = getattr(dataset, "targets", None)
    if known is None and targets is not None:
        known = targets.uniques if hasattr(targets, "uniques") else targets
    if known is None:
        known = read_samples(dataset)[1].tolist()
    return max((class_number(label) for label in known), default=-1) + 1


def task_labels(dataset: Any) -> list[int]:
    """The tasks that samples of ``dataset`` are of; none where it does not say so."""
    labels = getattr(dataset, "targets_task_labels", None)
    return [] if labels is None else list(labels.uniques)


def with_unknown_classes(logits: Tensor, classes: int) -> Tensor:
    """``logits`` [batch, C] with columns up to ``classes``, 1000 below the sample's lowest: as good as never
    chosen, and the loss stays finite."""
    missing = classes - logits.shape[1]
    if missing <= 0:
        return logits
    lowest = logits.amin(1, keepdim=True) - 1000.0
    return torch.cat([logits, lowest.expand(-1, missing)], 1)
