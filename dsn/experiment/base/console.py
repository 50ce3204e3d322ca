"""Where lines and tables go, and how: names are printed as they are, and no number is cut off."""

from rich.console import Console
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200
UNBOUNDED = 10_000


def make_console() -> Console:
    """Standard output; wide enough for 20 tasks where it is no terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, markup=False, emoji=False, width=PLAIN_WIDTH, color_system=None)


def say(console: Console, line: str) -> None:
    """Print ``line``, whatever is in it; a terminal breaks it where it ends."""
    console.print(Text(line), soft_wrap=True)


def show_table(console: Console, table: Table) -> None:
    """Print ``table``; no word or number is cut: where it is too wide, the terminal breaks its lines."""
    wide = console.options.update(max_width=UNBOUNDED)
    for column in table.columns:
        measured = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
        column.min_width = max(size.maximum if column.no_wrap else size.minimum for size in measured)
    needed = Measurement.get(console, wide, table).minimum
    if needed <= console.width:
        console.print(table)
        return
    for line in console.render_lines(table, console.options.update(width=needed), pad=False):
        console.print(Segments(line), soft_wrap=True)
