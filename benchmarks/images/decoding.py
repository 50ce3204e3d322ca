"""Image files to one uint8 tensor, decoded once: the result is kept in a cache folder.

An entry's name is a hash of the files' paths, sizes and times and of the target shape, so a changed file
makes a new entry. Old entries stay until the folder is emptied by hand, which is always safe.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.images.pixels import read_pixels, refuse_special, shown, unreadable
from dsn.errors import InputError
from dsn.memory import memory_bytes

# part of every entry's name: raised whenever the same file gives other pixels
_READING = 2
_DARK = 0.25


def decode_images(paths: Sequence[Path], *, size: int, channels: int, cache: Path | None) -> Tensor:
    """Decode, crop to the central square, scale to ``size`` pixels a side.

    channels: 3 (RGB) or 1 (grayscale)
    cache: folder of decoded tensors; None decodes every time
    returns: uint8 [len(paths), channels, size, size]
    raises: InputError naming the file that cannot be read, or the cache folder that cannot be written, or
        where all of them do not fit into memory
    """
    needed = len(paths) * channels * size**2
    try:
        if needed > memory_bytes():
            raise MemoryError
        return _decoded(paths, size, channels, cache)
    except MemoryError:
        raise InputError(
            f"{len(paths)} images of {size} x {size} take {needed / 1e9:,.1f} GB, this machine has "
            f"{memory_bytes() / 1e9:,.1f} GB; make them smaller (stream.image_size), or take fewer"
        ) from None


def _decoded(paths: Sequence[Path], size: int, channels: int, cache: Path | None) -> Tensor:
    if cache is None:
        return torch.from_numpy(_decode(paths, size, channels))
    folder = cache.expanduser()
    entry = folder / f"{_fingerprint(paths, size, channels)}.npy"
    pixels = _load(entry, (len(paths), channels, size, size))
    if pixels is None:
        pixels = _decode(paths, size, channels)
        try:
            _store(pixels, entry)
        except OSError as error:
            raise InputError(
                f"cannot write decoded images to {folder} ({error}); set stream.cache to another folder, "
                "or to null to decode in every run"
            ) from error
    return torch.from_numpy(pixels)


def _decode(paths: Sequence[Path], size: int, channels: int) -> np.ndarray:
    pixels = np.empty((len(paths), channels, size, size), np.uint8)
    brightest: list[float | None] = [None] * len(paths)

    def decode(index: int) -> None:
        shaped, brightest[index] = read_pixels(paths[index], channels)
        if shaped.size != (size, size):
            shaped = ImageOps.fit(shaped, (size, size), Image.Resampling.BILINEAR)
        pixels[index] = np.asarray(shaped).reshape(size, size, channels).transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(decode, range(len(paths))):
            pass
    _refuse_dark(paths, brightest)
    return pixels


def _refuse_dark(paths: Sequence[Path], brightest: Sequence[float | None]) -> None:
    """Raise InputError where images of many bits use less than a quarter of their range, all of them.

    They hold fewer bits then than their files say, 12 of a camera for example, and would come out black.
    """
    scaled = [(share, path) for share, path in zip(brightest, paths, strict=True) if share is not None]
    if not scaled:
        return
    share, path = max(scaled)
    if 0 < share < _DARK:
        raise InputError(
            f"none of the {len(scaled)} images of more than 8 bits is brighter than {share:.1%} of what its "
            f"format can hold (the brightest is {shown(path)}): they hold fewer bits than their files say; "
            "convert them to 8 bits"
        )


def _fingerprint(paths: Sequence[Path], size: int, channels: int) -> str:
    digest = hashlib.sha256(f"{_READING} {size} {channels}\n".encode())
    for path in paths:
        try:
            refuse_special(path)
            status = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        digest.update(os.fsencode(path.absolute()))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _load(entry: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        pixels = np.load(entry, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    whole = isinstance(pixels, np.ndarray)  # a zip archive gives something else
    return pixels if whole and pixels.shape == shape and pixels.dtype == np.uint8 else None


def _store(pixels: np.ndarray, entry: Path) -> None:
    """Written under another name first, so that a run that is stopped here leaves no half entry."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=entry.parent, suffix=".unfinished")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, pixels)
        os.replace(unfinished, entry)
    except BaseException:
        os.unlink(unfinished)
        raise
