"""A figure: drawn for a wide page and for a phone, inlined as SVG, saved as SVG and PDF."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .palette import DARK, INK, MUTED, RULE, css_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

WIDE, NARROW = 7.5, 3.65  # inches, at 96 pixels each
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Figure:
    """``alt`` states what is seen, in numbers; ``draw`` takes the width in inches."""

    key: str
    title: str
    alt: str
    caption: str
    draw: "Callable[[float], Canvas]"

    def wide(self) -> str:
        """Inline SVG for a page."""
        return for_page(self._made[0], f"{self.key}-wide")

    def narrow(self) -> str:
        """Inline SVG for a phone."""
        with _style(self.key + "narrow"):
            return for_page(_svg(self.draw(NARROW)), f"{self.key}-narrow")

    def save(self, folder: Path) -> None:
        """``<key>.svg`` and ``<key>.pdf``, in the light colours on white: legible on a dark page too."""
        svg, pdf = self._made
        white = svg.replace("<svg ", '<svg style="background: #ffffff" ', 1)
        (folder / f"{self.key}.svg").write_text(white, encoding="utf-8")
        (folder / f"{self.key}.pdf").write_bytes(pdf)

    @cached_property
    def _made(self) -> tuple[str, bytes]:
        """SVG and PDF, from one drawing."""
        with _style(self.key + "wide"):
            drawn = self.draw(WIDE)
            svg, pdf = _svg(drawn), io.BytesIO()
            drawn.set_layout_engine("none")  # as laid out for the SVG
            drawn.savefig(pdf, format="pdf", transparent=False, metadata={"CreationDate": None})
        return svg, pdf.getvalue()


def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> "tuple[Canvas, list[Axes]]":
    """A figure of its own: pyplot and its global state stay out of it."""
    from matplotlib.figure import Figure as Canvas

    made = Canvas(figsize=(width, height), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, **options)
    return made, list(axes.flat)


def for_page(svg: str, name: str) -> str:
    """matplotlib's SVG for the inside of a page: its own ids, colours and fonts from the page's style."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]+", r"font: \1 var(--sans)", svg)
    for light in DARK:
        svg = svg.replace(light, f"var({css_name(light)})")
    points = [float(size) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', svg[: svg.index(">")])]
    width, height = (round(size * 96 / 72) for size in points)
    head = re.sub(r'width="[\d.]+pt"', f'width="{width}"', svg[: svg.index(">")])
    head = re.sub(r'height="[\d.]+pt"', f'height="{height}" aria-hidden="true" focusable="false"', head)
    return head + svg[svg.index(">") :]


def _svg(drawn: "Canvas") -> str:
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


@contextmanager
def _style(salt: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        yield
