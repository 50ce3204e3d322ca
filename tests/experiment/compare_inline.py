"""An engine without processes, so that a test need not import Avalanche again and again."""

import contextlib
from concurrent.futures import Future

from dsn.experiment.engine.attempt import attempt


class Inline:
    """Does each job here, one after the other.

    done: names of all jobs so far; stop_after: as if interrupted once there are so many
    """

    done: list[str] = []
    stop_after: int | None = None
    at_once = 1

    def __init__(self, *_arguments):
        pass

    def submit(self, jobs):
        return [self._do(job) for job in jobs]

    def wait(self, _seconds):
        return []

    def close(self, _error):
        pass

    def _do(self, job):
        if len(Inline.done) == Inline.stop_after:
            raise KeyboardInterrupt
        future = Future()
        with job.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            future.set_result(attempt(job))
        Inline.done.append(job.name)
        return future


def seed_told(job, config, _console=None):
    """A part of a lab that measures nothing."""
    if config.seed in job.arguments["failing"]:
        raise ValueError("seven")
    return {"seed": config.seed}
