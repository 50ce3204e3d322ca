"""A report as sections of blocks, before it is written as a page or as Markdown."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..result.result import Result
from .figures.curves import accuracy_over_tasks, backward_a_task
from .figures.figure import Figure
from .figures.forecast import forecast_table
from .figures.grids import mean_matrices, neurons, overlap, seed_matrices, unlabelled_matrices
from .figures.impressions import Pictures, make_pictures
from .figures.palette import Series, series_of
from .figures.topology import room_warnings, topology
from .numbers import tried_and_accepted
from .prices import price, price_of_run
from .published import Published, published_for, published_table
from .source import Source, StreamRuns
from .table import Column, Table, words
from .tables import (
    differences_table,
    runs_table,
    strategies_table,
    tasks_table,
    transfers_table,
    tuning_table,
)
from .texts import Fact, run_facts, run_summary, stream_summary
from .unlabelled import unlabelled_table

MOST_ROWS = 30


@dataclass(frozen=True)
class Code:
    """Text that is shown as it stands; folded away under its title."""

    title: str
    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks under a title that opens."""

    title: str
    blocks: list[Any]


Block = str | Table | Figure | Pictures | Code | Folded


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; never without blocks."""

    key: str
    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class StreamReport:
    """All of a report that is about one stream; ``table`` is its row in comparison.csv and .tex."""

    stream: StreamRuns
    key: str
    summary: list[str]
    facts: list[Fact]
    table: Table
    sections: list[Section] = field(default_factory=list)


def stream_reports(source: Source, known: dict[str, list[Published]], images: int) -> list[StreamReport]:
    """One for each stream of the source; ``images``: impressions a task."""
    looks = series_of([name for stream in source.streams for name in stream.strategies])
    keys: set[str] = set()
    return [
        _report(source, stream, looks, known, images, _key(stream.name, keys)) for stream in source.streams
    ]


def _key(name: str, taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "stream"
    key = next(k for n in range(1, len(taken) + 2) if (k := base if n == 1 else f"{base}-{n}") not in taken)
    taken.add(key)
    return key


@dataclass
class _Page:
    """The sections about one stream, as they are added; names within the page begin with ``prefix``."""

    prefix: str
    sections: list[Section] = field(default_factory=list)

    def named(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def add(self, name: str, title: str, blocks: Iterable[Block | None]) -> None:
        there = [block for block in blocks if block is not None and block != ""]
        if there:
            self.sections.append(Section(self.named(f"{name}-section"), title, there))


def _report(
    source: Source,
    stream: StreamRuns,
    looks: dict[str, Series],
    known: dict[str, list[Published]],
    images: int,
    key: str,
) -> StreamReport:
    page = _Page(f"{key}-" if len(source.streams) > 1 else "")
    reference = source.comparison.reference if source.comparison else stream.strategies[0]
    run = stream.alone
    alone = run.result if run else None
    table = strategies_table(stream, page.named("results"))
    page.add("results", "Results", [table, differences_table(stream, reference, page.named("differences"))])
    published = published_for(stream, known) if stream.finished else []
    if published:
        shown = published_table(stream, published, page.named("published-table"))
        page.add("published", "Published and measured", [shown])
    if stream.finished:
        _add_accuracies(page, stream, looks, alone)
        _add_masks(page, stream, alone)
        page.add("transfers", "Backward transfer attempts", _transfers(stream, page.named("transfers-table")))
        page.add("impressions", "Impressions", _pictures(stream, images, page.named("impressions-of")))
    if run is None:
        page.add("runs", "Runs", [runs_table(stream, page.named("runs-table"))])
    page.add("config", "Config and environment", _provenance(stream, page.named("environment")))
    facts = run_facts(alone) if alone else []
    return StreamReport(stream, key, _summary(stream, reference), facts, table, page.sections)


def _summary(stream: StreamRuns, reference: str) -> list[str]:
    """What came out, in sentences."""
    run = stream.alone
    if run and run.result:
        return run_summary(stream.name, run.strategy, run.result)
    return stream_summary(stream, reference)


def _add_accuracies(page: _Page, stream: StreamRuns, looks: dict[str, Series], alone: Result | None) -> None:
    named = page.named
    over_tasks = accuracy_over_tasks(stream, looks, named("accuracy-over-tasks"))
    page.add("accuracy", "Accuracy over tasks", [over_tasks])
    seeds = seed_matrices(stream, named("matrices-by-seed"))
    page.add("matrices", "Accuracy matrices", [
        mean_matrices(stream, named("matrices")), Folded("Seed by seed", [seeds]) if seeds else None,
    ])  # fmt: skip
    page.add("without-task", "Without a task id", [
        unlabelled_table(stream, named("unlabelled")),
        unlabelled_matrices(stream, named("class-incremental")),
    ])  # fmt: skip
    page.add("forgetting", "Forgetting and backward transfer", [
        backward_a_task(stream, looks, named("backward-transfer")) or _nothing_changed(stream),
        tasks_table(alone, named("tasks")) if alone else None,
    ])  # fmt: skip
    page.add("price", "Accuracy and its price", [
        price_of_run(alone, named("price")) if alone else price(stream, looks, named("price"))
    ])  # fmt: skip


def _add_masks(page: _Page, stream: StreamRuns, alone: Result | None) -> None:
    named = page.named
    masked = [(name, r) for name in stream.finished for r in stream.results(name)[:1] if r.tasks]
    page.add("neurons", "Neurons", [
        *(neurons(r, named(f"neurons-{_slug(name)}"), _where(stream, name, r)) for name, r in masked),
        forecast_table(alone.tasks, named("forecast")) if alone and alone.tasks else None,
    ])  # fmt: skip
    page.add("overlap", "Mask overlap", [
        overlap(r, named(f"overlap-{_slug(name)}"), _where(stream, name, r)) for name, r in masked
        if len(r.tasks) > 1
    ])  # fmt: skip
    topologies: list[Block | None] = []
    for name, r in masked:
        figure = topology(r, named(f"topology-{_slug(name)}"), _where(stream, name, r))
        topologies += [figure, room_warnings(r)]
    page.add("topology", "Topology of masks", topologies)


def _where(stream: StreamRuns, strategy: str, result: Result) -> str:
    return "" if stream.alone else f" of {strategy}, seed {result.seed}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "strategy"


def _nothing_changed(stream: StreamRuns) -> str:
    if stream.tasks < 2:
        return "With one task there is nothing to forget."
    whom = "" if stream.alone else " of every strategy"
    return (
        f"Backward transfer and forgetting are exactly 0 for every task{whom}: each column of the accuracy "
        "matrix keeps the value that it had right after learning."
    )


def _transfers(stream: StreamRuns, key: str) -> list[Block | None]:
    """How many a strategy, then each of them; folded where they are many."""
    table = transfers_table(stream, key)
    if table is None:
        return []
    tried = {name: [t for r in stream.results(name) for t in r.transfers] for name in stream.finished}
    text = "; ".join(
        f"{name}: {tried_and_accepted([t.accepted for t in all_])}" for name, all_ in tried.items() if all_
    )
    return [
        f"{text}.",
        Folded(f"All {len(table.rows)} attempts", [table]) if len(table.rows) > MOST_ROWS else table,
    ]


def _pictures(stream: StreamRuns, images: int, key: str) -> list[Block | None]:
    """Of the first run that has a model."""
    for name in stream.finished:
        for run in stream.runs:
            if run.strategy == name and run.result is not None and run.result.tasks:
                made = make_pictures(run.folder, images, key)
                if made.strips:
                    return [made]
                if made.note:
                    return [made.note]
    return []


def _provenance(stream: StreamRuns, key: str) -> list[Block | None]:
    """The first finished run's environment, and a config a strategy."""
    blocks: list[Block | None] = []
    first = next((run for run in stream.runs if run.result is not None), None)
    if first is None or first.result is None:
        return []
    rows = [[words(str(name)), words(str(value))] for name, value in first.result.environment.items()]
    caption = "Where it was run." if stream.alone else f"Where {first.strategy}, seed {first.seed}, was run."
    blocks.append(tuning_table(stream, f"{key}-tuning"))
    blocks.append(
        Table(key, caption, [Column("setting", numeric=False), Column("value", numeric=False)], rows)
    )
    for name in stream.finished:
        run = next(run for run in stream.runs if run.strategy == name and run.result is not None)
        text = _config_text(run.folder / "config.yaml", run.result)
        title = "config.yaml" if stream.alone else f"config.yaml of {name}, seed {run.seed}"
        blocks.append(Code(title, text))
    return blocks


def _config_text(file: Path, result: Result | None) -> str:
    """The text of ``file``; where it cannot be read, what the result says of the config."""
    with suppress(OSError, UnicodeDecodeError):
        if file.is_file():  # a pipe would be waited for
            return file.read_text(encoding="utf-8")
    return yaml.safe_dump(result.config if result else {}, sort_keys=False)
