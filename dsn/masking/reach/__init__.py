"""What reaches what in a backbone, for any values: its map, and what is refused because of it."""

from .leaks import refuse_leaks
from .live import coupled_layers, inputs_known_at, live_inputs, map_of, read_inputs
from .past_norms import free_norms_read_past
from .sending import send
from .sizes import Size, small_size, true_size

__all__ = [
    "Size",
    "coupled_layers",
    "free_norms_read_past",
    "inputs_known_at",
    "live_inputs",
    "map_of",
    "read_inputs",
    "refuse_leaks",
    "send",
    "small_size",
    "true_size",
]
