"""The two folders of a run: its own, complete or empty, and beside it its checkpoints."""

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsn.errors import InputError

from .checkpoint import has_checkpoint
from .folder import make_folder, remove_if_empty

SUFFIX = ".checkpoint"
LOCK, OWNER = "lock", "owner"


def checkpoint_of(out: Path) -> Path:
    """The folder beside ``out`` that keeps an interrupted run."""
    return out.with_name(f"{out.name}{SUFFIX}")


@contextmanager
def held(
    out: Path | None, name: str, *, resume: bool, parent: Path = Path("results")
) -> Iterator[tuple[Path, Path]]:
    """Yield (out, checkpoint); the latter is there, for this process alone, and gone afterwards if empty.

    Without ``out``: with ``resume`` the last of ``parent/name``, ``parent/name-2``, ... that was interrupted;
    else, or where there is none, the first that is not there yet.

    Raises:
        InputError: it cannot be made, another process has it, or, without ``resume``, it holds a run that was
            interrupted.
    """
    made: list[Path] = []
    if out is None:
        out = _interrupted(parent / name) if resume else None
        out = _make_fresh(parent / name, made) if out is None else out
    folder = checkpoint_of(out)
    if not folder.is_dir():
        _make(folder, out, made)
    try:
        with _locked(folder, out):
            if has_checkpoint(folder) and not resume:
                raise InputError(
                    f"{out}: a run was interrupted there; go on with --resume, choose another --out, or "
                    f"remove {folder}"
                )
            for stale in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
                shutil.rmtree(stale, ignore_errors=True)  # of a run that was killed
            yield out, folder
    finally:
        _remove_unless_kept(folder)
        for parent_made in reversed(made):
            remove_if_empty(parent_made)


def drop(checkpoint: Path) -> None:
    """Remove a checkpoint folder: its run is finished, or not wanted any more."""
    shutil.rmtree(checkpoint, ignore_errors=True)


def _interrupted(path: Path) -> Path | None:
    found, number = None, 1
    while (candidate := _numbered(path, number)).exists() or checkpoint_of(candidate).exists():
        if has_checkpoint(checkpoint_of(candidate)):
            found = candidate
        number += 1
    return found


def _make_fresh(path: Path, made: list[Path]) -> Path:
    number = 1
    while True:
        candidate = _numbered(path, number)
        if not candidate.exists() and not checkpoint_of(candidate).exists():
            with contextlib.suppress(FileExistsError):  # taken by a run beside this one
                _make(checkpoint_of(candidate), candidate, made)
                return candidate
        number += 1


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.name}-{number}")


def _make(folder: Path, out: Path, made: list[Path]) -> None:
    if out.is_file():
        raise InputError(f"{out}: is a file; --out needs a folder that is new or empty")
    make_folder(folder, made)


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
        (folder / OWNER).write_text(f"{os.getpid()}\n", encoding="utf-8")
    except Timeout:
        owner = _read(folder / OWNER)
        raise InputError(
            f"{out}: process {owner} is running there; wait for it, stop it, or choose another --out"
        ) from None
    except OSError as error:
        lock.release()
        raise InputError(f"{folder}: cannot be written: {error.strerror}; choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


def _remove_unless_kept(folder: Path) -> None:
    """Remove the folder but where it has a checkpoint, or another process has taken it meanwhile."""
    if has_checkpoint(folder) or not folder.is_dir():
        return
    try:
        with FileLock(folder / LOCK, timeout=0):
            pass
    except (Timeout, OSError):
        return
    drop(folder)
