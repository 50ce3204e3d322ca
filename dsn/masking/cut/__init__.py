"""The compact subnetwork of a task: a plain module with the neurons that the task needs."""

from .subnetwork import subnetwork

__all__ = ["subnetwork"]
