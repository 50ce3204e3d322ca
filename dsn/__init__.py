"""Data-free subnetworks: continual learning that never forgets, and learns backwards.

Names are imported when they are first used: torch takes a second and Avalanche several.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import backbones
    from .errors import InputError
    from .masking import MaskedModel, ProtectedWeights, grow, mask_neurons, sparsity
    from .training import DSN, Compute, Plateau, Schedule, Selection, Transfer, preset

__all__ = [
    "Compute",
    "DSN",
    "InputError",
    "MaskedModel",
    "Plateau",
    "ProtectedWeights",
    "Schedule",
    "Selection",
    "Transfer",
    "backbones",
    "grow",
    "mask_neurons",
    "preset",
    "sparsity",
]

_TRAINING = ("DSN", "Compute", "Plateau", "Schedule", "Selection", "Transfer", "preset")
_PLACES = {"InputError": "errors", **dict.fromkeys(_TRAINING, "training")}


def __getattr__(name: str) -> Any:
    if name == "backbones":
        return import_module(".backbones", __name__)
    if name in __all__:
        return getattr(import_module(f".{_PLACES.get(name, 'masking')}", __name__), name)
    raise AttributeError(f"module 'dsn' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
