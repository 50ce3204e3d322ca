"""What reaches what in a backbone, for any values: live inputs, and what is refused because of them."""

from .leaks import refuse_leaks
from .live import InputsOfTask, coupled_layers, live_inputs, needed_inputs, read_inputs
from .sending import send

__all__ = [
    "InputsOfTask",
    "coupled_layers",
    "live_inputs",
    "needed_inputs",
    "read_inputs",
    "refuse_leaks",
    "send",
]
