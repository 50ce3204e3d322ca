"""Several data sets, one task each, as the 5-Datasets of the papers: grey ones made RGB, all of one size."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from benchmarks.base import DEFAULT_CACHE, Count, Folder, StreamConfig

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario
    from torch import Tensor

    from benchmarks.tasks import Images

OWN = {"mnist": "mnist", "fashionmnist": "fashion_mnist", "cifar10": "cifar10", "cifar100": "cifar100"}
"""read as by the streams of one data set; by plain name"""


class DataSetsConfig(StreamConfig):
    """A task for each data set, all its classes.

    datasets: names of torchvision's (cifar10, mnist, svhn, fashion_mnist, ...), or of folders in ``root``
        with train/<class>/* and test/<class>/* (notmnist)
    root: a data set <name> lies in root/<name>, if there is such a folder, else in root
    options: by name, further arguments of torchvision's class, e.g. {emnist: {split: letters}}
    image_size: pixels square
    tasks: as many as data sets
    cache: see ``benchmarks.images.decoding``
    """

    name: Literal["datasets"] = "datasets"
    datasets: list[str] = Field(min_length=1)
    root: Folder | None = None
    options: dict[str, dict[str, Any]] = {}
    image_size: Count = 32
    tasks: Count = 1
    cache: Folder | None = DEFAULT_CACHE

    @model_validator(mode="after")
    def _one_task_each(self) -> Self:
        if "tasks" in self.model_fields_set and self.tasks != len(self.datasets):
            raise ValueError(
                f"tasks is {self.tasks}, but there are {len(self.datasets)} datasets: leave it out"
            )
        odd = sorted(set(self.options) - set(self.datasets))
        if odd:
            raise ValueError(f"options: {', '.join(odd)} is none of the datasets {', '.join(self.datasets)}")
        self.tasks = len(self.datasets)
        return self


def build(config: DataSetsConfig, seed: int) -> CLScenario:
    """Build the benchmark.

    Raises InputError for unknown names, with the nearest, and for data that cannot be read or downloaded.
    """
    from benchmarks.others.reading import Raw, build_stream, scale_of

    raws = []
    for name in config.datasets:
        images = _load(config, name)
        train, test = (_uniform(x, config.image_size) for x in (images.train_x, images.test_x))
        samples = (train, images.train_y), (test, images.test_y)
        raws.append(Raw(*samples, names=images.classes, scale=scale_of(config, train)))
    return build_stream(config, raws, seed)


def _load(config: DataSetsConfig, name: str) -> Images:
    from benchmarks.classic_data import load_cifar, load_mnist
    from benchmarks.image_folder import ImageFolderConfig, load

    root = None if config.root is None else config.root.expanduser()
    folder = root if root is None or not (root / name).is_dir() else root / name
    plain = _plain(name)
    if plain in OWN and not config.options.get(name):
        return (load_mnist if "mnist" in plain else load_cifar)(OWN[plain], folder)
    if folder is not None and folder != root and (folder / "train").is_dir():
        return load(ImageFolderConfig(root=folder, tasks=1, image_size=config.image_size, cache=config.cache))
    return _torchvision(config, name, folder)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _torchvision(config: DataSetsConfig, name: str, folder: Path | None) -> Images:
    from torchvision import datasets

    from benchmarks.tasks import Images
    from dsn.errors import InputError

    known = {_plain(n): c for n, c in vars(datasets).items() if inspect.isclass(c) and _split_by(c)}
    kind = known.get(_plain(name))
    if kind is None:
        near = difflib.get_close_matches(_plain(name), [*known, *OWN], n=3, cutoff=0.5)
        said = f"; near: {', '.join(near)}" if near else ""
        raise InputError(
            f"stream.datasets: torchvision has no '{name}' with training and test data, and there is no "
            f"folder {name}/train in stream.root{said}"
        )
    folder = Path("~/.cache/dsn/data").expanduser() if folder is None else folder
    parts: list[tuple[Tensor, Tensor]] = []
    try:
        for choice in _split_by(kind) or ():
            takes = inspect.signature(kind).parameters
            arguments = {"download": True} if "download" in takes else {}
            parts.append(
                _read(kind(str(folder), **(arguments | choice | config.options.get(name, {}))), config)
            )
    except Exception as error:  # each has its own way to fail, offline most of all
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"stream.datasets: {name} can neither be read from {folder} nor be downloaded ({cause}); put its "
            "files there as torchvision wants them, or images as train/<class>/* and test/<class>/*"
        ) from error
    (train_x, train_y), (test_x, test_y) = parts
    names = [str(c) for c in range(int(train_y.max()) + 1)]
    return Images(train_x, train_y, test_x, test_y, classes=names)


def _split_by(kind: Any) -> list[dict[str, Any]] | None:
    """How a class of torchvision is asked for its training and its test data; None where it is not known."""
    takes = inspect.signature(kind).parameters
    if "root" not in takes:
        return None
    if "train" in takes:
        return [{"train": True}, {"train": False}]
    return [{"split": "train"}, {"split": "test"}] if "split" in takes else None


def _read(dataset: Any, config: DataSetsConfig) -> tuple[Tensor, Tensor]:
    """uint8 [n, 3, S, S] and int64 [n] of a data set of images."""
    import torch
    from torchvision.transforms.v2 import functional

    size = [config.image_size, config.image_size]
    pixels, labels = [], []
    for image, label, *_ in dataset:
        pixels.append(functional.resize(functional.pil_to_tensor(image.convert("RGB")), size, antialias=True))
        labels.append(int(label))
    return torch.stack(pixels), torch.tensor(labels)


def _uniform(x: Tensor, size: int) -> Tensor:
    """uint8 [n, 3, size, size] of uint8 [n, C, H, W], C 1 or 3."""
    import torch
    from torchvision.transforms.v2 import functional

    if x.shape[2:] != (size, size):
        x = torch.cat([functional.resize(part, [size, size], antialias=True) for part in x.split(4096)])
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
