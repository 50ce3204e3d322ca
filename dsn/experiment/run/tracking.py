"""What a run tells its tracker (``dsn.evaluation.trackers``)."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from dsn.evaluation.trackers import Tracker

from ..base.console import say
from ..base.own_files import MODEL, RUN
from ..result.result import Result

Page = Callable[[Path, Path], Path]
"""(folder of a result, folder to write into) -> the report's page"""


@contextmanager
def open_until_done(tracker: Tracker | None) -> Iterator[None]:
    """Close it at the end; the run counts as finished unless something is raised."""
    try:
        yield
    except BaseException:
        if tracker is not None:
            tracker.close(finished=False)
        raise
    if tracker is not None:
        tracker.close(finished=True)


def tell(tracker: Tracker, result: Result, folder: Path, page: Page | None, console: Console) -> None:
    """Give it the metrics (``result/acc``, ...), the files of ``folder`` but for the network, and the page.

    The result is written already: where the tracker fails, that is said, and nothing is raised.
    """
    numbers = {f"result/{name}": value for name, value in result.metrics if value is not None}
    files = [folder / name for name in RUN if name != MODEL and (folder / name).is_file()]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            pages = [] if page is None else [page(folder, Path(temporary))]
            tracker.keep(numbers, [*files, *pages])
        except Exception as error:
            say(console, f"warning: tracker: the results were not taken ({type(error).__name__}: {error})")
