"""Which weights a network keeps, chosen before training: data-agnostic pruners and their references."""

from .layers import densities, narrow
from .prune import PRUNERS, prune

__all__ = ["PRUNERS", "densities", "narrow", "prune"]
