"""A page, a Markdown file, tables and figures of one run or of a comparison."""

from .write import report

__all__ = ["report"]
