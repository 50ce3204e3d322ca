"""Paths and commands as they are shown."""

import os
import re


def shortened(text: str) -> str:
    """``text`` with the home folder as ``~``, and what no encoding has as escapes."""
    home = os.path.expanduser("~").rstrip("/")
    if home.count("/") and home != "~":  # the root as a home would be in every path
        text = re.sub(rf"(?<![^\s='\"]){re.escape(home)}(?=/|$|\s|'|\")", "~", text)
    return text.encode("utf-8", "backslashreplace").decode()


def as_cell(text: str) -> str:
    """``text`` as a cell of CSV that is not taken for a formula: ' stands before what begins like one."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
