"""The command line: one file a command, its parser and its call.

Heavy imports wait until a command needs them, so that ``--help`` answers at once.
"""
