"""Names at the ends of lines, moved apart where they would touch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

LINE = 0.155  # inches that one name needs
LETTER = 0.085  # inches that one letter needs, at most
LONGEST = 22


def label_ends(axes: "Axes", x: float, ends: list[tuple[str, float, str]], width: float) -> None:
    """Write each (name, height, colour) to the right of ``x``; nothing where there is one name only."""
    if len(ends) < 2:
        return
    low, high = axes.get_ylim()
    inches = 0.36 * width + 0.15  # about the height of the axes
    gap = LINE * (high - low) / inches
    ends = sorted(ends, key=lambda end: end[1])
    places = spread([height for _, height, _ in ends], gap, low, high)
    for (name, height, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            shortened(name),
            xy=(x, height),
            xytext=(14, (place - height) / (high - low) * inches * 72),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4},
        )


def legend_below(figure: "Canvas", axes: "Axes", width: float, **options: Any) -> None:
    """The legend of ``axes`` under the figure, in as many columns as its longest name leaves room for."""
    handles, names = axes.get_legend_handles_labels()
    names = [shortened(name) for name in names]
    room = max(len(name) for name in names) * LETTER + 0.6
    columns = max(1, min(len(names), int(width / room)))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, **options)


def shortened(name: str, longest: int = LONGEST) -> str:
    """At most ``longest`` characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def spread(heights: list[float], gap: float, low: float, high: float) -> list[float]:
    """Rising ``heights``, moved as little as it takes to be ``gap`` apart: blocks that touch are merged.

    Pool-adjacent-violators on the heights less their shares of the gaps; then shifted into [low, high] where
    that is wide enough.
    """
    blocks: list[tuple[float, int]] = []  # (mean of what is left, size)
    for place, height in enumerate(heights):
        mean, size = height - place * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    bases = [mean for mean, size in blocks for _ in range(size)]
    top = high - (len(heights) - 1) * gap
    return [max(min(base, top), low) + place * gap for place, base in enumerate(bases)]
