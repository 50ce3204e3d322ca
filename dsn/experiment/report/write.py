"""``run.py report``: everything is made in a temporary folder, then moved file by file."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from dsn.errors import InputError

from ..base.folder import LOCK, OWNER, partial_folder
from ..base.paths import as_cell
from .figures.figure import Figure
from .figures.impressions import Pictures
from .markdown import markdown
from .page import page
from .published import load_published
from .sections import Block, Folded, StreamReport, stream_reports
from .source import load_source
from .tables import csv_rows

FIGURES = "figures"


def report(
    folder: Path, out: Path | None = None, *, impressions: int = 10, published: Path | None = None
) -> Path:
    """Write the report of the run or comparison in ``folder``; return the path of its page.

    Args:
        out: where it is written, by default ``folder``; files of an earlier report are replaced.
        impressions: pictures a task, at least one a class; 0: none.
        published: a file of published numbers; see ``published.py``.

    Raises InputError: ``folder`` holds no result, a file in it cannot be read, ``impressions`` is negative,
    or ``out`` cannot be written. Nothing is written then.
    """
    if impressions < 0:
        raise InputError(f"--impressions: must be 0 or more, got {impressions}")
    source = load_source(folder)
    known = load_published(published) if published is not None else {}
    target = out or folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        with partial_folder(target / "report") as partial:
            reports = stream_reports(source, known, impressions)
            _write_figures(reports, partial)
            _write(partial / "comparison.csv", _csv(reports))
            _write(partial / "comparison.tex", _tex(reports))
            _write(partial / "report.md", markdown(source, reports))
            _write(partial / "report.html", page(source, reports))
            _move(partial, target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written: {error.strerror or error}; choose another --out"
        ) from error
    return target / "report.html"


def _write_figures(reports: list[StreamReport], folder: Path) -> None:
    place = folder / FIGURES
    place.mkdir()
    for report_ in reports:
        for section in report_.sections:
            for block in _flat(section.blocks):
                if isinstance(block, Figure):
                    block.save(place)
                elif isinstance(block, Pictures):
                    for strip in block.strips:
                        (place / strip.file).write_bytes(strip.png)


def _flat(blocks: Iterable[Block]) -> Iterable[Block]:
    for block in blocks:
        if isinstance(block, Folded):
            yield from _flat(block.blocks)
        else:
            yield block


def _csv(reports: list[StreamReport]) -> str:
    rows = [row for report_ in reports for row in csv_rows(report_.stream)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _tex(reports: list[StreamReport]) -> str:
    head = "% needs \\usepackage{booktabs,graphicx}, and \\usepackage[T1]{fontenc} for quotation marks\n"
    return head + "\n".join(report_.table.latex() for report_ in reports)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace")


def _move(partial: Path, target: Path) -> None:
    """Rename every file of ``partial`` to its place in ``target``, the page last."""
    (target / FIGURES).mkdir(exist_ok=True)
    files = sorted(path for path in partial.rglob("*") if path.is_file() and path.name not in (LOCK, OWNER))
    for path in sorted(files, key=lambda path: path.name == "report.html"):
        os.replace(path, target / path.relative_to(partial))
