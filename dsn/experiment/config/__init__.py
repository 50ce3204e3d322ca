"""A config: its blocks, its file, what is wrong with it, and the network that it describes."""
