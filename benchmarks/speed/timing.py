"""Timing two or more things against each other on a machine that is busy with others."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence


def keep_freed_memory() -> None:
    """Tell glibc's allocator to give nothing back to the system; elsewhere this does nothing.

    Otherwise large tensors are page faults again in each step, and which of two networks in one process meets
    them is chance: the same network twice differed by up to 4%.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_threshold, 2**30)


def in_turn(calls: Sequence[Callable[[], object]], rounds: int, warm_up: int = 2) -> list[float]:
    """Median CPU seconds of each call; they take turns, so that a slow moment of the machine meets them all.

    CPU time of the process, not wall clock: what others do counts little. Garbage is collected between
    rounds only. The order is turned round in every second round, since a call may leave warm caches behind.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    order = list(enumerate(calls))
    for i in range(warm_up + rounds):
        gc.collect()
        gc.disable()
        try:
            for which, call in order if i % 2 else reversed(order):
                began = time.process_time()
                call()
                if i >= warm_up:
                    seconds[which].append(time.process_time() - began)
        finally:
            gc.enable()
    return [statistics.median(times) for times in seconds]
