"""Strategies to compare DSN with."""

from .builders import STRATEGIES, Setting
from .memory import MemoryUse, masked_model_memory

__all__ = ["STRATEGIES", "MemoryUse", "Setting", "masked_model_memory"]
