"""DSN as an Avalanche strategy, and its settings."""

from .schedule import Plateau
from .settings import Compute, Schedule, Selection, Transfer, preset
from .strategy import DSN

__all__ = ["DSN", "Compute", "Plateau", "Schedule", "Selection", "Transfer", "preset"]
