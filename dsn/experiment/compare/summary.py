"""From finished runs to a comparison: measures of each, means over seeds, differences, ranks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dsn.evaluation import statistics
from dsn.evaluation.metrics import all_metrics

from ..result.interval import Interval
from ..result.result import Result
from .comparison import (
    MEASURES,
    Comparison,
    Difference,
    Rank,
    RunEntry,
    Statistics,
    StreamComparison,
    Summary,
)

INDEPENDENT = "independent"


def measures(result: Result, independent: Result | None) -> dict[str, float | None]:
    """The measures of a run; ``independent``: the run of independent networks with the same seed."""
    values = dict(result.metrics)
    if independent is not None and result.config["strategy"] != INDEPENDENT:
        against = all_metrics(result.matrix, independent.matrix[-1].tolist())
        values |= {name: against[name] for name in ("fwt_independent", "trans")}
    memory = result.memory
    values |= {
        "task_bytes": None if memory is None else float(np.mean(memory.bytes_per_task)),
        "shared_bytes": None if memory is None else memory.shared_bytes,
        "stored_samples": None if memory is None else memory.stored_samples,
        "capacity": None if memory is None else memory.capacity,
        "parameters": None if memory is None else memory.parameters,
        "seconds": result.timings.total,
    }
    return {name: values[name] for name in MEASURES}


def summarise_runs(runs: Sequence[RunEntry], strategies: Sequence[str]) -> list[Summary]:
    """Mean and interval over the finished runs of each strategy, best accuracy first."""
    summaries = []
    for strategy in strategies:
        done = [run.measures for run in runs if run.strategy == strategy and run.status == "done"]
        if done:
            over_seeds = {name: [known.get(name) for known in done] for name in MEASURES}
            summaries.append(
                Summary(
                    strategy=strategy,
                    runs=len(done),
                    measures={name: _interval(values) for name, values in over_seeds.items()},
                )
            )
    return sorted(summaries, key=lambda summary: -_mean_acc(summary))


def differences_to(reference: str, runs: Sequence[RunEntry], strategies: Sequence[str]) -> list[Difference]:
    """Accuracy of each other strategy minus the reference's, over the seeds that both have finished."""
    by_strategy = {name: _accuracies(runs, name) for name in strategies}
    base = by_strategy.pop(reference)
    found = []
    for strategy, accuracies in by_strategy.items():
        seeds = [seed for seed in accuracies if seed in base]
        if seeds:
            found.append(
                Difference(
                    strategy=strategy,
                    seeds=seeds,
                    **statistics.paired_difference(
                        [accuracies[seed] for seed in seeds], [base[seed] for seed in seeds]
                    )._asdict(),
                    p_holm=None,
                )
            )
    return found


def corrected(streams: Sequence[StreamComparison]) -> list[StreamComparison]:
    """The streams with ``p_holm`` filled in, over all p-values there are."""
    known = [d.p for stream in streams for d in stream.differences if d.p is not None]
    after = iter(statistics.holm(known).tolist())
    return [
        stream.model_copy(
            update={
                "differences": [
                    d if d.p is None else d.model_copy(update={"p_holm": next(after)})
                    for d in stream.differences
                ]
            }
        )
        for stream in streams
    ]


def ranks(streams: Sequence[StreamComparison], strategies: Sequence[str]) -> list[Rank]:
    """Mean rank of each strategy over the streams that have all of them, best first."""
    tables = [{summary.strategy: _mean_acc(summary) for summary in stream.summaries} for stream in streams]
    scores = [[table[name] for name in strategies] for table in tables if len(table) == len(strategies)]
    if not scores:
        return []
    means = statistics.average_ranks(scores).tolist()
    found = [Rank(strategy=s, rank=r, streams=len(scores)) for s, r in zip(strategies, means, strict=True)]
    return sorted(found, key=lambda rank: rank.rank)


def over_all(streams: Sequence[StreamComparison], strategies: Sequence[str]) -> Statistics:
    """What is said of all streams together."""
    count = sum(d.p is not None for stream in streams for d in stream.differences)
    return Statistics(level=statistics.LEVEL, comparisons=count, ranks=ranks(streams, strategies))


def failures(comparison: Comparison, out: Path) -> list[str]:
    """A line for each failed run: which, why, and where its log is."""
    return [
        f"{stream.name}: {run.strategy} seed {run.seed} failed: {run.error} (log: {out / run.log})"
        for stream, run in comparison.failed
    ]


def _accuracies(runs: Sequence[RunEntry], strategy: str) -> dict[int, float]:
    return {
        run.seed: value
        for run in runs
        if run.strategy == strategy and (value := run.measures.get("acc")) is not None
    }


def _interval(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return Interval.of(known) if len(known) == len(values) else None


def _mean_acc(summary: Summary) -> float:
    interval = summary.measures["acc"]
    assert interval is not None  # every run has its accuracy
    return interval.mean
