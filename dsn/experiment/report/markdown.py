"""The report as Markdown, with its figures beside it."""

import re

from .figures.figure import Figure
from .figures.impressions import Pictures
from .sections import Block, Code, Folded, StreamReport
from .source import Source
from .table import Table
from .tables import ranks_table


def markdown(source: Source, reports: list[StreamReport]) -> str:
    """The text of ``report.md``."""
    parts = [f"# {escape(source.title)}"]
    if source.comparison:
        parts.append(_code(source.comparison.command, "console"))
        ranks = ranks_table(source.comparison)
        parts += [_block(ranks)] if ranks else []
    for report in reports:
        deep = "##"
        if len(reports) > 1:
            parts.append(f"## {escape(report.stream.name)}")
            deep = "###"
        parts += [escape(paragraph) for paragraph in report.summary]
        for section in report.sections:
            parts.append(f"{deep} {escape(section.title)}")
            parts += [_block(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """``text`` with nothing that Markdown or HTML would take for a mark."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", text.replace("&", "&amp;").replace("\n", " "))


def _block(block: Block) -> str:
    match block:
        case Table():
            return f"{_table(block)}\n\n{escape(block.caption)}"
        case Figure():
            return f"![{escape(block.alt)}](figures/{block.key}.svg)\n\n*{escape(block.caption)}*"
        case Pictures():
            strips = [f"![{escape(s.alt)}](figures/{s.file})" for s in block.strips]
            return "\n\n".join([*strips, f"*{escape(block.caption)}*"])
        case Code():
            return f"{escape(block.title)}:\n\n{_code(block.text, 'yaml')}"
        case Folded():
            return "\n\n".join([f"{escape(block.title)}:", *map(_block, block.blocks)])
        case _:
            return escape(block)


def _table(table: Table) -> str:
    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [
        row([escape(column.name) for column in table.columns]),
        "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|",
    ]
    for cells in table.rows:
        lines.append(row([f"**{escape(c.text)}**" if c.best else escape(c.text) for c in cells]))
    return "\n".join(lines)


def _code(text: str, kind: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"
