"""SIGINT, SIGTERM, SIGHUP and SIGUSR2: held back until the state of a run can be kept, where that is soon."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from dsn.errors import Stopped

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2") if hasattr(signal, name)
)
"""Ctrl-C; what ends a process; a terminal that is closed; a time limit, as SLURM announces it"""
HELD = b"\nstopping after this iteration; once more to stop at once\n"
AGAIN_SECONDS = 0.2


class Interrupts:
    """A context in which these signals raise :class:`Stopped`; while ``deferred``, ``requested`` is set.

    A second signal is never held back. Outside the main thread, where Python hands out no signals, and for a
    signal that the process ignores, nothing changes. ``quiet``: nothing is said of a signal held back.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.deferred = False
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        self._before = _handle_by(self._handle)
        return self

    def __exit__(self, *_exception: object) -> None:
        _put_back(self._before)

    def stop_if_requested(self) -> None:
        """Raise what was held back."""
        if self.requested is not None:
            raise Stopped(self.requested)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        held = self.deferred and self.requested is None
        self.requested = number  # should what is raised be thrown away somewhere, the next rest sees it
        if not held:
            raise Stopped(number)
        if not self.quiet:
            os.write(2, HELD)  # print() may be in the middle of something


class signals_held:
    """Hold these signals back inside the block: the first of them arrives at its end.

    By handlers of its own, since a mask would leave them to other threads; the mask is for children that are
    started in the block: they never see SIGINT. Outside the main thread, which alone gets signals, nothing.
    """

    def __enter__(self) -> None:
        self.came: list[int] = []
        self.before = _handle_by(lambda number, _frame: self.came.append(number))
        if self.before and hasattr(signal, "pthread_sigmask"):
            self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def __exit__(self, *_exception: object) -> None:
        masked = self.before and hasattr(signal, "pthread_sigmask")
        _put_back(self.before)
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        if self.came:
            signal.raise_signal(self.came[0])


class Ending:
    """A context in which these signals end the process: KeyboardInterrupt, or SystemExit with 128 + number.

    Python throws away what is raised inside a finaliser or a callback of C code, and so does an ``except``
    that is too wide: so it is raised again until the context is left, but never amid the cleaning up.
    ``came``: the signal, None if none did.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._before: dict[int, Any] = {}
        self._alarm: Any = None

    def __enter__(self) -> "Ending":
        self._before = _handle_by(self._handle)
        if self._before and hasattr(signal, "SIGALRM"):
            self._alarm = signal.signal(signal.SIGALRM, self._again)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._alarm)
        _put_back(self._before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.came = number
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        self._raise()

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                return
            error = error.__context__
        self._raise()

    def _raise(self) -> None:
        if self.came == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.came or 0))


def _handle_by(handler: Any) -> dict[int, Any]:
    """Let ``handler`` have the signals that are not ignored; what had them before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    known = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in known}


def _put_back(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
    before.clear()
