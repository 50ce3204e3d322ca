"""The folder a run writes: fresh, and complete or not there at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsn.errors import InputError
from dsn.storage import sync_folder


@contextmanager
def output_folder(out: Path | None, name: str, parent: Path = Path("results")) -> Iterator[tuple[Path, Path]]:
    """Yield (partial, target): write into ``partial``; it becomes ``target`` when the block ends well.

    ``target`` is ``out``, or without one the first of ``parent/name``, ``parent/name-2``, ... not there
    yet; it is made at once, so that a run beside this one takes another name. Whatever is raised in the
    block, both are removed, and so are parent folders made here.

    Raises InputError when ``out`` is a file or a folder that holds anything, or cannot be made.
    """
    made: list[Path] = []
    partial: Path | None = None
    try:
        target = _take(out, made) if out is not None else _take_fresh(parent / name, made)
        partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
        try:
            partial.mkdir()
        except OSError as error:
            raise InputError(
                f"{target}: cannot be written: {error.strerror}; choose another --out"
            ) from error
        yield partial, target
        try:
            _to_disk(partial)
            partial.rename(target)  # replaces the empty folder in one step
        except OSError as error:
            raise InputError(
                f"{target}: something else was written there meanwhile: {error.strerror}"
            ) from error
        sync_folder(target.parent)
    except BaseException:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for folder in reversed(made):
            remove_if_empty(folder)
        raise


def _to_disk(folder: Path) -> None:
    """Make every file in ``folder`` reach the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _take(out: Path, made: list[Path]) -> Path:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out needs a folder that is new or empty")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty and nothing is overwritten; choose another --out or remove it")
    if not out.is_dir():
        make_folder(out, made)
    return out


def _take_fresh(path: Path, made: list[Path]) -> Path:
    number = 1
    while True:
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if not candidate.exists():
            try:
                make_folder(candidate, made)
                return candidate
            except FileExistsError:
                pass  # taken by a run beside this one
        number += 1


def make_folder(folder: Path, made: list[Path]) -> None:
    """Make ``folder`` and its missing parents, appended to ``made`` from the outermost inwards."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            made.append(parent)
        folder.mkdir()
        made.append(folder)
    except FileExistsError:
        raise
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from error


def remove_if_empty(folder: Path) -> None:
    """Remove ``folder`` if it is there and holds nothing."""
    with suppress(OSError):  # another run writes there by now
        folder.rmdir()
