"""Modules that are neither layers nor norms: a copy a task, and attention opened into layers."""

from .attention import close_attention, open_attention
from .own import OwnModule, OwnTensor, bake_in, give_to_tasks

__all__ = [
    "OwnModule",
    "OwnTensor",
    "bake_in",
    "close_attention",
    "give_to_tasks",
    "open_attention",
]
