"""Standard streams that may be closed, full or gone."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from .status import FAILED


class _Output:
    """Standard output or error. Where its reader is gone or its disk full, what is said is lost, not the run.

    ``lost``: the first such error.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def with_standard_streams(main: Callable[[], int]) -> int:
    """Do ``main`` as a program of its own: whatever its three standard streams are, it does its work."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file that is opened must not take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    output, errors = sys.stdout, sys.stderr = _Output(sys.stdout), _Output(sys.stderr)
    try:
        status: Any = main()
    except SystemExit as end:
        status = end.code
    output.flush()
    if output.lost is not None and output.lost.errno != errno.EPIPE:
        print(f"error: standard output: {output.lost.strerror}", file=sys.stderr)
        status = status or FAILED
    errors.flush()
    return int(status or 0)
