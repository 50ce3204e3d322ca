"""The tables at the end of a comparison, in percentage points."""

from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..base.console import say, show_table
from ..result.interval import Interval
from .comparison import Comparison, Difference, Rank, StreamComparison

UNKNOWN = "-"
NARROW = 110


def _points(interval: Interval) -> str:
    mean = f"{100 * interval.mean:.2f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ± {100 * (interval.high - interval.low) / 2:.2f}"


def _bytes(interval: Interval) -> str:
    size, units = interval.mean, iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while size >= 1000 and unit != "GB":
        size, unit = size / 1000, next(units)
    return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"


def _numbers(interval: Interval) -> str:
    return _bytes(interval).removesuffix("B").replace("k", "K").strip()


def _count(interval: Interval) -> str:
    return f"{interval.mean:.0f}"


def _seconds(interval: Interval) -> str:
    return f"{interval.mean:.1f}"


COLUMNS: dict[str, tuple[str, int, Callable[[Interval], str]]] = {
    "acc": ("ACC", 1, _points),
    "bwt": ("BWT", 1, _points),
    "forgetting": ("forgetting", -1, _points),
    "trans": ("Trans", 1, _points),
    "cil_acc": ("ACC, no\ntask id", 1, _points),
    "task_inference": ("task\nfound", 1, _points),
    "task_bytes": ("bytes\na task", -1, _bytes),
    "shared_bytes": ("shared\nbytes", -1, _bytes),
    "stored_samples": ("stored\nsamples", -1, _count),
    "capacity": ("capacity", -1, _points),
    "parameters": ("param-\neters", -1, _numbers),
    "seconds": ("seconds", -1, _seconds),
}
"""By measure: its heading, 1 if more is better and -1 if less is, and how a mean is shown."""


def show_comparison(console: Console, comparison: Comparison) -> None:
    """For each stream the strategies, best accuracy first, then their differences to the reference."""
    for stream in comparison.streams:
        seeds = f"seed{'s' if len(comparison.seeds) > 1 else ''} {', '.join(map(str, comparison.seeds))}"
        say(console, f"\n{stream.name}: {stream.tasks} tasks, {seeds}; accuracies in percent")
        if stream.summaries:
            show_table(console, measures_table(stream, comparison, narrow=console.width < NARROW))
        if stream.differences:
            say(
                console, f"{stream.name}: ACC minus that of {comparison.reference}, paired by seed, in points"
            )
            show_table(console, differences_table(stream))
    if len(comparison.streams) > 1 and (ranks := comparison.statistics.ranks):
        say(console, f"mean rank by ACC over {ranks[0].streams} streams")
        show_table(console, _ranks_table(ranks))
    for line in notes(comparison):
        say(console, line)


def measures_table(stream: StreamComparison, comparison: Comparison, *, narrow: bool = False) -> Table:
    """A row a strategy; the best of each column is bold. Columns that nothing is known of are left out.

    ``narrow``: intervals of ACC alone.
    """
    known = [name for name in COLUMNS if any(summary.measures.get(name) for summary in stream.summaries)]
    table = _table("strategy", *(COLUMNS[name][0] for name in known))
    best = {name: best_of(stream, name) for name in known}
    for summary in stream.summaries:
        name = summary.strategy
        missing = len(comparison.seeds) - summary.runs
        cells = [Text(f"{name} ({summary.runs} of {len(comparison.seeds)})" if missing else name)]
        for measure in known:
            interval = summary.measures.get(measure)
            if interval is not None and narrow and measure != "acc":
                interval = Interval(mean=interval.mean, low=None, high=None)
            text = UNKNOWN if interval is None else COLUMNS[measure][2](interval)
            cells.append(Text(text, style="bold" if name in best[measure] else ""))
        table.add_row(*cells)
    return table


def best_of(stream: StreamComparison, measure: str) -> set[str]:
    """The strategies with the best mean of ``measure``; none where all are equal."""
    sign = COLUMNS[measure][1]
    means = {
        s.strategy: sign * i.mean for s in stream.summaries if (i := s.measures.get(measure)) is not None
    }
    best = {name for name, mean in means.items() if mean == max(means.values())}
    return best if len(best) < len(means) else set()


def differences_table(stream: StreamComparison) -> Table:
    """A row a strategy but the reference."""
    table = _table("strategy", "difference", "95% interval", "p", "p (Holm)")
    for row in _difference_rows(stream.differences):
        table.add_row(*row)
    return table


def notes(comparison: Comparison) -> list[str]:
    """What has to be known to read the tables."""
    said = []
    if len(comparison.seeds) > 1:
        said.append("±: half of the 95% t-interval over seeds")
    if count := comparison.statistics.comparisons:
        said.append(
            f"p: paired t-test; Holm: corrected for {count} comparison{'' if count == 1 else 's'} in all"
        )
    if any(d.p is None and d.low is not None for s in comparison.streams for d in s.differences):
        said.append("p is - where all differences are equal: without spread there is no t statistic")
    return said + chosen_values(comparison)


def chosen_values(comparison: Comparison) -> list[str]:
    """What the trials of each strategy chose; nothing of those that all failed."""
    said = []
    for stream in comparison.streams:
        for tuning in stream.tuning:
            if tuning.chosen is not None:
                values = ", ".join(f"{key}={value:g}" for key, value in tuning.chosen.items())
                said.append(f"{stream.name}, {tuning.strategy}, of {len(tuning.trials)} trials: {values}")
    return said


def _difference_rows(differences: list[Difference]) -> Iterator[tuple[str, ...]]:
    for d in sorted(differences, key=lambda d: -d.mean):
        limits = "one seed" if d.low is None else f"{100 * d.low:+.2f} to {100 * (d.high or 0):+.2f}"
        yield d.strategy, f"{100 * d.mean:+.2f}", limits, _p(d.p), _p(d.p_holm)


def _ranks_table(ranks: list[Rank]) -> Table:
    table = _table("strategy", "rank")
    for rank in ranks:
        table.add_row(rank.strategy, f"{rank.rank:.2f}")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _p(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
