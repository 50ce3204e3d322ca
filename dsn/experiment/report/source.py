"""What a report is about: the runs of one folder, by stream and strategy."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dsn.errors import InputError

from ..compare.comparison import FILE as COMPARISON
from ..compare.comparison import Comparison, RunEntry, StreamComparison, load_comparison
from ..result.result import Result, read_result

RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """One strategy with one seed; ``result`` is None where there is none, and ``problem`` says why."""

    strategy: str
    seed: int
    folder: Path
    result: Result | None
    problem: str | None = None


@dataclass(frozen=True)
class StreamRuns:
    """The runs on one stream; ``strategies`` in the order of tables and figures, all that were asked for."""

    name: str
    strategies: list[str]
    runs: list[Run]
    compared: StreamComparison | None = None

    def results(self, strategy: str) -> list[Result]:
        """The finished runs of a strategy, in the order of their seeds."""
        runs = sorted((run for run in self.runs if run.strategy == strategy), key=lambda run: run.seed)
        return [run.result for run in runs if run.result is not None]

    @property
    def finished(self) -> list[str]:
        """Strategies with a finished run."""
        return [name for name in self.strategies if self.results(name)]

    @property
    def missing(self) -> list[Run]:
        """Runs without a result."""
        return [run for run in self.runs if run.result is None]

    @property
    def tasks(self) -> int:
        """Tasks of the stream; 0 if nothing is known of it."""
        if self.compared is not None:
            return self.compared.tasks
        return max((len(run.result.accuracy_matrix) for run in self.runs if run.result), default=0)

    @property
    def alone(self) -> Run | None:
        """The one run of a report that is about one."""
        return self.runs[0] if self.compared is None else None


@dataclass(frozen=True)
class Source:
    """The folder that a report is about."""

    folder: Path
    title: str
    streams: list[StreamRuns]
    comparison: Comparison | None = None


def load_source(folder: Path) -> Source:
    """The run or the comparison in ``folder``.

    Raises InputError: no such folder, neither result.json nor comparison.json in it, or one that cannot be
    read or is of another format version.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that run.py run or run.py compare wrote")
    if (folder / COMPARISON).is_file():
        comparison = load_comparison(folder)
        streams = [_stream(folder, stream, comparison) for stream in comparison.streams]
        return Source(folder, folder.resolve().name, streams, comparison)
    if not (folder / RESULT).is_file():
        raise InputError(
            f"{folder}: holds neither {RESULT} nor {COMPARISON}; give a folder that run.py run or "
            "run.py compare wrote"
        )
    result = read_result(folder / RESULT)
    strategy = str(result.config.get("strategy", "dsn"))
    run = Run(strategy, result.seed, folder, result)
    name = str((result.config.get("stream") or {}).get("name", "stream"))
    return Source(folder, folder.resolve().name, [StreamRuns(name, [strategy], [run])])


def _stream(folder: Path, stream: StreamComparison, comparison: Comparison) -> StreamRuns:
    runs = [_run(folder, entry) for entry in stream.runs]
    best_first = [summary.strategy for summary in stream.summaries]
    asked = list(Counter([*best_first, *comparison.strategies, *(run.strategy for run in runs)]))
    return StreamRuns(stream.name, asked, runs, stream)


def _run(folder: Path, entry: RunEntry) -> Run:
    place = folder / entry.folder

    def without(problem: str) -> Run:
        return Run(entry.strategy, entry.seed, place, None, problem)

    if entry.status == "failed":
        return without(entry.error or "failed")
    if entry.status == "missing":
        return without("not run yet")
    if not (place / RESULT).is_file():
        return without(f"{entry.folder}/{RESULT} is gone")
    result = read_result(place / RESULT)
    # a comparison knows more: metrics against the independent networks of other runs
    known = {name: entry.measures.get(name) for name, value in result.metrics if value is None}
    metrics = result.metrics.model_copy(update=known)
    return Run(entry.strategy, entry.seed, place, result.model_copy(update={"metrics": metrics}))
