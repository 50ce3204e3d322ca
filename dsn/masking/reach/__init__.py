"""What reaches what in a backbone, for any values: its map, and what is refused because of it."""

from .columns import laid_out, narrow_columns, narrow_parameters
from .followers import follow_leaders
from .leaks import refuse_leaks
from .live import coupled_layers, inputs_known_at, live_inputs, map_of, needed_inputs, read_inputs, wiring_of
from .mapping import mixes_samples, tried_masks
from .past_norms import free_norms_read_past
from .sending import send
from .sizes import at_once, small_size, true_size
from .wiring import find_wiring, plain_structure, without_weights

__all__ = [
    "at_once",
    "coupled_layers",
    "find_wiring",
    "follow_leaders",
    "free_norms_read_past",
    "inputs_known_at",
    "laid_out",
    "live_inputs",
    "map_of",
    "mixes_samples",
    "narrow_columns",
    "narrow_parameters",
    "needed_inputs",
    "plain_structure",
    "read_inputs",
    "refuse_leaks",
    "send",
    "small_size",
    "tried_masks",
    "true_size",
    "wiring_of",
    "without_weights",
]
