"""The node-path picture of the paper: each pruner by effective nodes and paths, a panel a density."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..result.labels import LINE, spread
from ..result.pictures import FREE, WIDEST, grid_of_axes
from .topology_result import DENSE, PrunerRow, TopologyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = 4.0  # inches
HEIGHT = 2.9  # inches, about that of the axes in a panel
NAME_WIDTH = 0.25  # of a panel


def draw_topology(result: TopologyResult, path: Path) -> None:
    """A PNG: log10 of the paths against effective nodes, accuracy as colour and in figures.

    A network without a path stands at the left edge, with an open marker.
    """
    levels = list(dict.fromkeys(row.density for row in result.rows if row.pruner != DENSE))
    lines = -(-len(levels) // int(WIDEST / PANEL))
    columns = -(-len(levels) // lines)
    figure, grid = grid_of_axes(
        lines, columns, width=max(5.5, PANEL * columns + 0.8), height=3.6 * lines + 0.4
    )
    image: Any = None
    for density, axes in zip(levels, grid, strict=False):
        rows = [row for row in result.rows if row.density == density and row.pruner != DENSE]
        image = _draw_density(axes, density, rows)
    for axes in grid[len(levels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("effective nodes", fontsize=9)
    for axes in grid[max(0, len(levels) - columns) : len(levels)]:
        axes.set_xlabel("paths, log10", fontsize=9)
    bar = figure.colorbar(image, ax=grid, fraction=0.03, pad=0.02)
    bar.set_label("accuracy within the density: lowest to highest", fontsize=8)
    bar.set_ticks([])
    figure.savefig(path)


def _draw_density(axes: "Axes", density: float, rows: list[PrunerRow]) -> Any:
    known = [row.log10_paths.mean for row in rows if row.log10_paths is not None]
    edge = min(known, default=0.0) - 0.08 * max(max(known, default=1.0) - min(known, default=0.0), 1.0)
    x = [edge if row.log10_paths is None else row.log10_paths.mean for row in rows]
    y = [row.effective_nodes.mean for row in rows]
    accuracy = [row.accuracy.mean for row in rows]
    low, high = min(accuracy), max(accuracy)
    shade = [(value - low) / (high - low) if high > low else 1.0 for value in accuracy]
    image = axes.scatter(x, y, c=shade, cmap="cividis", vmin=0, vmax=1, s=46, zorder=3)
    for left, height, row in zip(x, y, rows, strict=True):
        if row.log10_paths is None:
            axes.plot(left, height, "o", markersize=11, fillstyle="none", color="black")
    axes.set_title(f"{density:.2%} of the weights", loc="left", fontsize=10)
    axes.margins(x=0.35, y=0.15)
    names = [f"{row.pruner} {100 * row.accuracy.mean:.1f}" for row in rows]
    _label(axes, sorted(zip(x, y, names, strict=True)))
    axes.grid(color=FREE)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return image


def _label(axes: "Axes", points: list[tuple[float, float, str]]) -> None:
    """Write the name of each (x, y, name), in the order of x; names of near points are moved apart."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inch = (high - low) / HEIGHT
    columns: list[list[tuple[float, float, str]]] = []
    for point in points:
        if columns and point[0] - columns[-1][0][0] < NAME_WIDTH * (right - left):
            columns[-1].append(point)
        else:
            columns.append([point])
    for column in columns:
        column.sort(key=lambda point: point[1])
        places = spread([y for _, y, _ in column], LINE * inch, low, high)
        for (x, y, name), place in zip(column, places, strict=True):
            axes.annotate(
                name,
                xy=(x, y),
                xytext=(9, (place - y) / inch * 72),
                textcoords="offset points",
                va="center",
                fontsize=7,
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3},
            )
