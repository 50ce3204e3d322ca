"""What a run says of faults that are nobody's error in the config: out of memory, a disk that refuses."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dsn.errors import InputError

from .experiment import Config

_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Raise InputError for what :func:`explain` explains inside the block; it cannot be resumed."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (told := explain(error, config, "nothing was written")) is not None:
            raise InputError(told) from error
        raise


def explain(
    error: BaseException, config: Config, then: str = "when that is mended, --resume goes on"
) -> str | None:
    """What went wrong and what helps, in a sentence; None for what only a traceback explains."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; {then}"
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and _MEMORY.search(str(error))
    ):
        size = config.train.batch_size
        smaller = f"--set train.batch_size={max(1, size // 2)}"
        return (
            f"out of memory ({said}): train.batch_size is {size}, replay.batch_size "
            f"{config.replay.batch_size}; try {smaller}, a smaller backbone or smaller images"
        )
    return None
