"""Split CIFAR-10 and Split CIFAR-100, the latter by single classes or by its official superclasses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from benchmarks.base import ClassSplitConfig, Count, Folder
from benchmarks.superclasses import SUPERCLASSES

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


class SplitCIFAR10Config(ClassSplitConfig):
    """``root``: see ``benchmarks.classic_data``."""

    name: Literal["split_cifar10"] = "split_cifar10"
    tasks: Count = 5
    root: Folder | None = None


class SplitCIFAR100Config(ClassSplitConfig):
    """``by``: superclass makes a task of each superclass; ``class_order`` then orders (or lists) these."""

    name: Literal["split_cifar100"] = "split_cifar100"
    tasks: Count = 20
    by: Literal["class", "superclass"] = "class"
    root: Folder | None = None


def build(config: SplitCIFAR10Config | SplitCIFAR100Config, seed: int) -> CLScenario:
    """Build the benchmark; raises InputError if the data are absent and cannot be downloaded."""
    from benchmarks import splitting
    from benchmarks.classic_data import load_cifar
    from benchmarks.tasks import make_stream, split_classes
    from dsn.errors import InputError

    if config.name == "split_cifar10" or config.by == "class":
        return split_classes(config, load_cifar(config.name.removeprefix("split_"), config.root), seed)

    if config.classes_per_task not in (None, 5):
        raise InputError("stream.classes_per_task: a superclass has 5 classes; remove the field")
    if config.shared_classes:
        raise InputError("stream.shared_classes: superclasses share no classes; remove the field")
    order = splitting.order_classes(list(SUPERCLASSES), config.class_order, seed)
    chosen = splitting.group_classes(order, config.tasks, 1)
    images = load_cifar("cifar100", config.root)
    members = [names.split() for names in SUPERCLASSES.values()]
    groups = [[images.classes.index(name) for name in members[superclass]] for [superclass] in chosen]
    return make_stream(config, images, groups, seed)
