"""Importing Avalanche without the warning about a solver that nothing here uses."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing_avalanche() -> Iterator[None]:
    """Hide, inside the block, the warning of qpsolvers, which Avalanche imports for GEM alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no QP solver found", category=UserWarning)
        yield
