"""The folder a command writes: fresh, and complete or not there at all.

``.NAME.partial`` beside it is written first. While a process has it, it holds that process's lock and number,
by which it is known as this program's; who was killed leaves it, and the next command in the same place
removes it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dsn.errors import InputError
from dsn.storage import sync_folder

from .hold import beats, read_owner, sign, told_owner
from .interrupts import signals_held
from .own_files import WRITTEN, remove_if_empty, remove_written

LOCK, OWNER = ".dsn-lock", ".dsn-owner"
MADE = "made"
"""stands in OWNER where the folder that is to be replaced was made by the same process"""


@contextmanager
def output_folder(out: Path | None, name: str, parent: Path = Path("results")) -> Iterator[tuple[Path, Path]]:
    """Yield (partial, target): write into ``partial``; it becomes ``target`` when the block ends well.

    ``target`` is ``out``, or without one the first of ``parent/name``, ``parent/name-2``, ... not there
    yet; it is made at once, so that a run beside this one takes another name. Whatever is raised in the
    block, what was written into ``partial`` is removed, and so are folders made here, if they are empty.
    Where ``partial`` cannot take its place at the end it stays, complete, under another name.

    Raises InputError when ``out`` is a file or a folder that holds anything, cannot be made or replaced, or
    another process writes there; for an OSError in the block; and at the end as said.
    """
    made: list[Path] = []
    try:
        target = check_name(out) if out is not None else None
        remove_dead((target or parent / name).parent)
        target = _take_fresh(parent / name, made) if target is None else _take(target, made)
        real = Path(os.path.realpath(target))  # where a link leads to
        with partial_folder(real, made=target in made) as partial:
            refuse_used(target)  # since it was looked at, another process may have ended well
            _try_to_replace(real, partial, target)
            try:
                yield partial, target
            except OSError as error:
                raise InputError(f"{told(error, target)}; nothing was written") from error
            with signals_held():
                _finish(partial, real, target)
    except BaseException:
        for folder in reversed(made):
            remove_if_empty(folder)
        raise


@contextmanager
def partial_folder(target: Path, *, made: bool = False, names: tuple[str, ...] = WRITTEN) -> Iterator[Path]:
    """Yield an empty folder beside ``target``, for this process alone; what has ``names`` goes at the end.

    ``made``: whether ``target`` was made for this and may go too once this process is dead.

    Raises InputError: it cannot be made, another process has it, or it is not this program's.
    """
    partial = partial_of(target)
    lock = _locked(partial, target)
    try:
        remove_written(partial, names)  # of a process that was killed
        ended = sign(partial / OWNER, MADE if made else "")
    except OSError as error:
        _release(lock, partial)
        raise InputError(f"{told(error, target)}; choose another --out") from error
    try:
        yield partial
    finally:
        ended.set()
        if (partial / LOCK).exists():  # otherwise it is finished
            remove_written(partial, names)
        _release(lock, partial)


def publish(partial: Path, out: Path) -> None:
    """Give the file ``partial`` the name ``out``, in one step, on the disk. Raises OSError if it is taken."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    try:
        os.link(partial, out)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(out):
            raise
        partial.rename(out)
    sync_folder(out.parent)


def partial_of(target: Path) -> Path:
    """The folder in which ``target`` is made."""
    return target.with_name(f".{target.name}.partial")


def remove_dead(parent: Path) -> None:
    """Remove what processes that are dead left half made in ``parent``."""
    with suppress(OSError):
        for partial in list(parent.glob(".*.partial")):
            if (partial / LOCK).is_file() and not partial.is_symlink() and (lock := _take_lock(partial)):
                owner = read_owner(partial / OWNER)
                remove_written(partial)
                _release(lock, partial)
                if owner.endswith(MADE):
                    remove_if_empty(parent / partial.name[1 : -len(".partial")])


def check_name(out: Path) -> Path:
    """``out`` where it can be the name of something new.

    Raises InputError: it is empty, the root, the folder one is in or one above, a link to nothing, holds what
    no name can, or is too long.
    """
    shown = str(out)
    if "\0" in shown:
        raise InputError(f"--out {shown!r}: holds a NUL character, which no file name can; choose another")
    try:
        os.lstat(out.with_name(f".{out.name}.checkpoint-") if out.name else out)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise InputError(f"--out {shown[:200]}: {error.strerror}; choose another") from error
    except ValueError as error:
        raise InputError(f"--out {shown!r}: {error}; choose another") from error
    if out.name in ("", ".."):
        raise InputError(f"--out {shown}: must end in the name of a new or empty folder, e.g. results/mine")
    if os.path.islink(out) and not out.exists():
        raise InputError(
            f"{out}: is a link to {os.readlink(out)}, which is not there; remove it or choose another --out"
        )
    here, place = Path(os.path.realpath(".")), Path(os.path.realpath(out))
    if place == here or place in here.parents:
        raise InputError(f"{out}: is the folder you are in, or one above; choose a folder in it")
    return out


def refuse_used(out: Path) -> None:
    """Raise InputError where ``out`` is a file or a folder that holds anything."""
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"{out}: is a file; --out needs a folder that is new or empty")
        used = out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise InputError(f"{told(error, out)}; choose another --out") from error
    if used:
        raise InputError(f"{out}: is not empty and nothing is overwritten; choose another --out or remove it")


def numbered(path: Path, number: int) -> Path:
    """``path``, ``path-2``, ``path-3``, ..."""
    return path if number == 1 else path.with_name(f"{path.name}-{number}")


def make_folder(folder: Path, made: list[Path]) -> None:
    """Make ``folder`` and its missing parents, appended to ``made`` from the outermost inwards.

    Raises FileExistsError where ``folder`` is there, InputError where it cannot be made.
    """
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            made.append(parent)
    except OSError as error:
        raise InputError(f"{parent}: cannot be made: {error.strerror}; choose another --out") from error
    try:
        folder.mkdir()
        made.append(folder)
    except FileExistsError:
        raise
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from error


def _take(out: Path, made: list[Path]) -> Path:
    refuse_used(out)
    if not out.is_dir():
        try:
            make_folder(out, made)
        except FileExistsError:
            refuse_used(out)
    return out


def _take_fresh(path: Path, made: list[Path]) -> Path:
    check_name(path)
    number = 1
    while True:
        candidate = numbered(path, number)
        if not candidate.exists():
            with suppress(FileExistsError):  # taken by a run beside this one
                make_folder(candidate, made)
                return candidate
        number += 1


def _locked(partial: Path, target: Path) -> FileLock:
    """The lock of ``partial``, which is made. Raises InputError where it cannot be had."""
    try:
        for _ in range(10):  # another process may remove it between any two steps
            with suppress(FileExistsError):
                partial.mkdir()
            if partial.is_symlink() or (any(partial.iterdir()) and not (partial / LOCK).is_file()):
                raise InputError(
                    f"{partial}: is in the way and not from this program; move it, or choose another --out"
                )
            if (lock := _take_lock(partial)) is not None:
                return lock
            if (partial / LOCK).is_file():
                raise InputError(
                    f"{target}: {told_owner(partial / OWNER)} is writing there; wait for it, stop it, or "
                    "choose another --out"
                )
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}; choose another --out") from error
    raise InputError(f"{target}: other processes are writing there; choose another --out")


def _take_lock(partial: Path) -> FileLock | None:
    """The lock in ``partial``; None where another process, here or on another host, has it or removed it."""
    lock = FileLock(partial / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError, NotImplementedError):
        return None
    if (partial / LOCK).is_file() and not beats(partial / OWNER, partial / LOCK):
        return lock
    lock.release()  # of a file that its owner has removed meanwhile
    return None


def _release(lock: FileLock, partial: Path) -> None:
    """Let go of ``partial``, which goes if it is empty. The lock is removed while it is held."""
    with suppress(OSError):
        (partial / OWNER).unlink(missing_ok=True)
        (partial / LOCK).unlink(missing_ok=True)
    remove_if_empty(partial)
    lock.release()


def _try_to_replace(real: Path, partial: Path, target: Path) -> None:
    """Do with an empty folder what is to be done with ``partial`` at the end. Raises InputError."""
    probe = partial / "probe"
    try:
        probe.mkdir()
        shutil.copymode(real, probe)
        probe.rename(real)
    except OSError as error:
        remove_if_empty(probe)
        what = "is a mount point, which" if os.path.ismount(real) else "is a folder that"
        raise InputError(
            f"{target}: {what} cannot be replaced by a finished one ({error.strerror}); choose a folder in it"
        ) from error


def _finish(partial: Path, real: Path, target: Path) -> None:
    """Put ``partial`` in the place of ``real``. Raises InputError where it cannot be: then it stays."""
    try:
        _to_disk(partial)
        shutil.copymode(real, partial)
        _unmark(partial)
        partial.rename(real)  # replaces the empty folder in one step
        sync_folder(real.parent)
    except OSError as error:
        raise InputError(
            f"{target}: something else was written there meanwhile, or it cannot be replaced "
            f"({error.strerror}); what is finished stays, in {_aside(partial, real)}"
        ) from error


def _aside(partial: Path, real: Path) -> Path:
    """Give what is finished a name that is not hidden; where it is then."""
    with suppress(OSError):
        _unmark(partial)
        number = 2
        while os.path.lexists(numbered(real, number)):
            number += 1
        return partial.rename(numbered(real, number))
    return partial


def _unmark(partial: Path) -> None:
    (partial / OWNER).unlink(missing_ok=True)
    (partial / LOCK).unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    """Make every file in ``folder`` reach the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def told(error: OSError, target: Path) -> str:
    """What the system says of its refusal, behind the file it is about, or ``target`` where it names none."""
    where = error.filename if isinstance(error.filename, str) else target
    return f"{where}: {error.strerror or error}"
