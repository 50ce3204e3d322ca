"""Image files to pixels, safely and once."""
