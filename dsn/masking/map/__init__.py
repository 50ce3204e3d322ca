"""The map of a network, and at which size of its input it is found. ``reach`` draws it."""

from .network_map import FEATURES, NONE, SEVERAL, Link, NetworkMap
from .size import Size

__all__ = ["FEATURES", "NONE", "SEVERAL", "Link", "NetworkMap", "Size"]
