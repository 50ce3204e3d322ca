"""One job in the process that does it, whatever engine started that."""

import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from dsn.errors import InputError

from .job import Job, Outcome


def attempt(job: Job, threads: int | None = None) -> Outcome:
    """Do ``job`` in this process; whatever goes wrong is in the outcome.

    Args:
        threads: torch's at most, None for its own choice; a config may say otherwise.

    Raises:
        Stopped: a signal came.
    """
    started = time.perf_counter()
    error = value = None
    try:
        from ..base.quiet import importing_avalanche
        from ..config.experiment import Config

        config = Config.model_validate_json(job.config)
        with importing_avalanche():
            call = called(job.call)
        _set_threads(threads)
        value = call(job, config)
    except InputError as wrong:
        print("\n".join(f"error: {line}" for line in str(wrong).splitlines()), file=sys.stderr)
        error = str(wrong).splitlines()[-1]
    except Exception:
        traceback.print_exc()
        error = traceback.format_exc().strip().splitlines()[-1]
    return Outcome(time.perf_counter() - started, error, value)


def called(call: str) -> Callable[..., Any]:
    """The function that ``module:name`` names."""
    module, _, name = call.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def printing_into(log: Path) -> Iterator[None]:
    """Send all that this process prints, also from C and when it crashes, to the end of the file ``log``."""
    _flush()
    before = [os.dup(number) for number in (1, 2)]
    try:
        with log.open("a", encoding="utf-8") as file:
            if file.tell():
                file.write(f"\n---- again, {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z} ----\n")
                file.flush()
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", line_buffering=True)
        yield
    finally:
        _flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(max(1, min(_default_threads(), threads)))


@cache
def _default_threads() -> int:
    """Torch's own choice, asked for before any run has set another."""
    import torch

    return torch.get_num_threads()


def no_value(_job: Job, _config: Any) -> None:
    """A call that does nothing: what an engine itself costs."""
