"""Helpers that know nothing of experiments: the console, folders, interrupts."""
