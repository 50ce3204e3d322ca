"""Workers of a comparison without processes, so that a test need not import Avalanche again and again."""

import contextlib
from collections import deque

from dsn.experiment.compare.worker import attempt


class Inline:
    """Does each job here, one after the other.

    done: names of all jobs so far; stop_after: as if interrupted once there are so many
    """

    done: list[str] = []
    stop_after: int | None = None

    def __init__(self, jobs):
        self.jobs = jobs

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        pass

    def do(self, jobs, ended, tick):
        queue = deque(jobs)
        while queue:
            if len(Inline.done) == Inline.stop_after:
                raise KeyboardInterrupt
            job = queue.popleft()
            tick([job])
            with job.log.open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                outcome = attempt(job, self.jobs)
            Inline.done.append(job.name)
            queue.extend(ended(job, outcome))
