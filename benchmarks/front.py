"""Accuracy against bytes: which strategy has the highest mean accuracy for what all tasks together keep.

    python -m benchmarks.front configs/cifar100_folder_cpu.yaml --tasks 5,10,20 --widths 8,16,24 \\
        --seeds 0,1,2 --set stream.root=/data/cifar100 --out results/front

Each strategy learns the first T tasks of the stream in a backbone of each width. Bytes are those of the
weights that some task uses, and of what is kept a task: masks, bits, heads, norms, biases (``MemoryUse``);
weights that a seed gives again are not counted. A strategy at a width is on the front if none other of the
same T is at least as accurate for at most as many bytes. Writes ``front.md`` and ``front.png`` beside the
runs, which are those of ``run.py compare``: the same command goes on where it was stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from dsn.errors import InputError
from dsn.evaluation.statistics import mean_interval
from dsn.experiment.compare.compare import compare
from dsn.experiment.compare.plan import make_plan
from dsn.experiment.engine.options import Choice
from dsn.experiment.report.figures.palette import SERIES
from dsn.experiment.report.measures import stored_bytes
from dsn.experiment.report.numbers import shown_bytes
from dsn.experiment.report.source import load_source
from dsn.experiment.result.pictures import GREY, grid_of_axes
from dsn.experiment.result.result import Result, write_whole

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dsn, masks": ("dsn", ("selection.edges=none",)),
    "dsn, own and read": ("dsn", ("selection.edges=own_and_read",)),
    "dsn, own and sign": ("dsn", ("selection.edges=own_and_sign",)),
    "wsn": ("wsn", ()),
    "supsup": ("supsup", ()),
    "independent": ("independent", ()),
}
"""By name in the table: strategy and settings."""


@dataclass(frozen=True)
class Point:
    """A variant at a width after ``tasks`` tasks; accuracy in percent with the interval's ends, if any."""

    variant: str
    tasks: int
    width: str
    bytes: float
    acc: float
    low: float | None
    high: float | None


def main() -> int:
    """Run, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("--tasks", default="5,10,20")
    parser.add_argument("--widths", default="8,16,24")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only this one; may be repeated")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/front"))
    given = parser.parse_args()
    try:
        points = measured(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = " ".join(["python -m benchmarks.front", *sys.argv[1:]])
    write_whole(given.out / "front.md", f"    {command}\n\n{table(points)}\n")
    draw(points, given.out / "front.png")
    print(table(points))
    return 0


def measured(given: argparse.Namespace) -> list[Point]:
    """All points, each from the runs of a comparison in a folder of its own."""
    points = []
    names = given.variant or list(VARIANTS)
    for tasks, width, name in product(given.tasks.split(","), given.widths.split(","), names):
        strategy, settings = VARIANTS[name]
        overrides = [*given.overrides, f"stream.tasks={tasks}", f"backbone.width={width}", *settings]
        folder = given.out / f"{tasks}-{width}-{name.replace(', ', '-').replace(' ', '_')}"
        plan = make_plan([given.config], strategy, given.seeds, overrides)
        compare(plan, folder, engine=Choice(jobs=given.jobs))
        results = load_source(folder).streams[0].results(strategy)
        if results:
            found = mean_interval([100 * result.metrics.acc for result in results])
            kept = float(np.mean([total_bytes(result) for result in results]))
            points.append(Point(name, int(tasks), width, kept, found.mean, found.low, found.high))
    return points


def total_bytes(result: Result) -> float:
    """Weights that some task uses, and all that is kept beside them."""
    kept = stored_bytes(result)
    assert kept is not None and result.memory is not None and result.memory.used_bytes is not None
    return result.memory.used_bytes + kept


def on_front(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point of the same number of tasks is as accurate for as many bytes, or better."""
    others = [other for other in points if other.tasks == point.tasks and other != point]
    return not any(other.acc >= point.acc and other.bytes <= point.bytes for other in others)


def table(points: Sequence[Point]) -> str:
    """Markdown, by tasks and bytes."""
    lines = ["| tasks | strategy | width | bytes | ACC | on the front |", "|---:|---|---:|---:|---:|---|"]
    for point in sorted(points, key=lambda point: (point.tasks, point.bytes)):
        half = "" if point.high is None else f" ± {point.high - point.acc:.2f}"
        mark = "yes" if on_front(point, points) else ""
        size = shown_bytes(point.bytes)
        lines.append(
            f"| {point.tasks} | {point.variant} | {point.width} | {size} | {point.acc:.2f}{half} | {mark} |"
        )
    return "\n".join(lines)


def draw(points: Sequence[Point], path: Path) -> None:
    """A panel for each number of tasks; the front is a grey line."""
    counts = sorted({point.tasks for point in points})
    figure, panels = grid_of_axes(1, len(counts), width=4.2 * len(counts) + 0.6, height=4.4)
    for tasks, axes in zip(counts, panels, strict=True):
        here = [point for point in points if point.tasks == tasks]
        front = sorted((point.bytes, point.acc) for point in here if on_front(point, here))
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=0.8, zorder=1)
        for (name, _), look in zip(VARIANTS.items(), SERIES, strict=False):
            mine = sorted((p for p in here if p.variant == name), key=lambda p: p.bytes)
            sizes, accuracies = [p.bytes for p in mine], [p.acc for p in mine]
            axes.plot(sizes, accuracies, look.marker, color=look.colour, linestyle=look.dashes, label=name)
            for p in mine:
                if p.low is not None and p.high is not None:
                    axes.vlines(p.bytes, p.low, p.high, color=look.colour, linewidth=1)
        axes.set_xscale("log")
        axes.set_title(f"{tasks} tasks", loc="left", fontsize=10)
        axes.set_xlabel("bytes of all tasks")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ACC, percent")
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
