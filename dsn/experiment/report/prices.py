"""Accuracy against what it costs: stored bytes and time; a point a strategy, or a path for one run."""

from typing import TYPE_CHECKING

import numpy as np

from dsn.evaluation.statistics import Estimate

from ..result.labels import legend_below
from ..result.result import Result
from .figures.curves import mean_so_far, no_ticks_above_100
from .figures.figure import NARROW, Figure, canvas
from .figures.palette import MUTED, RULE, SERIES, Series
from .measures import ACC, SECONDS, STORED, Measure, estimate
from .numbers import shown, shown_estimate
from .source import StreamRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NAMES = {"stored_bytes": "stored bytes", "seconds": "time"}


def price(stream: StreamRuns, looks: dict[str, Series], key: str) -> Figure | None:
    """Accuracy at the end against stored bytes and against time: a point a strategy.

    None where only one strategy has finished.
    """
    axes_of = [m for m in (STORED, SECONDS) if any(estimate(stream, s, m) for s in stream.finished)]
    points = {
        m.key: {s: (e, a) for s in stream.finished
                if (e := estimate(stream, s, m)) and (a := estimate(stream, s, ACC))}
        for m in axes_of
    }  # fmt: skip
    if len(stream.finished) < 2:
        return None

    def draw(width: float) -> "Canvas":
        side_by_side = width > NARROW and len(axes_of) > 1
        rows, columns = (1, len(axes_of)) if side_by_side else (len(axes_of), 1)
        figure, panels = canvas(width, 3.2 if rows == 1 else 2.9 * rows, rows, columns)
        for axes, measure in zip(panels, axes_of, strict=True):
            _scatter(axes, measure, points[measure.key], looks)
        legend_below(figure, panels[-1], width, handletextpad=0.2)
        return figure

    parts = []
    for name in stream.finished:
        costs = [shown_estimate(estimate(stream, name, m), m.unit) for m in axes_of]
        parts.append(
            f"{name} {shown_estimate(estimate(stream, name, ACC), 'percent')}% at {' and '.join(costs)}"
        )
    against = " and against ".join(NAMES[m.key] for m in axes_of)
    alt = f"Accuracy against {against}. " + "; ".join(parts) + "."
    caption = (
        f"Mean accuracy at the end against {against}; up and to the left is better. Stored: what a strategy "
        "keeps beside the backbone's weights (masks, heads, norm states, importances, samples). Time: of "
        "learning and evaluating, wall clock. Bars: 95% t-intervals over seeds, cut at the frame."
    )
    return Figure(key, "Accuracy and its price", alt, caption, draw)


def _scatter(
    axes: "Axes", measure: Measure, points: dict[str, tuple[Estimate, Estimate]], looks: dict[str, Series]
) -> None:
    for name, (x, y) in points.items():
        look = looks[name]
        axes.plot(x.mean, y.mean, look.marker, color=look.colour, markersize=7, label=name, linestyle="none")
    xs, ys = ([point[i].mean for point in points.values()] for i in (0, 1))
    log = min(xs) > 0 and max(xs) / min(xs) > 20
    if log:
        axes.set_xscale("log")
    elif min(xs) == 0 and max(xs) > 0:
        axes.set_xscale("symlog", linthresh=min(x for x in xs if x > 0) / 2)
    axes.margins(0.15)
    _frame(axes, ys)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for name, (price_, y) in points.items():
        if y.low is not None and y.high is not None:
            axes.vlines(price_.mean, y.low, y.high, color=looks[name].colour, linewidth=1, zorder=1)
    axes.set_ylim(bottom, top)
    axes.set_xlim(left, right)
    _cost_axis(axes, measure)


def price_of_run(result: Result, key: str) -> Figure | None:
    """Mean accuracy so far against bytes stored and time spent so far, a point a task; None for one task."""
    accuracy, steps = mean_so_far(result), {}
    memory, times = result.memory, result.timings.tasks
    if memory is not None and len(memory.bytes_per_task) == len(accuracy):
        steps["stored_bytes"] = (
            np.cumsum(memory.bytes_per_task) + memory.shared_bytes + memory.stored_sample_bytes
        )
    if len(times) == len(accuracy):
        steps["seconds"] = np.cumsum([time.train + time.evaluate for time in times])
    if len(accuracy) < 2 or not steps:
        return None

    def draw(width: float) -> "Canvas":
        side_by_side = width > NARROW and len(steps) > 1
        rows, columns = (1, len(steps)) if side_by_side else (len(steps), 1)
        figure, panels = canvas(width, 2.7 if rows == 1 else 2.5 * rows, rows, columns)
        for axes, (name, x) in zip(panels, steps.items(), strict=True):
            axes.plot(x, accuracy, color=SERIES[0].colour, marker="o")
            few = {0, len(accuracy) - 1}
            for task in few:
                axes.annotate(
                    f"task {task}", (x[task], accuracy[task]), (0, 7), textcoords="offset points",
                    ha="center", fontsize=8, color=MUTED,
                )  # fmt: skip
            axes.margins(0.12, 0.3)
            _frame(axes, [float(v) for v in accuracy])
            _cost_axis(axes, STORED if name == "stored_bytes" else SECONDS)
        return figure

    spent = " and ".join(
        shown(float(x[-1]), "bytes" if n == "stored_bytes" else "seconds") for n, x in steps.items()
    )
    against = " and against ".join(NAMES[name] for name in steps)
    alt = (
        f"Mean accuracy over the tasks so far against {against}: {shown(float(accuracy[0]), 'percent')}% "
        f"after the first task, {shown(float(accuracy[-1]), 'percent')}% after all {len(accuracy)}, "
        f"at {spent}."
    )
    caption = f"Mean accuracy over the tasks so far, after each task, against {against} so far." + (
        " Stored: what is kept beside the backbone's weights." if memory else ""
    )
    return Figure(key, "Accuracy and its price", alt, caption, draw)


def _frame(axes: "Axes", heights: list[float]) -> None:
    """From the lowest to the highest mean; intervals may leave the frame."""
    low, high = min(heights), max(heights)
    pad = max(0.18 * (high - low), 0.5)
    axes.set_ylim(max(low - pad, -2), min(high + pad, 101.5))
    no_ticks_above_100(axes)


def _cost_axis(axes: "Axes", measure: Measure) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: shown(v, measure.unit)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title("mean accuracy, percent")
    axes.set_xlabel(NAMES[measure.key])
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
