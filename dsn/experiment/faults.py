"""What a run says of faults that are nobody's error in the config: out of memory, a disk that refuses."""

import re

import torch

from .config import Config

_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def explain(error: BaseException, config: Config) -> str | None:
    """What went wrong and what helps, in a sentence; None for what only a traceback explains."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; when that is mended, --resume goes on"
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and _MEMORY.search(str(error))
    ):
        size = config.train.batch_size
        smaller = f"--set train.batch_size={max(1, size // 2)}"
        return (
            f"out of memory ({said}): train.batch_size is {size}, replay.batch_size "
            f"{config.replay.batch_size}; try {smaller}, or a smaller backbone"
        )
    return None
