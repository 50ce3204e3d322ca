"""A user's own images: root/train/<class>/* and root/test/<class>/*, or root/<class>/* to be split."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from benchmarks.base import DEFAULT_CACHE, ClassSplitConfig, Count, Folder

if TYPE_CHECKING:
    import torch
    from avalanche.benchmarks import CLScenario

    from benchmarks.tasks import Images

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
_SPLIT_SEED = 0


class ImageFolderConfig(ClassSplitConfig):
    """Classes are named by their folders; images may lie deeper inside them.

    image_size: pixels a side; other shapes are cropped to the central square and scaled
    test_share: for one folder root/<class>/*: share in (0, 1) of each class that becomes the test images,
        the same ones for every seed
    cache: see ``benchmarks.images.decoding``
    """

    name: Literal["image_folder"] = "image_folder"
    root: Folder
    image_size: Count
    channels: Literal["rgb", "grayscale"] = "rgb"
    test_share: float | None = Field(default=None, gt=0.0, lt=1.0)
    cache: Folder | None = DEFAULT_CACHE


def build(config: ImageFolderConfig, seed: int) -> CLScenario:
    """Build the benchmark; raises InputError if the folders do not hold what they should."""
    from benchmarks.tasks import split_classes

    return split_classes(config, load(config), seed)


def load(config: ImageFolderConfig) -> Images:
    """Read all images. Their mean and standard deviation are left to the first task's training images."""
    from benchmarks.tasks import Images
    from dsn.errors import InputError

    root = config.root.expanduser()
    _require_folder(root)
    if not _subfolders(root / "train"):
        return _load_one_folder(config, root)
    if config.test_share is not None:
        raise InputError(f"stream.test_share: {root} has a train folder of its own; remove the field")
    _require_folder(root / "test")
    train, test = _files_by_class(root / "train"), _files_by_class(root / "test")
    for here, there, folder in ((test, train, "train"), (train, test, "test")):
        missing = sorted(set(here) - set(there))
        if missing:
            other = "test" if folder == "train" else "train"
            raise InputError(
                f"{root}: {', '.join(missing)} in {other} but not in {folder}; "
                f"add {root / folder / missing[0]} with images, or remove {root / other / missing[0]}"
            )
    return Images(*_decode(config, train), *_decode(config, test), classes=_names(train))


def _load_one_folder(config: ImageFolderConfig, root: Path) -> Images:
    import numpy as np

    from benchmarks.splitting import pick_rows
    from benchmarks.tasks import Images
    from dsn.errors import InputError

    if config.test_share is None:
        raise InputError(
            f"{root} has no train folder with class folders; add train and test, or set stream.test_share "
            "(for example 0.2) to split class folders that lie in it directly"
        )
    files = _files_by_class(root)
    for name, paths in files.items():
        if len(paths) < 2:
            raise InputError(f"{root / name} has one image; stream.test_share needs two or more a class")
    random = np.random.default_rng(_SPLIT_SEED)
    named = [(name, path) for name, paths in files.items() for path in paths]
    labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
    parts = pick_rows(labels, range(len(files)), limit=None, validation=config.test_share, random=random)
    train: dict[str, list[Path]] = {name: [] for name in files}
    test: dict[str, list[Path]] = {name: [] for name in files}
    for part, rows in zip((train, test), parts, strict=True):
        for name, path in (named[row] for row in rows):
            part[name].append(path)
    return Images(*_decode(config, train), *_decode(config, test), classes=_names(files))


def _decode(config: ImageFolderConfig, files: dict[str, list[Path]]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    from benchmarks.images.decoding import decode_images

    x = decode_images(
        [path for paths in files.values() for path in paths],
        size=config.image_size,
        channels=3 if config.channels == "rgb" else 1,
        cache=config.cache,
    )
    counts = torch.tensor([len(paths) for paths in files.values()])
    return x, torch.repeat_interleave(torch.arange(len(files)), counts)


def _names(files: dict[str, list[Path]]) -> list[str]:
    from benchmarks.images.pixels import shown

    return [shown(Path(name)) for name in files]


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its image files, both sorted."""
    from dsn.errors import InputError

    classes = _subfolders(folder)
    if not classes:
        raise InputError(
            f"{folder} has no class folders; put the images of each class in a folder of its own"
        )
    left: Counter[str] = Counter()
    files = {path.name: _image_files(path, left) for path in classes}
    left["loose files outside of the class folders"] = sum(
        not path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()
    )
    _tell(folder, left)
    for name, paths in files.items():
        if not paths:
            raise InputError(
                f"the class folder {folder / name} has no images ({', '.join(sorted(_EXTENSIONS))}); "
                "add some or remove it"
            )
    return files


def _image_files(folder: Path, left: Counter[str]) -> list[Path]:
    """The images in ``folder``, sorted; what is left out is counted in ``left``."""

    def refuse(error: OSError) -> None:
        from benchmarks.images.pixels import shown
        from dsn.errors import InputError

        raise InputError(f"cannot read the folder {shown(Path(error.filename))} ({error.strerror})")

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        visible = [Path(place, name) for name in files if not name.startswith(".")]
        images = [path for path in visible if path.suffix.lower() in _EXTENSIONS]
        found += images
        left["files with other endings"] += len(visible) - len(images)
        left["linked folders"] += sum(os.path.islink(os.path.join(place, name)) for name in folders)
    return sorted(found)


def _subfolders(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _tell(folder: Path, left: Counter[str]) -> None:
    counts = [f"{count} {kind}" for kind, count in left.items() if count]
    if counts:
        from benchmarks.images.pixels import shown

        warnings.warn(f"{shown(folder)}: left out {', '.join(counts)}", stacklevel=2)


def _require_folder(folder: Path) -> None:
    from dsn.errors import InputError

    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; image_folder needs root/train/<class>/* and root/test/<class>/*, "
            "or root/<class>/* and stream.test_share"
        )
