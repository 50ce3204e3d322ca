"""What reaches what in a backbone, for any values: live inputs, and what is refused because of them."""

from .columns import columns_of, laid_out, narrow_columns, narrow_parameters
from .leaks import refuse_leaks
from .live import coupled_layers, live_inputs, needed_inputs, read_inputs
from .sending import send

__all__ = [
    "columns_of",
    "coupled_layers",
    "laid_out",
    "live_inputs",
    "narrow_columns",
    "narrow_parameters",
    "needed_inputs",
    "read_inputs",
    "refuse_leaks",
    "send",
]
