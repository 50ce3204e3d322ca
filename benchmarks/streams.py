"""All streams by name. Importing this file imports no torch and no Avalanche; building does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks import (
    image_folder,
    permuted,
    rotated,
    split_cifar,
    split_digits,
    split_mnist,
    split_tinyimagenet,
)
from benchmarks.base import StreamConfig
from benchmarks.others import avalanche_classic, data_sets, python

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

STREAMS: dict[str, tuple[type[StreamConfig], Callable[[Any, int], CLScenario]]] = {
    "split_digits": (split_digits.SplitDigitsConfig, split_digits.build),
    "permuted": (permuted.PermutedConfig, permuted.build),
    "rotated": (rotated.RotatedConfig, rotated.build),
    "split_mnist": (split_mnist.SplitMNISTConfig, split_mnist.build),
    "split_fmnist": (split_mnist.SplitFashionMNISTConfig, split_mnist.build),
    "split_cifar10": (split_cifar.SplitCIFAR10Config, split_cifar.build),
    "split_cifar100": (split_cifar.SplitCIFAR100Config, split_cifar.build),
    "split_tinyimagenet": (split_tinyimagenet.SplitTinyImageNetConfig, split_tinyimagenet.build),
    "image_folder": (image_folder.ImageFolderConfig, image_folder.build),
    "avalanche": (avalanche_classic.AvalancheConfig, avalanche_classic.build),
    "datasets": (data_sets.DataSetsConfig, data_sets.build),
    "python": (python.PythonConfig, python.build),
}


def build(config: StreamConfig, seed: int) -> CLScenario:
    """Build the Avalanche benchmark of a config; raises InputError if its data cannot be used."""
    return STREAMS[config.name][1](config, seed)
