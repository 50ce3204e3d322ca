"""The data sets that can be permuted and rotated, and their config fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from benchmarks.base import Count, Folder, StreamConfig

if TYPE_CHECKING:
    from benchmarks.tasks import Images


class GrayConfig(StreamConfig):
    """Fields of streams whose tasks all have the same 10 classes.

    data: digits is embedded in scikit-learn, the other two are downloaded if absent
    root: see ``benchmarks.classic_data``; not for digits
    flatten: vectors instead of images
    """

    data: Literal["mnist", "fashion_mnist", "digits"] = "mnist"
    tasks: Count = 10
    root: Folder | None = None
    flatten: bool = True


def load(config: GrayConfig) -> Images:
    """Raises InputError if the data are absent and cannot be downloaded, or ``root`` is given for digits."""
    from benchmarks.classic_data import load_digits, load_mnist
    from dsn.errors import InputError

    if config.data != "digits":
        return load_mnist(config.data, config.root)
    if config.root is not None:
        raise InputError("stream.root: digits are embedded in scikit-learn; remove the field")
    return load_digits()
