"""The figure of what each task's subnetwork has room for: plastic edges, paths, narrow and free neurons."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsn.topology.tasks import TaskTopology

from ...result.result import Result, TaskUse
from ...run.topology_lines import balance, warnings_of
from ..numbers import counted, shown
from .figure import NARROW, Figure, canvas
from .grids import task_ticks, where_sentence
from .palette import FREE, FRESH, IDLE, MUTED, REUSED, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Bars = dict[str, tuple[str, NDArray[np.float64]]]
"""by name: colour and heights [T], the lowest first"""


def topology(result: Result, key: str, where: str = "") -> Figure | None:
    """Topology of each task's subnetwork, a panel a measure; None where the run did not measure it."""
    known = [(use, use.topology) for use in result.tasks if use.topology is not None]
    if not known:
        return None
    paths = np.array([_shares(t) for _, t in known])
    panels: dict[str, Bars] = {
        "plastic edges": {"plastic": (FRESH, np.array([_edges(t) for _, t in known]))},
        "paths, percent": {
            "free throughout": (FRESH, paths[:, 1]),
            "mixed": (IDLE, (100 - paths.sum(axis=1)).clip(min=0)),
            "frozen throughout": (REUSED, paths[:, 0]),
        },
        "neurons of the narrowest layer": {
            "narrowest": (MUTED, np.array([float(t.narrowest_neurons) for _, t in known]))
        },
        "free neurons, percent": {"free": (MUTED, np.array([_free(use) for use, _ in known]))},
    }

    def draw(width: float) -> "Canvas":
        rows, columns = (2, 2) if width > NARROW else (4, 1)
        figure, axes = canvas(width, 1.8 * rows + 0.3, rows, columns)
        for place, (title, bars) in enumerate(panels.items()):
            _panel(axes[place], title, bars, [use.task for use, _ in known])
            axes[place].set_xlabel("task" if place >= len(panels) - columns else "")
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(
            handles[::-1], labels[::-1], loc="outside upper left", ncols=3 if width > NARROW else 1,
            handlelength=0.9, handleheight=0.9, columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip
        return figure

    thin_use, thin = min(known, key=lambda pair: pair[1].narrowest_neurons)
    alt = (
        f"Topology of {counted(len(known), 'subnetwork')}{where}. Plastic edges: "
        f"{_edges(known[0][1]):.0f} for the first task, {_edges(known[-1][1]):.0f} for the last. Of the last "
        f"task's paths {shown(paths[-1, 0], 'percent')}% are frozen throughout and "
        f"{shown(paths[-1, 1], 'percent')}% free throughout. Narrowest is layer {thin.narrowest_layer} of "
        f"task {thin_use.task} with {counted(thin.narrowest_neurons, 'neuron')}. At the end "
        f"{shown(_free(known[-1][0]), 'percent')}% of the neurons are free."
    )
    last = balance(known[-1][1])
    caption = (
        "For each task. Plastic edges: pairs of an active input and an active neuron that earlier tasks do "
        "not fix, its head's included. Paths from input to output: frozen throughout where they lead through "
        "neurons of earlier tasks alone, free throughout where none of their weights is fixed. Free "
        "neurons: of all layers, after the task."
        + (f" The last task's {last}, at its weights a layer." if last else "")
        + where_sentence(where)
    )
    return Figure(key, "Topology of the subnetworks", alt, caption, draw)


def room_warnings(result: Result) -> str:
    """A sentence for each task in which a layer has collapsed or is saturated; empty where none is."""
    lines = [f"Task {u.task}: {line}" for u in result.tasks if u.topology for line in warnings_of(u.topology)]
    return "".join(f"{line}. " for line in lines).strip()


def _edges(topology_: TaskTopology) -> float:
    return float(sum(topology_.plastic_edges.values()))


def _shares(topology_: TaskTopology) -> tuple[float, float]:
    """Percent of the paths that are frozen and free throughout; 0 where there is no path."""
    return 100 * (topology_.frozen_paths or 0.0), 100 * (topology_.free_paths or 0.0)


def _free(use: TaskUse) -> float:
    """Percent of all neurons that no task uses."""
    layers = use.neurons.values()
    return 100 * sum(n.free for n in layers) / sum(n.total for n in layers)


def _panel(axes: "Axes", title: str, bars: Bars, tasks: list[int]) -> None:
    base = np.zeros(len(tasks))
    for name, (colour, heights) in bars.items():
        axes.bar(range(len(tasks)), heights, bottom=base, width=0.84, color=colour, label=name, linewidth=0)
        base += heights
    axes.set_title(title)
    task_ticks(axes, len(tasks))
    axes.set_ylim(0, 100 if len(bars) > 1 else 1.05 * max(base.max(), 1.0))
    axes.grid(axis="y", color=FREE)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
