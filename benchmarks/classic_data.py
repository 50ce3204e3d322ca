"""The classic data sets, read (and downloaded if absent) by torchvision's and Avalanche's own classes.

Each function returns Images and raises InputError when the files are absent and cannot be downloaded.
``root`` is the folder given to torchvision's or Avalanche's class; None is Avalanche's default,
``~/.avalanche/data/<data set>``. CIFAR is also read from its images as files, root/train/<class>/* and
root/test/<class>/*.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.images.decoding import decode_images
from benchmarks.splitting import pick_rows
from benchmarks.tasks import Images
from dsn.errors import InputError

if TYPE_CHECKING:
    from avalanche.benchmarks.datasets import TinyImagenet

# mean and standard deviation of the training images, pixels in [0, 1], as commonly published
_MNIST_STATISTICS = {"mnist": ((0.1307,), (0.3081,)), "fashion_mnist": ((0.2860,), (0.3530,))}
_CIFAR_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_TINY_IMAGENET_STATISTICS = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))

# what the loaders raise offline, and for files that are cut off or of another kind
_LOADING_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zipfile.BadZipFile,
)

_CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

_DIGITS_TEST_SHARE = 0.25
_DIGITS_SPLIT_SEED = 0


def load_digits() -> Images:
    """scikit-learn's 1,797 digits, 8 × 8, levels 0 .. 16. The test images are the same for every seed."""
    from sklearn import datasets

    digits = datasets.load_digits()
    x = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    y = torch.from_numpy(digits.target.astype(np.int64))
    train, test = pick_rows(
        digits.target,
        range(10),
        limit=None,
        validation=_DIGITS_TEST_SHARE,
        random=np.random.default_rng(_DIGITS_SPLIT_SEED),
    )
    return Images(
        train_x=x[train],
        train_y=y[train],
        test_x=x[test],
        test_y=y[test],
        classes=[str(digit) for digit in range(10)],
        mean=(0.3057,),
        std=(0.3762,),
        top=16,
    )


def load_mnist(name: str, root: Path | None) -> Images:
    """``name``: mnist or fashion_mnist; 60,000 and 10,000 images, 28 × 28."""
    from torchvision import datasets

    source = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    folder = _folder(root, name.replace("_", ""))
    with _explain_absence(
        name, folder, f"{source.__name__}/raw", "the four idx files (train-images-idx3-ubyte …)"
    ):
        train, test = (source(str(folder), train=part, download=True) for part in (True, False))
    mean, std = _MNIST_STATISTICS[name]
    return Images(
        train_x=train.data[:, None],
        train_y=train.targets,
        test_x=test.data[:, None],
        test_y=test.targets,
        classes=[str(digit) for digit in range(10)] if name == "mnist" else list(train.classes),
        mean=mean,
        std=std,
    )


def load_cifar(name: str, root: Path | None) -> Images:
    """``name``: cifar10 or cifar100; 50,000 and 10,000 images, 3 × 32 × 32."""
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = _folder(root, name)
    if (folder / "train").is_dir():
        return _load_cifar_files(name, folder)
    with _explain_absence(name, folder, source.base_folder, f"what {source.filename} holds"):
        train, test = (source(str(folder), train=part, download=True) for part in (True, False))
    mean, std = _CIFAR_STATISTICS[name]
    return Images(
        train_x=torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
        train_y=torch.tensor(train.targets),
        test_x=torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
        test_y=torch.tensor(test.targets),
        classes=list(train.classes),
        mean=mean,
        std=std,
    )


def _load_cifar_files(name: str, folder: Path) -> Images:
    """The same data set from image files, the classes in the same order: by name."""
    from benchmarks.image_folder import ImageFolderConfig, load
    from benchmarks.superclasses import SUPERCLASSES

    images = load(ImageFolderConfig(root=folder, tasks=1, image_size=32))
    known = sorted(" ".join(SUPERCLASSES.values()).split()) if name == "cifar100" else _CIFAR10_CLASSES
    if images.classes != known:
        odd = sorted(set(images.classes) ^ set(known))
        raise InputError(
            f"stream.root: {folder}/train has {len(images.classes)} classes, {name} has {len(known)}; they "
            f"differ in {', '.join(odd[:5])}{' and others' if len(odd) > 5 else ''}; see image_folder"
        )
    mean, std = _CIFAR_STATISTICS[name]
    return replace(images, mean=mean, std=std)


def load_tiny_imagenet(root: Path | None, *, cache: Path | None) -> Images:
    """100,000 and 10,000 images, 3 × 64 × 64, of 200 classes named by their WordNet ids."""
    from avalanche.benchmarks.datasets import TinyImagenet

    folder = _folder(root, "tinyimagenet")
    with _explain_absence(
        "tinyimagenet", folder, "tiny-imagenet-200", "what tiny-imagenet-200.zip holds, all 200 classes"
    ):
        train, test = (TinyImagenet(folder, train=part) for part in (True, False))
    train_x, train_y = _decode_sorted(train, cache)
    test_x, test_y = _decode_sorted(test, cache)
    mean, std = _TINY_IMAGENET_STATISTICS
    classes = [train.id2label[label] for label in range(200)]
    return Images(train_x, train_y, test_x, test_y, classes=classes, mean=mean, std=std)


def _decode_sorted(part: TinyImagenet, cache: Path | None) -> tuple[Tensor, Tensor]:
    """Pixels and labels in the order of the paths: the class lists them as the file system does."""
    files = sorted(zip(part.data, part.targets, strict=True))
    pixels = decode_images([path for path, _ in files], size=64, channels=3, cache=cache)
    return pixels, torch.tensor([target for _, target in files])


def _folder(root: Path | None, name: str) -> Path:
    if root is not None:
        return root.expanduser()
    from avalanche.benchmarks.datasets import default_dataset_location

    return Path(default_dataset_location(name))


@contextlib.contextmanager
def _explain_absence(name: str, root: Path, inside: str, content: str) -> Iterator[None]:
    """One InputError in place of the loaders' many messages; empty folders that they made go away."""
    place = root / inside
    absent = [path for path in (place, *place.parents) if not path.exists()]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except _LOADING_ERRORS as error:
        for made in absent:
            with contextlib.suppress(OSError):
                made.rmdir()
        cause = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name} can neither be read from {place} nor be downloaded ({cause}). Put there {content}, "
            f"or set stream.root to the folder that has {inside} in it. "
            "The stream split_digits runs without a download."
        ) from error
