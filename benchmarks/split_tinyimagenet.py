"""Split TinyImageNet: 200 classes of 64 × 64 images in 10, 20 or 40 tasks, or any number that divides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from benchmarks.base import DEFAULT_CACHE, ClassSplitConfig, Count, Folder

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


class SplitTinyImageNetConfig(ClassSplitConfig):
    """``root``: see ``benchmarks.classic_data``. ``cache``: see ``benchmarks.images.decoding``."""

    name: Literal["split_tinyimagenet"] = "split_tinyimagenet"
    tasks: Count = 20
    root: Folder | None = None
    cache: Folder | None = DEFAULT_CACHE


def build(config: SplitTinyImageNetConfig, seed: int) -> CLScenario:
    """Build the benchmark; raises InputError if the data are absent and cannot be downloaded."""
    from benchmarks.classic_data import load_tiny_imagenet
    from benchmarks.tasks import split_classes

    return split_classes(config, load_tiny_imagenet(config.root, cache=config.cache), seed)
