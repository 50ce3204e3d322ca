"""Later tasks read earlier ones; earlier ones gain from later ones, without stored data."""

from .acceptance import ACCEPTANCE, Decision
from .assessment import assess
from .backward import TransferOutcome, attempt, transfer_backward
from .forward import ForwardOutcome, transfer_forward
from .mechanisms import MECHANISMS
from .similarity import most_similar, similarity
from .situation import Situation

__all__ = [
    "ACCEPTANCE",
    "MECHANISMS",
    "Decision",
    "ForwardOutcome",
    "Situation",
    "TransferOutcome",
    "assess",
    "attempt",
    "most_similar",
    "similarity",
    "transfer_backward",
    "transfer_forward",
]
