"""Pictures of a run: the accuracy matrix, and the neurons that each task uses. Needs no display."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .result import Result, TaskUse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every kind of colour vision
REUSED, FRESH, IDLE, FREE = "#0072B2", "#E69F00", "#B8B8B8", "#EAEAEA"
GREY = "#555555"
DOTS_PER_INCH = 150
WIDEST = 12.5  # inches
NUMBERED = 25
"""tasks of a matrix whose cells hold their numbers; of more, the colour alone says it"""


def draw_accuracy_matrix(result: Result, path: Path) -> None:
    """A PNG of the accuracy matrix in percent: row i after task i, column k the test accuracy of task k."""
    percent = 100 * result.matrix
    tasks = len(percent)
    cell = 0.52 if tasks <= 12 else 0.4
    side = max(4.2, min(cell * tasks + 1.4, WIDEST))
    figure, axes = _figure(side + 0.6, side)
    shown = percent[~np.isnan(percent)]
    low = min(np.floor(shown.min() / 10) * 10, 90)
    image = axes.imshow(percent, cmap="cividis", vmin=low, vmax=100, aspect="equal")
    middle = (low + 100) / 2
    digits = 1 if tasks <= 12 else 0
    if tasks <= NUMBERED:
        axes.set_xticks(range(tasks))
        axes.set_yticks(range(tasks))
        for (i, k), value in np.ndenumerate(percent):
            if not np.isnan(value):
                colour = "white" if value < middle else "black"
                axes.text(k, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel("test accuracy of task, percent")
    axes.set_ylabel("after learning task")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(_headline(result), loc="left", fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03).outline.set_visible(False)
    figure.savefig(path)


def draw_neurons(result: Result, path: Path) -> None:
    """A PNG, one panel a layer: the neurons each task reuses, takes fresh, passes over and leaves free."""
    layers = list(result.tasks[-1].neurons)
    width = max(2.6, min(0.14 * len(result.tasks) + 1.2, WIDEST))
    columns = min(len(layers), max(1, int(WIDEST / width)))
    rows = -(-len(layers) // columns)
    figure, grid = grid_of_axes(rows, columns, width=max(5.5, width * columns), height=2.1 * rows + 1.1)
    for layer, axes in zip(layers, grid, strict=False):
        _draw_layer(axes, layer, result.tasks)
    for axes in grid[len(layers) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("neurons")
    for axes in grid[max(0, len(layers) - columns) : len(layers)]:
        axes.set_xlabel("task")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path)


def _draw_layer(axes: "Axes", layer: str, tasks: list[TaskUse]) -> None:
    counts = [task.neurons[layer] for task in tasks]
    x = np.arange(len(counts))
    parts = {
        "reused": (REUSED, [n.reused for n in counts]),
        "fresh": (FRESH, [n.fresh for n in counts]),
        "of earlier tasks, not selected": (IDLE, [n.total - n.active - n.free for n in counts]),
        "free": (FREE, [n.free for n in counts]),
    }
    base = np.zeros(len(counts))
    for name, (colour, heights) in parts.items():
        axes.bar(x, heights, bottom=base, width=0.86, color=colour, label=name, linewidth=0)
        base += heights
    axes.set_title(f"layer {layer}: {counts[-1].total}", loc="left", fontsize=9)
    step = 1 if len(counts) <= 10 else 5 * -(-len(counts) // 100)
    axes.set_xticks([task for task in x if task == 1 or task % step == 0])
    axes.set_xlim(0.4, len(counts) + 0.6)
    axes.set_ylim(0, counts[-1].total)
    axes.locator_params(axis="y", nbins=4, integer=True)
    axes.tick_params(length=2, labelsize=8, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)


def _headline(result: Result) -> str:
    parts = [f"ACC {100 * result.metrics.acc:.2f}"]
    if result.metrics.forgetting is not None:
        parts.append(f"forgetting {100 * result.metrics.forgetting:.2f}")
    return ",  ".join(parts)


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    figure, grid = grid_of_axes(1, 1, width, height)
    return figure, grid[0]


def grid_of_axes(rows: int, columns: int, width: float, height: float) -> tuple["Figure", list[Any]]:
    """A figure of its own: pyplot and its global state stay out of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)
