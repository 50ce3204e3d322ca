"""SIGINT and SIGTERM while a run is going on: held back until its state can be kept, where that is soon."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from dsn.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HELD = b"\nstopping after this iteration; once more to stop at once\n"


class Interrupts:
    """A context in which both signals raise :class:`Stopped`; while ``deferred``, ``requested`` is set.

    A second signal is never held back. Outside the main thread, where Python hands out no signals, and for a
    signal that the process ignores, nothing changes.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def stop_if_requested(self) -> None:
        """Raise what was held back."""
        if self.requested is not None:
            raise Stopped(self.requested)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self.deferred or self.requested is not None:
            raise Stopped(number)
        self.requested = number
        os.write(2, HELD)  # print() may be in the middle of something
