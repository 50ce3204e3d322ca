"""One pass at a time: which task a masked model computes is state of its modules while a pass lasts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class PassLock:
    """A lock that its owner may take again; a deep copy and an unpickled one are free locks of their own.

    >>> with lock:
    ...     choose a task, compute
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> PassLock:
        self._lock.acquire()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._lock.release()

    def __copy__(self) -> PassLock:
        return self  # a shallow copy shares the modules, and so their state

    def __reduce__(self) -> tuple[type[PassLock], tuple[()]]:
        return PassLock, ()


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """No other thread computes with ``model``; a module that has no lock is taken as it is."""
    lock = getattr(model, "lock", None)
    if not isinstance(lock, PassLock):
        yield
        return
    with lock:
        yield


def flushes_denormals() -> bool:
    """Whether this thread takes numbers that are too small to be normal for 0."""
    return sys.float_info.min / 2 == 0


def flush_denormals(wanted: bool) -> None:
    """Whether this thread does so from now on."""
    if flushes_denormals() != wanted:
        torch.set_flush_denormal(wanted)
