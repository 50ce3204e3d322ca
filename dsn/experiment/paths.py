"""Paths and commands as they are shown."""

import os
import re


def shortened(text: str) -> str:
    """``text`` with the home folder as ``~``, and what no encoding has as escapes."""
    home = os.path.expanduser("~").rstrip("/")
    if home.count("/") and home != "~":  # the root as a home would be in every path
        text = re.sub(rf"(?<![^\s='\"]){re.escape(home)}(?=/|$|\s|'|\")", "~", text)
    return text.encode("utf-8", "backslashreplace").decode()
