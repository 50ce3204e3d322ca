"""The map of a network, and at which size of its input it is found. ``reach`` draws it."""

from .network_map import FEATURES, NONE, SEVERAL, Alone, Link, NetworkMap
from .size import Size
from .wiring import INPUT, OUTPUT, Stage, Wire, Wiring

__all__ = [
    "FEATURES",
    "INPUT",
    "NONE",
    "OUTPUT",
    "SEVERAL",
    "Alone",
    "Link",
    "NetworkMap",
    "Size",
    "Stage",
    "Wire",
    "Wiring",
]
