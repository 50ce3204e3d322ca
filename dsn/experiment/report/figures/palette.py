"""Colours, dashes and markers: told apart with every kind of colour vision, in light, in dark and in print.

Figures are drawn in the light colours; in the page each of these becomes a CSS variable with two values.
"""

from dataclasses import dataclass
from typing import Any

INK, MUTED, RULE, FREE, IDLE = "#1c2024", "#606970", "#d5dadf", "#e9ecef", "#b4bbc2"

DARK = {
    INK: "#e6e8ea",
    MUTED: "#9aa4ad",
    RULE: "#343a41",
    FREE: "#262b31",
    IDLE: "#596169",
    "#0067a6": "#5eb1f2",
    "#c2480a": "#ff9457",
    "#00795c": "#3fcf9f",
    "#a23f7c": "#ea94c6",
    "#8a6d00": "#e5c64a",
    "#3d8fc4": "#a6dcff",
    "#5b4bb0": "#b3a7ff",
    "#5f6b76": "#b9c2cb",
}
"""light: dark"""


@dataclass(frozen=True)
class Series:
    """How one strategy is drawn."""

    colour: str
    dashes: Any
    marker: str


SERIES = (
    Series("#0067a6", "-", "o"),
    Series("#c2480a", (0, (5, 1.6)), "s"),
    Series("#00795c", (0, (1.4, 1.2)), "^"),
    Series("#a23f7c", (0, (6, 1.5, 1.2, 1.5)), "D"),
    Series("#8a6d00", (0, (3, 1.2)), "v"),
    Series("#3d8fc4", (0, (8, 2)), "P"),
    Series("#5b4bb0", (0, (4, 1.2, 1.2, 1.2, 1.2, 1.2)), "X"),
    Series("#5f6b76", (0, (2.4, 2.4)), "<"),
)
REUSED, FRESH = SERIES[0].colour, "#c2480a"


def css_name(colour: str) -> str:
    """The CSS variable of a light colour."""
    return f"--f{list(DARK).index(colour)}"


def series_of(strategies: list[str]) -> dict[str, Series]:
    """A series a strategy: ``dsn`` the first, the others in the order of the alphabet.

    So a strategy looks the same on every stream of a comparison.
    """
    ordered = sorted(set(strategies), key=lambda name: (name != "dsn", name))
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(ordered)}
