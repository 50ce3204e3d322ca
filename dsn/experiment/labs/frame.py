"""What stands around the measurements of every lab: its folder, its files, its table."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from ..base.console import say, show_table
from ..base.folder import output_folder
from ..config.experiment import Config, dump
from ..config.faults import explained
from ..result.result import write_whole

Rows = Sequence[tuple[str, ...]]


@contextmanager
def lab_folder(out: Path | None, name: str, config: Config) -> Iterator[tuple[Path, Path]]:
    """``output_folder``, in which faults that the config is to blame for are explained."""
    with output_folder(out, name) as folders, explained(config):
        yield folders


def write_lab(result: BaseModel, config: Config, folder: Path, name: str, text: str) -> None:
    """A lab's ``<name>.json``, its ``text`` as ``<name>.md``, and its config."""
    values = json.dumps(result.model_dump(mode="json"), indent=2, allow_nan=False)
    write_whole(folder / f"{name}.json", values + "\n")
    write_whole(folder / f"{name}.md", text)
    write_whole(folder / "config.yaml", dump(config))


def show_lab(console: Console, head: Sequence[str], rows: Rows, target: Path) -> None:
    """The table, and where the files are."""
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    show_table(console, table)
    say(console, f"written to {target}")


def table_of(command: str, head: Sequence[str], rows: Rows) -> str:
    """The table below its command as Markdown, to paste into a document."""
    lines = ["```console", f"$ {command}", "```", "", f"| {' | '.join(head)} |"]
    lines.append("|---|" + "---:|" * (len(head) - 1))
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])
