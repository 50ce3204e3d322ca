"""Image files to one uint8 tensor, decoded once: the result is kept in a cache folder.

Large ones are mapped, so that images need not fit into memory: what is not looked at lies on the disk. An
entry's name is a hash of the files' paths, sizes and times and of the target shape, so a changed file makes a
new entry. Old entries stay until the folder is emptied by hand, which is always safe. Decoding that was
interrupted goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.images.pixels import read_pixels, refuse_special, shown, unreadable
from dsn.errors import InputError
from dsn.memory import memory_bytes
from dsn.storage import write_bytes

# part of every entry's name: raised whenever the same file gives other pixels
_READING = 2
_DARK = 0.25
_AT_ONCE = 2**26  # bytes that are decoded between two notes of how far it is
_MAPPED = 2**30  # bytes from which on an entry is mapped


def decode_images(paths: Sequence[Path], *, size: int, channels: int, cache: Path | None) -> Tensor:
    """Decode, crop to the central square, scale to ``size`` pixels a side.

    channels: 3 (RGB) or 1 (grayscale)
    cache: folder of decoded tensors; None decodes every time
    returns: uint8 [len(paths), channels, size, size], not to be written to: a large one is the cache's file
    raises: InputError naming the file that cannot be read, or the cache folder that cannot be written, or
        where all of them do not fit onto its disk, without a cache into memory
    """
    shape = (len(paths), channels, size, size)
    if cache is None:
        return torch.from_numpy(_in_memory(paths, shape))
    folder = cache.expanduser()
    entry = folder / f"{_fingerprint(paths, size, channels)}.npy"
    pixels = _load(entry, shape)
    if pixels is None:
        try:
            _make(entry, paths, shape)
        except OSError as error:
            raise InputError(
                f"cannot write decoded images to {folder} ({error}); set stream.cache to another folder, "
                "or to null to decode in every run"
            ) from error
        pixels = _load(entry, shape)
        if pixels is None:
            raise InputError(f"{entry}: was damaged by somebody else; remove it")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _in_memory(paths: Sequence[Path], shape: tuple[int, ...]) -> np.ndarray:
    needed = math.prod(shape)
    try:
        if needed > memory_bytes():
            raise MemoryError
        pixels = np.empty(shape, np.uint8)
        bright = _decode(paths, pixels, range(len(paths)))
    except MemoryError:
        raise InputError(
            f"{_told(shape)}, this machine has {memory_bytes() / 1e9:,.1f} GB; set stream.cache, then they "
            "stay on the disk, make them smaller (stream.image_size), or take fewer"
        ) from None
    _refuse_dark(bright, paths)
    return pixels


def _told(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} images of {shape[2]} x {shape[3]} take {math.prod(shape) / 1e9:,.1f} GB"


def _make(entry: Path, paths: Sequence[Path], shape: tuple[int, ...]) -> None:
    """Decode into a file beside ``entry`` that becomes it; another process that does so is waited for.

    The lock stays where this is interrupted: another may wait for it, and a third would make a new one.
    """
    lock = entry.with_suffix(".lock")
    made = [folder for folder in (entry.parent, *entry.parent.parents) if not folder.exists()]
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if _load(entry, shape) is None:
                _decode_into(entry, paths, shape)
    except InputError:
        lock.unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    lock.unlink(missing_ok=True)


def _decode_into(entry: Path, paths: Sequence[Path], shape: tuple[int, ...]) -> None:
    unfinished, note = entry.with_suffix(".unfinished"), entry.with_suffix(".json")
    done, bright = _how_far(unfinished, note, shape)
    try:
        if not done:
            _refuse_full(entry.parent, shape)
        pixels = _mapped(unfinished, shape, new=not done)
        step = max(1, _AT_ONCE // math.prod(shape[1:]))
        with _progress(len(paths), done) as advance:
            for start in range(done, len(paths), step):
                part = range(start, min(start + step, len(paths)))
                bright = bright.and_also(_decode(paths, pixels, part))
                pixels.flush()
                write_bytes(note, json.dumps([part.stop, *bright]).encode())
                advance(len(part))
        _refuse_dark(bright, paths)
        os.replace(unfinished, entry)
        note.unlink(missing_ok=True)
    except InputError:
        for file in (unfinished, note):
            file.unlink(missing_ok=True)
        raise


def _how_far(unfinished: Path, note: Path, shape: tuple[int, ...]) -> tuple[int, _Bright]:
    """How many images an interrupted decoding has done, and how bright they are."""
    try:
        done, *bright = json.loads(note.read_bytes())
        _mapped(unfinished, shape, new=False)
        return int(done), _Bright(*bright)
    except (OSError, ValueError, TypeError):
        return 0, _Bright()


def _mapped(file: Path, shape: tuple[int, ...], *, new: bool) -> np.memmap:
    """The array in ``file``, to write into. Raises ValueError where it is another."""
    if new:
        return np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    pixels = np.lib.format.open_memmap(file, mode="r+")
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError(f"{file}: another array")
    return pixels


def _refuse_full(folder: Path, shape: tuple[int, ...]) -> None:
    free = shutil.disk_usage(folder).free
    if math.prod(shape) > free:
        raise InputError(
            f"{_told(shape)}, the disk of {folder} has {free / 1e9:,.1f} GB left; set stream.cache to a "
            "folder on a larger one, make them smaller (stream.image_size), or take fewer"
        )


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; gives what advances it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("decoding images, once", total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def _decode(paths: Sequence[Path], pixels: np.ndarray, part: range) -> _Bright:
    """Decode the images ``part`` of ``paths`` to their places in ``pixels``."""
    size, channels = pixels.shape[2], pixels.shape[1]

    def decode(index: int) -> float | None:
        shaped, brightest = read_pixels(paths[index], channels)
        if shaped.size != (size, size):
            shaped = ImageOps.fit(shaped, (size, size), Image.Resampling.BILINEAR)
        pixels[index] = np.asarray(shaped).reshape(size, size, channels).transpose(2, 0, 1)
        return brightest

    bright = _Bright()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for index, share in zip(part, threads.map(decode, part), strict=True):
            if share is not None:
                bright = bright.and_also(_Bright(1, share, index))
    return bright


class _Bright(NamedTuple):
    """How many images of many bits there are, and which of them gets brightest."""

    images: int = 0
    share: float = 0.0
    at: int = 0

    def and_also(self, other: _Bright) -> _Bright:
        brighter = max(self, other, key=lambda one: one.share)
        return brighter._replace(images=self.images + other.images)


def _refuse_dark(bright: _Bright, paths: Sequence[Path]) -> None:
    """Raise InputError where images of many bits use less than a quarter of their range, all of them.

    They hold fewer bits then than their files say, 12 of a camera for example, and would come out black.
    """
    if 0 < bright.share < _DARK:
        raise InputError(
            f"none of the {bright.images} images of more than 8 bits is brighter than {bright.share:.1%} of "
            f"what its format can hold (the brightest is {shown(paths[bright.at])}): they hold fewer bits "
            "than their files say; convert them to 8 bits"
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
    """The whole array in ``entry``; None where there is none."""
    try:
        mode: Literal["r"] | None = "r" if math.prod(shape) >= _MAPPED else None
        pixels = np.load(entry, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(pixels, np.ndarray)  # a zip archive gives something else
    return pixels if whole and pixels.shape == shape and pixels.dtype == np.uint8 else None
