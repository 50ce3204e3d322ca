"""What reaches what in a backbone, for any values: live inputs, and what is refused because of them."""

from .leaks import refuse_leaks
from .live import InputsOfTask, coupled_layers, live_inputs, needed_inputs, read_inputs
from .past_norms import free_norms_read_past
from .sending import send

__all__ = [
    "InputsOfTask",
    "coupled_layers",
    "free_norms_read_past",
    "live_inputs",
    "needed_inputs",
    "read_inputs",
    "refuse_leaks",
    "send",
]
