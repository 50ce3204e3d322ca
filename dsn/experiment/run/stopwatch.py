"""Wall-clock seconds of a run over all its sessions, by a clock that never jumps."""

import time


class Stopwatch:
    """Call it for the seconds so far; ``before``: those of earlier sessions."""

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._started = before, time.perf_counter()

    def __call__(self) -> float:
        return self._before + time.perf_counter() - self._started
