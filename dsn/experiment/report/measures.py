"""The numbers that a report compares, and which of them are the best.

Units: accuracies and differences of them in percent and percentage points, memory in bytes, time in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isclose
from typing import Literal

import numpy as np

from dsn.evaluation.statistics import Estimate, holm, mean_interval, paired_difference

from ..result.result import Result
from .source import StreamRuns

LEVEL = 0.05
Unit = Literal["percent", "points", "bytes", "seconds", "count"]


@dataclass(frozen=True)
class Measure:
    """One column of the comparison; ``best``: whether its best values are marked, and which they are."""

    key: str
    name: str
    unit: Unit
    of: Callable[[Result], float | None]
    best: Literal["highest", "lowest"]


def _metric(name: str) -> Callable[[Result], float | None]:
    def read(result: Result) -> float | None:
        value = getattr(result.metrics, name)
        return None if value is None else 100 * float(value)

    return read


def stored_bytes(result: Result) -> float | None:
    """What a strategy keeps beside the backbone's weights; None where the run did not measure it."""
    return None if result.memory is None else float(result.memory.stored_bytes)


def capacity(result: Result) -> float | None:
    """Percent of one dense network's bits that all tasks together keep; None where it was not measured.

    WSN (Kang et al. 2022), section 4: the used weights, and the masks. Samples kept for later count too.
    """
    share = None if result.memory is None else result.memory.capacity
    return None if share is None else 100 * share


def parameters(result: Result) -> float | None:
    """All that is kept, as so many numbers of 32 bits; None where it was not measured."""
    return None if result.memory is None else result.memory.parameters


def seconds(result: Result) -> float:
    """Wall-clock time of learning and evaluating, runs made for comparison left out."""
    return result.timings.total - result.timings.references


ACC = Measure("acc", "ACC", "percent", _metric("acc"), "highest")
STORED = Measure("stored_bytes", "stored", "bytes", stored_bytes, "lowest")
SECONDS = Measure("seconds", "time", "seconds", seconds, "lowest")
MEASURES = (
    ACC,
    Measure("bwt", "BWT", "points", _metric("bwt"), "highest"),
    Measure("forgetting", "forgetting", "points", _metric("forgetting"), "lowest"),
    Measure("learning_accuracy", "learning ACC", "percent", _metric("learning_accuracy"), "highest"),
    Measure("fwt_random", "FWT random", "points", _metric("fwt_random"), "highest"),
    Measure("fwt_independent", "FWT indep.", "points", _metric("fwt_independent"), "highest"),
    Measure("trans", "Trans", "points", _metric("trans"), "highest"),
    Measure("cil_acc", "ACC without task id", "percent", _metric("cil_acc"), "highest"),
    Measure("task_inference", "task found", "percent", _metric("task_inference"), "highest"),
    STORED,
    Measure("capacity", "capacity", "percent", capacity, "lowest"),
    Measure("parameters", "parameters", "count", parameters, "lowest"),
    SECONDS,
)


def values(results: list[Result], measure: Measure) -> list[float] | None:
    """One value a run; None where a run has none, or there is no run."""
    found = [value for value in map(measure.of, results) if value is not None]
    return found if found and len(found) == len(results) else None


def estimate(stream: StreamRuns, strategy: str, measure: Measure) -> Estimate | None:
    """Mean and 95% interval over seeds."""
    found = values(stream.results(strategy), measure)
    return None if found is None else mean_interval(found)


def shown_measures(stream: StreamRuns) -> list[Measure]:
    """The measures that at least one strategy has."""
    return [m for m in MEASURES if any(values(stream.results(s), m) for s in stream.finished)]


def winners(stream: StreamRuns, measure: Measure) -> set[str]:
    """The strategy with the best mean, and those not significantly worse than it.

    Paired t-test by seed over the seeds that both have, Holm-corrected over the strategies tested against
    the best. What cannot be tested (one common seed, or the same difference at every seed) is a tie only
    where the difference is 0. Nothing is best where a single strategy is left, or all are equal.
    """
    by_seed = {
        strategy: {result.seed: measure.of(result) for result in stream.results(strategy)}
        for strategy in stream.finished
        if values(stream.results(strategy), measure)
    }
    if len(by_seed) < 2:
        return set()
    sign = 1 if measure.best == "highest" else -1
    means = {name: sign * float(np.mean(list(seeds.values()))) for name, seeds in by_seed.items()}
    if len(set(means.values())) == 1:
        return set()
    best = max(means, key=means.__getitem__)
    tied: set[str] = {name for name, mean in means.items() if isclose(mean, means[best])}
    tested: dict[str, float] = {}
    for name, seeds in by_seed.items():
        common = sorted(set(seeds) & set(by_seed[best]))
        if name in tied or not common:
            continue
        pairs = np.array([(seeds[s], by_seed[best][s]) for s in common], dtype=float)
        difference = paired_difference(pairs[:, 0], pairs[:, 1])
        if difference.p is not None:
            tested[name] = difference.p
    corrected = holm(list(tested.values())).tolist() if tested else []
    return tied | {name for name, p in zip(tested, corrected, strict=True) if p >= LEVEL}
