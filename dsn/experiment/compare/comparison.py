"""What a comparison found: ``comparison.json``, written and read. docs/result.md describes every field.

Accuracies and differences are in [-1, 1] here; tables show percentage points.
"""

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from ..result.interval import Interval
from ..result.result import Part, read_part, write_whole

COMPARISON_VERSION: Final = 1
FILE = "comparison.json"
MEASURES = (
    "acc",
    "bwt",
    "forgetting",
    "learning_accuracy",
    "fwt_random",
    "fwt_independent",
    "trans",
    "cil_acc",
    "task_inference",
    "task_bytes",
    "shared_bytes",
    "stored_samples",
    "capacity",
    "parameters",
    "seconds",
)
"""What is known of each run: the metrics, then what its strategy keeps, then its time in seconds."""


class RunEntry(Part):
    """One strategy with one seed on one stream."""

    strategy: str
    seed: int
    key: str
    """sha256 of what the run depends on: resolved config, seed, code"""
    folder: str
    """of the run, in the form ``<stream>/runs/<strategy>-seed<N>``, from the comparison's folder"""
    status: Literal["done", "failed", "missing"]
    """missing: not run yet, the comparison goes on or was stopped"""
    error: str | None = None
    """of a failed run: the last line"""
    log: str
    """what the run printed, from the comparison's folder"""
    measures: dict[str, float | None] = Field(default_factory=dict)
    """by name in ``MEASURES``; None where it is not known; empty unless done"""


class Difference(Part):
    """Accuracy at the end, strategy minus reference, paired by seed; ``p_holm``: over all comparisons."""

    strategy: str
    seeds: list[int]
    """those that both have"""
    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None


class Summary(Part):
    """One strategy on one stream, over its finished seeds; ``measures`` has None where a seed has none."""

    strategy: str
    runs: int
    measures: dict[str, Interval | None]


class Trial(Part):
    """One try of hyper-parameters: mean validation accuracy over the first tasks; None: it failed."""

    values: dict[str, Any]
    accuracy: float | None
    seconds: float
    error: str | None = None


class Tuning(Part):
    """How one strategy's hyper-parameters were chosen on one stream; ``chosen``: by config key."""

    strategy: str
    seed: int
    """the first of ``seeds``"""
    seeds: list[int] = Field(default_factory=list)
    """that each trial was made with"""
    tasks: int
    trials: list[Trial]
    chosen: dict[str, Any] | None
    """None where every trial failed, or they are not all made yet"""


class StreamComparison(Part):
    """All runs on one stream."""

    name: str
    """the config file's name without suffix, and the folder in the comparison's"""
    config: str
    """path of the config file as given, the home folder as ``~``"""
    stream: str
    """``stream.name`` of the config"""
    tasks: int
    runs: list[RunEntry]
    summaries: list[Summary]
    """a strategy each, best accuracy first; those without a finished run are left out"""
    differences: list[Difference]
    tuning: list[Tuning] = Field(default_factory=list)


class Rank(Part):
    """Mean rank by accuracy over the streams on which every strategy has a finished run; 1 is best."""

    strategy: str
    rank: float
    streams: int


class Statistics(Part):
    """How the numbers were made, and those over all streams."""

    measure: Literal["acc"] = "acc"
    level: float
    correction: Literal["holm"] = "holm"
    comparisons: int
    """p-values that were corrected together: all of the comparison"""
    ranks: list[Rank]


class Comparison(Part):
    """A comparison, finished or not."""

    format_version: Literal[1] = COMPARISON_VERSION
    command: str
    strategies: list[str]
    seeds: list[int]
    reference: str
    overrides: list[str]
    """``--set`` as given"""
    code: str
    """sha256 of the project's source files that the runs were made with"""
    streams: list[StreamComparison]
    statistics: Statistics

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return all(run.status == "done" for stream in self.streams for run in stream.runs)

    @property
    def failed(self) -> list[tuple[StreamComparison, RunEntry]]:
        """The failed runs with their streams."""
        return [(stream, run) for stream in self.streams for run in stream.runs if run.status == "failed"]


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json`` into ``folder``; it appears whole or not at all."""
    text = json.dumps(comparison.model_dump(mode="json"), indent=2, allow_nan=False)
    write_whole(folder / FILE, text + "\n")


def load_comparison(folder: Path) -> Comparison:
    """The comparison that ``run.py compare`` wrote into ``folder``.

    Raises InputError for a missing file, text that is not JSON, another format version or a wrong field.
    """
    return read_part(
        folder / FILE,
        Comparison,
        COMPARISON_VERSION,
        "give the folder that run.py compare wrote",
        absent=(FileNotFoundError, NotADirectoryError),
    )
