"""The engine that was chosen."""

from pathlib import Path

from .local import LocalEngine
from .options import Choice
from .pool import Engine


def open_engine(choice: Choice, folder: Path) -> Engine:
    """The engine; ``folder``: where it may keep what it knows of its jobs.

    Raises InputError where it is not installed or cannot be reached.
    """
    if choice.name == "ray":
        from .on_ray import RayEngine

        return RayEngine(choice, folder)
    if choice.name == "slurm":
        from .on_slurm import SlurmEngine

        return SlurmEngine(choice, folder)
    return LocalEngine(choice.jobs or 1)
