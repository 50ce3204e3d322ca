"""The picture of a transfer lab: gains with their intervals, and what the policy accepted."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..result.pictures import FREE, FRESH, GREY, REUSED, grid_of_axes
from .transfer_result import ARMS, RUNS, LabResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORACLE = "#009E73"
SHOWN = [*ARMS, "bwt", "bwt_own", "bwt_above_own"]


def draw_lab(result: LabResult, path: Path) -> None:
    """A PNG: left the mean gain of each arm with its interval, right each pair's gain beside the oracle's."""
    figure, (left, right) = grid_of_axes(1, 2, width=12.0, height=4.8)
    _draw_gains(left, result)
    _draw_pairs(right, result)
    figure.savefig(path)


def _draw_gains(axes: "Axes", result: LabResult) -> None:
    names = {name: label for name, (label, _) in ARMS.items()} | RUNS
    intervals = {**result.gains, **result.runs}
    axes.axvline(0, color=GREY, linewidth=0.8)
    for height, name in enumerate(reversed(SHOWN)):
        interval = intervals[name]
        colour = _colour(name)
        if interval.low is not None and interval.high is not None:
            axes.plot([100 * interval.low, 100 * interval.high], [height] * 2, color=colour, linewidth=2)
        axes.plot(100 * interval.mean, height, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(SHOWN)), [names[name] for name in reversed(SHOWN)], fontsize=8)
    axes.set_xlabel("test accuracy gained, points; mean and 95% interval over seeds", fontsize=9)
    seeds = ", ".join(map(str, result.seeds))
    axes.set_title(f"{len(result.pairs)} pairs of tasks, seeds {seeds}", loc="left", fontsize=10)
    axes.grid(axis="x", color=FREE)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _colour(name: str) -> str:
    if "above" in name:
        return GREY
    if name == "oracle":
        return ORACLE
    return FRESH if "own" in name or "random" in name else REUSED


def _draw_pairs(axes: "Axes", result: LabResult) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axvline(0, color=GREY, linewidth=0.8)
    for accepted, marker, colour, label in ((True, "o", REUSED, "accepted"), (False, "x", FRESH, "refused")):
        pairs = [pair for pair in result.pairs if pair.accepted == accepted]
        axes.scatter(
            [100 * pair.oracle for pair in pairs],
            [100 * pair.transfer for pair in pairs],
            marker=marker,
            color=colour,
            s=28,
            alpha=0.8,
            label=f"{label}: {len(pairs)}",
        )
    axes.set_xlabel("gain of the oracle, points", fontsize=9)
    axes.set_ylabel("gain of the transfer, points", fontsize=9)
    axes.set_title("each pair of tasks", loc="left", fontsize=10)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
