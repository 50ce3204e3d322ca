"""What a mask's wiring is worth, in nodes and paths, and masks chosen before training by it."""

from .layers import densities, narrow
from .prune import PRUNERS, prune

__all__ = ["PRUNERS", "densities", "narrow", "prune"]
