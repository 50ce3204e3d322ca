"""Edges: where a task learns, and what it reads."""

from .edges import EDGES, Edges

__all__ = ["EDGES", "Edges"]
