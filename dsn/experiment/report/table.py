"""A table, and how it looks in LaTeX; page and Markdown draw it themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .latex import escape

Sort = float | str | None


@dataclass(frozen=True)
class Cell:
    """``sort``: what it is sorted by, None last."""

    text: str
    sort: Sort = None
    best: bool = False
    muted: bool = False


@dataclass(frozen=True)
class Column:
    """``numeric`` columns are right-aligned; ``title`` explains the name where it needs that."""

    name: str
    numeric: bool = True
    title: str = ""
    long: bool = False
    """holds sentences: lines may break"""


@dataclass(frozen=True)
class Table:
    """``caption`` is a sentence or two: what the rows are, the unit, what is bold."""

    key: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)

    def latex(self) -> str:
        """A ``table`` with booktabs' rules, scaled to the line's width by graphicx."""
        form = "".join("r" if column.numeric else "l" for column in self.columns)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(self.caption)}}}",
            rf"\label{{tab:{self.key}}}",
            rf"\resizebox{{\linewidth}}{{!}}{{\begin{{tabular}}{{{form}}}",
            r"\toprule",
            " & ".join(escape(column.name) for column in self.columns) + r" \\",
            r"\midrule",
        ]
        for row in self.rows:
            cells = [rf"\textbf{{{escape(c.text)}}}" if c.best else escape(c.text) for c in row]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def number(text: str, value: float | None, *, best: bool = False) -> Cell:
    """A cell sorted by its value."""
    return Cell(text, value, best, muted=value is None)


def words(text: str) -> Cell:
    """A cell sorted by its text."""
    return Cell(text, text.casefold())
