"""The wiring that paths are counted along, read off the map of a network.

Shapes: as in ``dsn.masking.map.wiring``.
"""

from collections.abc import Sequence

from torch import nn

from dsn.errors import InputError
from dsn.masking import reach
from dsn.masking.map import INPUT, OUTPUT, Stage, Wire, Wiring
from dsn.masking.structure import Structure

__all__ = ["INPUT", "OUTPUT", "Stage", "Wire", "Wiring", "find_wiring", "wiring_of"]


def find_wiring(network: nn.Module, input_shape: Sequence[int]) -> Wiring:
    """The wiring of ``network`` for inputs of shape ``input_shape``, [1, channels, ...] or [1, d].

    Its weights are not looked at. A tensor that is added to itself counts once.

    Raises:
        InputError: where outputs of several layers meet in anything but a sum or a concatenation.
    """
    return _countable(reach.find_wiring(reach.plain_structure(network, input_shape)))


def wiring_of(model: Structure) -> Wiring:
    """The same of a masked model's backbone, from its map."""
    return _countable(reach.wiring_of(model))


def _countable(wiring: Wiring) -> Wiring:
    if wiring.products:
        raise InputError(
            f"what arrives at '{wiring.products[0][0]}' is no sum or concatenation of what single layers "
            "give (a product of branches?): paths through it cannot be counted"
        )
    return wiring
