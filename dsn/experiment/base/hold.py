"""Who has a folder: a lock that one machine keeps, and beside it process, host and heartbeat for the others.

A lock of the system may hold on one machine alone, as on some file systems that machines share. So who has
it writes its process and host into a file and touches that every few seconds; on another host it is taken
for alive until the file has not been touched for ``STALE_SECONDS``, by the clock of the file system.
"""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

BEAT_SECONDS, STALE_SECONDS = 15.0, 120.0


def sign(owner: Path, more: str = "") -> threading.Event:
    """Write this process into the file ``owner`` and keep touching it until the event that is returned."""
    owner.write_text(f"{os.getpid()} {socket.gethostname()} {more}".rstrip() + "\n", encoding="utf-8")
    ended = threading.Event()
    threading.Thread(target=_beat, args=(owner, ended), daemon=True).start()
    return ended


def read_owner(path: Path) -> str:
    """What a process wrote of itself: its number, then its host."""
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


def is_owner(text: str) -> bool:
    """Whether ``text`` can be what :func:`sign` writes."""
    parts = text.split()
    return 1 <= len(parts) <= 3 and parts[0].isdigit()


def told_owner(path: Path) -> str:
    """The owner in words."""
    process, *rest = read_owner(path).split()
    return f"process {process}" + (f" on {rest[0]}" if is_elsewhere(path) else "")


def is_elsewhere(owner: Path) -> bool:
    """Whether a process of another host wrote ``owner``."""
    parts = read_owner(owner).split()
    return len(parts) > 1 and is_owner(" ".join(parts)) and parts[1] not in (socket.gethostname(), "made")


def beats(owner: Path, lock: Path) -> bool:
    """Whether a process of another host wrote ``owner`` and is alive; touches ``lock``, a file beside it."""
    if not is_elsewhere(owner):
        return False
    with suppress(OSError):
        os.utime(lock)
        return lock.stat().st_mtime - owner.stat().st_mtime < STALE_SECONDS
    return False


def _beat(owner: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(owner)
