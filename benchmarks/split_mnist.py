"""Split MNIST and Split Fashion-MNIST: five tasks of two classes by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from benchmarks.base import ClassSplitConfig, Count, Folder

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


class SplitMNISTConfig(ClassSplitConfig):
    """Of MNIST.

    flatten: vectors of 784 instead of images 1 × 28 × 28
    root: see ``benchmarks.classic_data``
    """

    name: Literal["split_mnist"] = "split_mnist"
    tasks: Count = 5
    classes_per_task: Count | None = 2
    flatten: bool = True
    root: Folder | None = None


class SplitFashionMNISTConfig(ClassSplitConfig):
    """As SplitMNISTConfig."""

    name: Literal["split_fmnist"] = "split_fmnist"
    tasks: Count = 5
    classes_per_task: Count | None = 2
    flatten: bool = True
    root: Folder | None = None


def build(config: SplitMNISTConfig | SplitFashionMNISTConfig, seed: int) -> CLScenario:
    """Build the benchmark; raises InputError if the data are absent and cannot be downloaded."""
    from benchmarks.classic_data import load_mnist
    from benchmarks.tasks import split_classes

    data = "mnist" if config.name == "split_mnist" else "fashion_mnist"
    return split_classes(config, load_mnist(data, config.root), seed, flatten=config.flatten)
