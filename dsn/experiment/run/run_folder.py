"""The two folders of a run: its own, complete or empty, and beside it its checkpoints."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsn.errors import InputError

from ..base.folder import check_name, make_folder, numbered, refuse_used, remove_dead
from ..base.hold import beats, is_owner, read_owner, sign, told_owner
from ..base.own_files import LOGS, others_in, remove_if_empty, remove_written
from .checkpoint import LATEST, NEXT, PREVIOUS, has_checkpoint

SUFFIX = ".checkpoint"
LOCK, OWNER = "lock", "owner"
NAMES = (LATEST, PREVIOUS, NEXT, LOCK, OWNER, LOGS)
"""what a run writes into its folder of checkpoints"""


def checkpoint_of(out: Path) -> Path:
    """The folder beside ``out`` that keeps an interrupted run."""
    return out.with_name(f"{out.name}{SUFFIX}")


@contextmanager
def held(
    out: Path | None, name: str, *, resume: bool, parent: Path = Path("results")
) -> Iterator[tuple[Path, Path]]:
    """Yield (out, checkpoint); the latter is there, for this process alone, and gone afterwards if empty.

    Without ``out``: with ``resume`` the last of ``parent/name``, ``parent/name-2``, ... that was interrupted;
    else, or where there is none, the first that is not there yet. Files of others in the checkpoint's folder
    stay, and so does the folder then.

    Raises:
        InputError: it cannot be made, another process has it, or, without ``resume``, it holds a run that was
            interrupted.
    """
    made: list[Path] = []
    check_name(out or parent / name)
    remove_dead((out or parent / name).parent)
    if out is None:
        out = _interrupted(parent / name) if resume else None
        out = _make_fresh(parent / name, made) if out is None else out
    folder = checkpoint_of(out)
    theirs = folder.is_dir() and folder not in made and not _is_own(folder)
    if not folder.is_dir():
        _make(folder, out, made)
    try:
        with _locked(folder, out):
            if has_checkpoint(folder) and not resume:
                raise InputError(
                    f"{out}: a run was interrupted there; go on with --resume, choose another --out, or "
                    f"remove {folder}"
                )
            yield out, folder
    finally:
        _remove_unless_kept(folder)
        if theirs:
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True)
        for parent_made in reversed(made):
            remove_if_empty(parent_made)


def wait_until_free(out: Path, seconds: float) -> None:
    """Wait, ``seconds`` at most, for another process that has the run in ``out``: soon it is done or dead."""
    folder, end = checkpoint_of(out), time.monotonic() + seconds
    while (folder / LOCK).is_file() and not _is_free(folder) and time.monotonic() < end:
        time.sleep(1.0)


def drop(checkpoint: Path) -> None:
    """Remove a checkpoint: its run is finished, or not wanted any more."""
    remove_written(checkpoint, NAMES)


def _interrupted(path: Path) -> Path | None:
    found, number = None, 1
    while (candidate := numbered(path, number)).exists() or checkpoint_of(candidate).exists():
        if has_checkpoint(checkpoint_of(candidate)):
            found = candidate
        number += 1
    return found


def _make_fresh(path: Path, made: list[Path]) -> Path:
    number = 1
    while True:
        candidate = numbered(path, number)
        folder = checkpoint_of(candidate)
        if _is_abandoned(folder):
            drop(folder)
        if not candidate.exists() and not folder.exists():
            with contextlib.suppress(FileExistsError):  # taken by a run beside this one
                make_folder(folder, made)
                return candidate
        number += 1


def _make(folder: Path, out: Path, made: list[Path]) -> None:
    if out.is_file():
        refuse_used(out)
    try:
        make_folder(folder, made)
    except FileExistsError as error:
        if not folder.is_dir():  # otherwise a run beside this one was faster
            raise InputError(
                f"{folder}: is a file, but checkpoints go there; choose another --out"
            ) from error


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        _refuse_foreign(folder)
        lock.acquire(timeout=0)
        if beats(folder / OWNER, folder / LOCK):
            lock.release()
            raise Timeout(lock.lock_file)
        ended = sign(folder / OWNER)
    except Timeout:
        raise InputError(
            f"{out}: {told_owner(folder / OWNER)} is running there; wait for it, stop it, or choose another "
            "--out"
        ) from None
    except OSError as error:
        lock.release()
        raise InputError(f"{folder}: cannot be written: {error.strerror}; choose another --out") from error
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)  # whoever comes next need not wait for its heartbeat
        lock.release()


def _refuse_foreign(folder: Path) -> None:
    """Raise InputError where a file of somebody else has the name of the lock or of its owner."""
    lock, owner = folder / LOCK, folder / OWNER
    own = {
        lock: not lock.exists() or (lock.is_file() and lock.stat().st_size == 0),
        owner: not owner.exists() or (owner.is_file() and is_owner(read_owner(owner))),
    }
    for path, known in own.items():
        if path.is_symlink() or not known:
            raise InputError(f"{path}: is in the way and not from this program; choose another --out")


def _is_own(folder: Path) -> bool:
    """Whether a run made the folder, as far as can be seen."""
    return has_checkpoint(folder) or (folder / LOCK).exists()


def _is_abandoned(folder: Path) -> bool:
    """Whether it holds nothing but the lock of a process that was killed."""
    if not (folder / LOCK).is_file() or has_checkpoint(folder) or others_in(folder, NAMES):
        return False
    return _is_free(folder)


def _is_free(folder: Path) -> bool:
    try:
        _refuse_foreign(folder)
        with FileLock(folder / LOCK, timeout=0):
            return not beats(folder / OWNER, folder / LOCK)
    except (Timeout, OSError, InputError):
        return False


def _remove_unless_kept(folder: Path) -> None:
    """Remove the folder but where it has a checkpoint, or another process has taken it meanwhile."""
    if not has_checkpoint(folder) and folder.is_dir() and _is_free(folder):
        drop(folder)
