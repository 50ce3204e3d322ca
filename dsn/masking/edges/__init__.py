"""Edges: where a task learns, and what it reads."""

from .edges import EDGES, Edges, weights_of

__all__ = ["EDGES", "Edges", "weights_of"]
