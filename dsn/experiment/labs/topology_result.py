"""What the topology lab measured, and what follows from it. ``topology.json`` holds it.

Accuracies are in [0, 1] here; tables and pictures show percent and percentage points.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats

from ..result.interval import Interval
from ..result.result import Part

DENSE, REFERENCE = "dense", "random"


def head(reference: str) -> tuple[str, ...]:
    """The names of the columns."""
    first = ("density", "pruner", "accuracy, %", "95% interval", f"above {reference}", "95% interval")
    return (*first, "effective nodes", "effective weights", "log10 paths", "collapsed")


class PrunedRun(Part):
    """One pruned network, trained with one seed; measures are those of its mask, before training."""

    seed: int
    pruner: str
    density: float
    accuracy: float
    live_parameters: int
    effective_parameters: int
    effective_kernels: int
    effective_nodes: int
    log10_paths: float | None
    """None where no path is left"""
    collapsed: list[str]
    """layers that no path goes through"""
    seconds: float


class PrunerRow(Part):
    """One pruner at one density, over the seeds. ``log10_paths``: None where a network has no path left."""

    pruner: str
    density: float
    accuracy: Interval
    above_reference: Interval | None
    """paired by seed; None without the reference pruner, and for it"""
    effective_nodes: Interval
    effective_parameters: Interval
    log10_paths: Interval | None
    collapsed: int
    """networks with a collapsed layer"""


class Principle(Part):
    """Spearman's rank correlation with accuracy, over the pruners' means at one density; None: undefined."""

    density: float
    nodes: float | None
    paths: float | None
    """a network without any path has the fewest"""
    both: float | None
    """the mean of a pruner's ranks in nodes and in paths"""
    parameters: float | None
    """effective ones"""


class TopologyResult(Part):
    """A finished topology lab; ``nodes`` and ``parameters`` are those of the dense network."""

    format_version: Literal[1] = 1
    command: str
    config: dict[str, Any]
    task: int
    seeds: list[int]
    rescaled: bool
    reference: str
    """the pruner that ``above_reference`` is about"""
    nodes: int
    parameters: int
    rows: list[PrunerRow]
    principle: list[Principle]
    runs: list[PrunedRun]
    seconds: float
    environment: dict[str, Any]


def summarise(
    runs: Sequence[PrunedRun], reference: str = REFERENCE
) -> tuple[list[PrunerRow], list[Principle]]:
    """Statistics over seeds, the dense network first, then by falling density, best accuracy first."""
    groups: dict[tuple[float, str], list[PrunedRun]] = {}
    for run in runs:
        groups.setdefault((run.density, run.pruner), []).append(run)
    rows = [
        _row(density, pruner, found, groups.get((density, reference)))
        for (density, pruner), found in groups.items()
    ]
    rows.sort(key=lambda row: (-row.density, -row.accuracy.mean))
    levels = dict.fromkeys(row.density for row in rows if row.pruner != DENSE)
    return rows, [_principle(d, [r for r in rows if r.density == d and r.pruner != DENSE]) for d in levels]


def _row(density: float, pruner: str, runs: list[PrunedRun], others: list[PrunedRun] | None) -> PrunerRow:
    def over_seeds(value: Callable[[PrunedRun], float]) -> Interval:
        return Interval.of([value(run) for run in runs])

    above = None
    if others is not None and others is not runs:
        other = {run.seed: run.accuracy for run in others}
        above = over_seeds(lambda run: run.accuracy - other[run.seed])
    paths = [run.log10_paths for run in runs if run.log10_paths is not None]
    return PrunerRow(
        pruner=pruner,
        density=density,
        accuracy=over_seeds(lambda run: run.accuracy),
        above_reference=above,
        effective_nodes=over_seeds(lambda run: run.effective_nodes),
        effective_parameters=over_seeds(lambda run: run.effective_parameters),
        log10_paths=Interval.of(paths) if len(paths) == len(runs) else None,
        collapsed=sum(bool(run.collapsed) for run in runs),
    )


def _principle(density: float, rows: list[PrunerRow]) -> Principle:
    accuracy = [row.accuracy.mean for row in rows]
    nodes = [row.effective_nodes.mean for row in rows]
    paths = [-1.0 if row.log10_paths is None else row.log10_paths.mean for row in rows]

    def correlation(values: Sequence[float]) -> float | None:
        if len(rows) < 3 or np.ptp(values) == 0 or np.ptp(accuracy) == 0:
            return None
        return float(stats.spearmanr(values, accuracy).statistic)

    return Principle(
        density=density,
        nodes=correlation(nodes),
        paths=correlation(paths),
        both=correlation(stats.rankdata(nodes) + stats.rankdata(paths)),
        parameters=correlation([row.effective_parameters.mean for row in rows]),
    )


def table(result: TopologyResult) -> list[tuple[str, ...]]:
    """The rows as text; see :func:`head`."""
    lines = []
    for row in result.rows:
        above = ("", "") if row.above_reference is None else row.above_reference.shown()
        mean, limits = row.accuracy.shown()
        paths = "none" if row.log10_paths is None else f"{row.log10_paths.mean:.1f}"
        counts = [f"{interval.mean:.0f}" for interval in (row.effective_nodes, row.effective_parameters)]
        lost = f"{row.collapsed} of {len(result.seeds)}" if row.collapsed else ""
        plain = [text.replace("+", "") for text in (mean, limits)]
        lines.append((f"{row.density:.2%}", row.pruner, *plain, *above, *counts, paths, lost))
    return lines


def sentences(result: TopologyResult) -> list[str]:
    """What stands below the table: the sizes, and whether nodes or paths go with accuracy."""
    start = "the dense network's initial weights"
    start += ", scaled to each neuron's active fan-in" if result.rescaled else ""
    seeds, stream = ", ".join(map(str, result.seeds)), result.config["stream"]["name"]
    lines = [
        f"Task {result.task} of {stream}; the dense network has {result.nodes} nodes and {result.parameters} "
        f"weights; seeds {seeds}; every mask starts from {start}."
    ]
    for at in result.principle:
        parts = {"nodes": at.nodes, "paths": at.paths, "ranks in both": at.both}
        parts["effective weights"] = at.parameters
        known = [f"{name} {value:+.2f}" for name, value in parts.items() if value is not None]
        if known:
            lines.append(
                f"At {at.density:.2%}, rank correlation with accuracy over pruners: {', '.join(known)}."
            )
    return lines


def markdown(result: TopologyResult) -> str:
    """The table with its command, to paste into a document."""
    names = head(result.reference)
    lines = ["```console", f"$ {result.command}", "```", "", f"| {' | '.join(names)} |"]
    lines.append("|---:|---|" + "---:|" * (len(names) - 2))
    lines += [f"| {' | '.join(row)} |" for row in table(result)]
    return "\n".join([*lines, "", *sentences(result), ""])
