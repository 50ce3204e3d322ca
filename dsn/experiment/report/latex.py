"""Text made safe for LaTeX."""

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "\u00a0": "~",
    "[": "{[}",  # a row that begins with one would be read as an argument of \\
    "]": "{]}",
    "*": "{*}",
}


def escape(text: str) -> str:
    """``text`` as LaTeX prints it; line breaks and control characters become spaces."""
    return "".join(SPECIAL.get(c, c if c.isprintable() else " ") for c in text)
