"""Exit statuses; 0 is well, 128 + n ended by signal n."""

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
ROUNDED, CRASHED = 3, 70  # of verify
