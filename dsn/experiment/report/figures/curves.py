"""Figures with a line a strategy: accuracy over tasks, backward transfer and forgetting a task."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsn.evaluation.statistics import Estimate, mean_interval

from ...result.labels import label_ends, legend_below
from ...result.result import Result
from ..measures import ACC, estimate
from ..numbers import counted, listed, shown, shown_estimate, signed
from ..source import StreamRuns
from .figure import NARROW, Figure, canvas
from .palette import FRESH, IDLE, INK, MUTED, RULE, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Curve = NDArray[np.float64]
MOST_VALUES = 12  # bars that have their value beside them


def mean_so_far(result: Result) -> Curve:
    """Mean accuracy in percent over the tasks learnt so far, after each task: [T]."""
    r = 100 * result.matrix
    return np.array([row[: i + 1].mean() for i, row in enumerate(r)])


def backward(result: Result) -> Curve:
    """Accuracy at the end minus right after learning, in points, for every task but the last: [T-1]."""
    r = 100 * result.matrix
    return np.asarray((r[-1] - np.diag(r))[:-1])


def forgotten(result: Result) -> Curve:
    """Best accuracy of a task minus that at the end, in points, for every task but the last: [T-1]."""
    r = 100 * result.matrix
    best = np.where(np.tri(len(r)) == 1, r, 0.0).max(axis=0)
    return np.asarray((best - r[-1])[:-1])


def accuracy_over_tasks(stream: StreamRuns, looks: dict[str, Series], key: str) -> Figure:
    """Mean accuracy over the tasks so far, after each task, with 95% bands over seeds."""
    curves = {name: [mean_so_far(result) for result in stream.results(name)] for name in stream.finished}
    alone = stream.results(stream.finished[0]) if len(curves) == 1 else None

    def draw(width: float) -> "Canvas":
        figure, [axes] = canvas(width, 0.36 * width + 0.75)
        if alone and len(alone) == 1:
            _each_task(axes, 100 * alone[0].matrix)
        ends = []
        for name, runs in curves.items():
            points = [mean_interval(column) for column in np.array(runs).T]
            _line(axes, points, looks[name])
            ends.append((name, points[-1].mean, looks[name].colour))
        _task_axis(axes, stream.tasks, "after learning task")
        axes.set_title("mean accuracy, percent")
        axes.grid(axis="y")
        _frame(axes, curves, alone)
        for name, runs in curves.items():
            _band(axes, [mean_interval(column) for column in np.array(runs).T], looks[name])
        label_ends(axes, stream.tasks - 1, ends, width)
        return figure

    ends = [f"{name} {shown_estimate(estimate(stream, name, ACC), 'percent')}" for name in curves]
    seeds = max(len(runs) for runs in curves.values())
    alt = (
        f"Mean accuracy over the tasks learnt so far, {counted(stream.tasks, 'task')}. "
        f"At the end, in percent: {listed(ends)}."
    )
    caption = "Mean test accuracy over the tasks learnt so far. "
    if seeds > 1:
        caption += (
            f"Line: mean over up to {seeds} seeds; band: 95% t-interval, cut at the frame, and left out "
            "where it would cover all of it."
        )
    elif alone:
        caption += "Grey: each task on its own, from the moment it is learnt; flat means nothing forgotten."
        if np.any(backward(alone[0])):
            caption += " In colour, what a later task changed of an earlier one."
    return Figure(key, "Accuracy over tasks", alt, caption.strip(), draw)


def backward_a_task(stream: StreamRuns, looks: dict[str, Series], key: str) -> Figure | None:
    """Backward transfer and forgetting of every task but the last; None where all is exactly 0."""
    kinds = {
        "backward transfer, points": {s: [backward(r) for r in stream.results(s)] for s in stream.finished},
        "forgetting, points": {s: [forgotten(r) for r in stream.results(s)] for s in stream.finished},
    }
    kinds = {
        t: kept for t, kept in kinds.items() if any(np.any(run) for runs in kept.values() for run in runs)
    }
    if not kinds:
        return None

    def draw(width: float) -> "Canvas":
        rows, columns = (1, len(kinds)) if width > NARROW else (len(kinds), 1)
        figure, panels = canvas(width, 2.9 if rows == 1 else 4.9, rows, columns)
        for axes, (title, curves) in zip(panels, kinds.items(), strict=True):
            axes.axhline(0, color=MUTED, linewidth=0.6)
            for name, runs in curves.items():
                _of_tasks(axes, np.mean(runs, axis=0), looks[name], name, alone=len(curves) == 1)
            axes.set_title(title)
            axes.grid(axis="y")
            _task_axis(axes, stream.tasks - 1, "task")
            if len(curves) == 1:
                axes.set_xlim(-0.6, stream.tasks - 1.4)
                if stream.tasks <= MOST_VALUES:
                    axes.set_xticks(range(stream.tasks - 1))
        if len(stream.finished) > 1:
            legend_below(figure, panels[0], width, handlelength=3)
        return figure

    parts = []
    for name in stream.finished:
        lost = np.mean([forgotten(r) for r in stream.results(name)], axis=0)
        gain = np.mean([backward(r) for r in stream.results(name)], axis=0)
        parts.append(
            f"{name}: backward transfer {signed(gain.mean())} on average, "
            f"most forgotten of task {int(lost.argmax())} ({shown(float(lost.max()), 'points')})"
        )
    alt = "Backward transfer and forgetting of each task, in points. " + "; ".join(parts) + "."
    caption = (
        "For each task but the last. Backward transfer: accuracy at the end minus right after learning; "
        "forgetting: the best accuracy it ever had minus that at the end. Means over seeds."
    )
    if len(kinds) == 1:
        other = "Forgetting" if "backward transfer, points" in kinds else "Backward transfer"
        caption += f" {other} is exactly 0 for every task."
    return Figure(key, "Backward transfer and forgetting", alt, caption, draw)


def _each_task(axes: "Axes", r: Curve) -> None:
    """The columns of one run's matrix [T, T], in percent; in colour where a later task changed one."""
    for task, column in enumerate(r.T):
        axes.plot(range(task, len(column)), column[task:], color=IDLE, linewidth=0.9)
        axes.plot(task, column[task], ".", color=IDLE)
        for row in np.flatnonzero(np.diff(column[task:])) + task:
            axes.plot([row, row + 1], column[row : row + 2], color=FRESH, linewidth=1.6, zorder=4)
            axes.annotate(
                f"task {task}: {signed(column[row + 1] - column[row])}",
                xy=(row + 0.5, (column[row] + column[row + 1]) / 2),
                xytext=(8, -8),
                textcoords="offset points",
                va="top",
                color=FRESH,
                fontsize=8.5,
            )


def _of_tasks(axes: "Axes", means: Curve, look: Series, name: str, *, alone: bool) -> None:
    """A line a strategy; bars with their values where there is one."""
    if not alone:
        axes.plot(means, color=look.colour, linestyle=look.dashes, marker=look.marker, label=name, zorder=3)
        return
    bars = axes.bar(range(len(means)), means, width=0.4, color=look.colour, label=name, linewidth=0, zorder=3)
    if len(means) <= MOST_VALUES:
        axes.bar_label(bars, [signed(mean) for mean in means], padding=2, color=INK, fontsize=8.5)
        axes.margins(y=0.15)


def _line(axes: "Axes", points: list[Estimate], look: Series) -> None:
    means = [point.mean for point in points]
    axes.plot(means, color=look.colour, linestyle=look.dashes, marker=look.marker, zorder=3)


def _band(axes: "Axes", points: list[Estimate], look: Series) -> None:
    """The interval at every task, but not where it covers the frame from bottom to top and says nothing."""
    if any(point.low is None for point in points):
        return
    low, high = np.array([point[1:] for point in points], dtype=float).T
    bottom, top = axes.get_ylim()
    there = (low > bottom) | (high < top)
    axes.fill_between(
        range(len(points)), low, high, where=list(there), color=look.colour, alpha=0.1, linewidth=0
    )
    axes.set_ylim(bottom, top)


def _frame(axes: "Axes", curves: dict[str, list[Curve]], alone: list[Result] | None) -> None:
    """From the lowest to the highest line, bands left out: with two seeds these hide everything."""
    if alone and len(alone) == 1:
        r = 100 * alone[0].matrix
        low, high = float(r[np.tri(len(r)) == 1].min()), float(r[np.tri(len(r)) == 1].max())
    else:
        means = [np.mean(runs, axis=0) for runs in curves.values()]
        low, high = float(np.min(means)), float(np.max(means))
    pad = max(0.12 * (high - low), 0.5)
    axes.set_ylim(max(low - pad, -1), min(high + pad, 100.6))
    no_ticks_above_100(axes)


def no_ticks_above_100(axes: "Axes") -> None:
    """An accuracy axis may reach a little above 100 for its markers, its numbers do not."""
    bottom, top = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 100])
    axes.set_ylim(bottom, top)


def _task_axis(axes: "Axes", tasks: int, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(min(max(tasks, 2), 10), integer=True))
    axes.set_xlim(-0.3, max(tasks - 1, 0) + 0.3)
    axes.set_xlabel(label)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
