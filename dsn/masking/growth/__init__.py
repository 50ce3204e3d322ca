"""New neurons: for layers that have run out of free ones, and beside a pretrained backbone."""

from .fresh import keep_pretrained
from .grow import adopt_widths, grow

__all__ = ["adopt_widths", "grow", "keep_pretrained"]
