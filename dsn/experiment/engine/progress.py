"""What is shown while jobs are done: bars in a terminal, else a line a finished job."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..base.console import say
from .job import Job

NOTE_WIDTH = 60
TAIL_BYTES = 400


class JobProgress:
    """One bar for all jobs, and below it a line for each that is going on, with the last line of its log."""

    def __init__(self, console: Console, what: str, total: int, done: int = 0) -> None:
        self.console, self.what = console, what
        self.total, self.done = total, done
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task(what, total=total, completed=done, note="")
        self._going: dict[Path, object] = {}

    def __enter__(self) -> "JobProgress":
        self._bars.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bars.stop()

    def tick(self, jobs: list[Job]) -> None:
        """``jobs`` are going on."""
        if self._bars.disable:
            return
        for log in set(self._going) - {job.log for job in jobs}:
            self._bars.remove_task(self._going.pop(log))  # type: ignore[arg-type]
        for job in jobs:
            if job.log not in self._going:
                self._going[job.log] = self._bars.add_task(f"  {job.name}", total=None, note="")
            self._bars.update(self._going[job.log], note=_last_line(job.log))  # type: ignore[arg-type]

    def end(self, line: str) -> None:
        """A job has ended; ``line`` says how."""
        self.done += 1
        self._bars.update(self._all, completed=self.done)
        say(self._bars.console, f"{line}  ({self.done}/{self.total})")


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:NOTE_WIDTH] if said else ""
