"""The state of a masked model and of its tasks: what fits, what a file holds, and hashes of it."""
