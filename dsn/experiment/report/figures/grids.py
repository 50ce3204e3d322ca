"""Figures made of small panels: accuracy matrices, mask overlap, neurons a layer and task."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...result.labels import LETTER, shortened
from ...result.result import Result, TaskUse
from ..numbers import counted, listed, shown
from ..source import StreamRuns
from .figure import NARROW, Figure, canvas
from .palette import FREE, FRESH, IDLE, REUSED, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Grid = NDArray[np.float64]
SMALLEST, ROOMY = 0.27, 0.38  # inches: a cell of this width has room for a number, for a longer one
TALLEST = 5.4  # inches
MOST_LAYERS = 5
MOST_CELLS = 40
"""tasks of a grid whose cells are shapes of their own; of more it is one image, or a page has megabytes"""


def mean_matrices(stream: StreamRuns, key: str) -> Figure:
    """The accuracy matrix of each strategy, mean over its seeds."""
    grids, seeds = {}, set()
    for name in stream.finished:
        results = stream.results(name)
        grids[name if len(stream.finished) > 1 else ""] = np.mean([100 * r.matrix for r in results], axis=0)
        seeds.add(len(results))
    parts = [
        f"{(name + ': ') if name else ''}from {shown(float(np.diag(grid).mean()), 'percent')} right after "
        f"learning to {shown(float(grid[-1].mean()), 'percent')} at the end"
        for name, grid in grids.items()
    ]
    over = f", mean over {counted(max(seeds), 'seed')}" if max(seeds) > 1 else ""
    return Figure(
        key,
        "Accuracy matrix" if len(grids) == 1 else "Accuracy matrices",
        f"Accuracy of each task after each task, in percent{over}. Mean over tasks, "
        + "; ".join(parts)
        + ".",
        f"Row: after learning that task. Column: test accuracy of a task, percent{over}. "
        "A column that keeps its colour is a task that is not forgotten, one that becomes lighter a task "
        "that learnt from a later one.",
        lambda width: _heat_maps(grids, width, ("accuracy of task", "after task"), percent=True),
    )


def seed_matrices(stream: StreamRuns, key: str) -> Figure | None:
    """The same a strategy and seed; None where no strategy has two."""
    if all(len(stream.results(name)) < 2 for name in stream.finished):
        return None
    grids = {
        f"{name}, seed {result.seed}": 100 * result.matrix
        for name in stream.finished
        for result in stream.results(name)
    }
    ends = [f"{name} {shown(float(grid[-1].mean()), 'percent')}" for name, grid in grids.items()]
    return Figure(
        key,
        "Accuracy matrices, seed by seed",
        f"Accuracy matrices of {counted(len(grids), 'run')}. Mean at the end, in percent: {listed(ends)}.",
        "As above, one panel a run.",
        lambda width: _heat_maps(grids, width, ("accuracy of task", "after task"), percent=True),
    )


def unlabelled_matrices(stream: StreamRuns, key: str) -> Figure | None:
    """Of each strategy that was evaluated without task labels: the matrix by the combined score."""
    grids: dict[str, Grid] = {}
    for name in stream.finished:
        found = [_unlabelled(r) for r in stream.results(name) if r.class_incremental]
        if found:
            grids[name if len(stream.finished) > 1 else ""] = np.mean(found, axis=0)
    if not grids:
        return None
    ends = "; ".join(
        f"{(name + ': ') if name else ''}{shown(float(grid[-1].mean()), 'percent')}"
        for name, grid in grids.items()
    )
    return Figure(
        key,
        "Class-incremental accuracy",
        f"Accuracy where nobody says which task an input is of, in percent. Mean at the end, {ends}.",
        "Row: after learning that task, among the classes of all tasks so far. Column: share of a task's "
        "test data whose task and class are both right, percent, by the combined score.",
        lambda width: _heat_maps(grids, width, ("accuracy of task", "after task"), percent=True),
    )


def _unlabelled(result: Result) -> Grid:
    rows, tasks = result.class_incremental or [], len(result.accuracy_matrix)
    grid = np.full((tasks, tasks), np.nan)
    for row in rows:
        values = row.accuracy["combined"]
        grid[len(values) - 1, : len(values)] = values
    return 100 * grid


def overlap(result: Result, key: str, where: str = "") -> Figure:
    """How alike the masks of two tasks are: over all layers, and in each layer where they are few."""
    grids = {"all layers": np.array([task.similarity for task in result.tasks])}
    layers = list(result.tasks[-1].jaccard)
    if len(layers) <= MOST_LAYERS:
        grids |= {f"layer {layer}": np.array([t.jaccard[layer] for t in result.tasks]) for layer in layers}
    alike = grids["all layers"].copy()
    np.fill_diagonal(alike, -1.0)
    a, b = sorted(int(i) for i in np.unravel_index(alike.argmax(), alike.shape))
    off = alike[np.triu_indices(len(alike), 1)]
    caption = "All layers: cosine of the two masks a layer, geometric mean over the layers. "
    if len(grids) > 1:
        caption += "Each layer: neurons that both tasks use over neurons that either uses. "
    return Figure(
        key,
        "Mask overlap between tasks",
        f"Similarity of the masks of {counted(len(result.tasks), 'task')}{where}: {off.mean():.2f} on "
        f"average; most alike are tasks {a} and {b} with {alike.max():.2f}.",
        caption + "0: nothing shared, 1: the same neurons." + where_sentence(where),
        lambda width: _heat_maps(grids, width, ("task", "task"), percent=False),
    )


def neurons(result: Result, key: str, where: str = "") -> Figure:
    """Neurons reused, fresh, of earlier tasks only, and free, for each layer and task."""
    layers = list(result.tasks[-1].neurons)

    def draw(width: float) -> "Canvas":
        columns = _columns(len(layers), width)
        rows = -(-len(layers) // columns)
        figure, panels = canvas(width, 1.75 * rows + 0.6, rows, columns)
        for axes, layer in zip(panels, layers, strict=False):
            _layer(axes, layer, result.tasks)
        for axes in panels[len(layers) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(layers) - columns) : len(layers)]:
            axes.set_xlabel("task")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=4 if width > NARROW else 2,
            handlelength=0.9, handleheight=0.9, columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip
        return figure

    last = result.tasks[-1].neurons
    used, total = sum(n.total - n.free for n in last.values()), sum(n.total for n in last.values())
    reused, active = (
        sum(getattr(n, name) for t in result.tasks[1:] for n in t.neurons.values())
        for name in ("reused", "active")
    )
    share = (
        f"; from the second task on {reused / active:.0%} of the selected neurons are reused"
        if active
        else ""
    )
    return Figure(
        key,
        "Neurons a layer and task",
        f"After {counted(len(result.tasks), 'task')}{where} {used} of {total} neurons are used, "
        f"{total - used} are free{share}.",
        "For each task: neurons it reuses, takes fresh and passes over, and those that stay free for later "
        "tasks; the height is the size of the layer." + where_sentence(where),
        draw,
    )


def where_sentence(where: str) -> str:
    """`` Shown: dsn, seed 0.``"""
    return f" Shown:{where.replace(' of', '', 1)}." if where else ""


def task_ticks(axes: "Axes", tasks: int) -> None:
    """Task numbers under bars of which each stands for a task."""
    axes.set_xticks(range(0, tasks, _step(tasks)))
    axes.set_xlim(-0.6, tasks - 0.4)


def _layer(axes: "Axes", layer: str, tasks: list[TaskUse]) -> None:
    counts = [task.neurons[layer] for task in tasks]
    parts = {
        "reused": (REUSED, [n.reused for n in counts]),
        "fresh": (FRESH, [n.fresh for n in counts]),
        "passed over": (IDLE, [n.total - n.active - n.free for n in counts]),
        "free": (FREE, [n.free for n in counts]),
    }
    base = np.zeros(len(counts))
    for name, (colour, heights) in parts.items():
        axes.bar(range(len(counts)), heights, bottom=base, width=0.84, color=colour, label=name, linewidth=0)
        base += heights
    axes.set_title(f"layer {shortened(layer)}")
    task_ticks(axes, len(counts))
    axes.set_ylim(0, max(n.total for n in counts))
    axes.set_yticks([0, counts[-1].total])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(RULE)


def _heat_maps(grids: dict[str, Grid], width: float, names: tuple[str, str], *, percent: bool) -> "Canvas":
    """Panels that share one scale; ``names``: of columns and rows."""
    tasks = max(len(grid) for grid in grids.values())
    columns = _columns(len(grids), width)
    rows = -(-len(grids) // columns)
    side = (width - 0.95) / columns - 0.12
    if len(grids) == 1:
        side = min(side, max(0.56 * tasks, 1.6), TALLEST)
        width = side + 1.1
    figure, panels = canvas(width, (side + 0.3) * rows + 0.3, rows, columns)
    known = np.concatenate([grid[~np.isnan(grid)] for grid in grids.values()])
    high = 100.0 if percent else 1.0
    low = min(float(np.floor(known.min() / 10) * 10), 90.0) if percent else 0.0
    for place, (axes, (name, grid)) in enumerate(zip(panels, grids.items(), strict=False)):
        mesh = axes.pcolormesh(
            grid, cmap="cividis", vmin=low, vmax=high, linewidth=0.3, edgecolors="face",
            rasterized=len(grid) > MOST_CELLS,
        )  # fmt: skip
        axes.invert_yaxis()
        axes.set_aspect("equal")
        if side / tasks >= SMALLEST:
            _numbers(axes, grid, low + 0.45 * (high - low), percent, roomy=side / tasks >= ROOMY)
        axes.set_title(shortened(name, int(side / LETTER)) if len(grids) > 1 else "")
        first, last = place % columns == 0, place >= len(grids) - columns
        _few_ticks(axes, len(grid), across=last, down=first)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_ylabel(names[1] if first else "")
        axes.set_xlabel(names[0] if last else "")
    for axes in panels[len(grids) :]:
        axes.set_visible(False)
    bar = figure.colorbar(
        mesh, ax=panels, fraction=0.03, pad=0.02, aspect=14, anchor=(0.0, 1.0),
        shrink=0.8 if rows == 1 else max(0.25, 0.8 / rows),
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def _columns(panels: int, width: float) -> int:
    """Panels in a row: no more than fit, and no row with a single one where that can be helped."""
    most = 4 if width > NARROW else 2
    if panels <= most:
        return panels
    return next((n for n in range(most, 1, -1) if panels % n != 1), most)


def _numbers(axes: "Axes", grid: Grid, middle: float, percent: bool, *, roomy: bool) -> None:
    digits = (1 if roomy else 0) if percent else (2 if roomy else 1)
    for (i, k), value in np.ndenumerate(grid):
        if not np.isnan(value):
            text = f"{value:.{digits}f}"
            colour = "#fefefe" if value < middle else "#010101"
            axes.text(
                k + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8 if roomy else 7, color=colour
            )


def _few_ticks(axes: "Axes", tasks: int, *, across: bool, down: bool) -> None:
    """Task numbers at the middle of cells, on the two sides that are asked for."""
    ticks = range(0, tasks, _step(tasks))
    middles, numbers = [t + 0.5 for t in ticks], [str(t) for t in ticks]
    axes.set_xticks(middles, numbers) if across else axes.set_xticks([])
    axes.set_yticks(middles, numbers) if down else axes.set_yticks([])


def _step(tasks: int) -> int:
    """Every task has its number, or every second, fifth or tenth where they are many."""
    return 1 if tasks <= 8 else 2 if tasks <= 14 else 5 if tasks <= 40 else 10
