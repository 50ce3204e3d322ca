"""The one exception that means "the input is wrong", for code and command line alike."""

from collections.abc import Collection


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what is wrong, where it stands (a layer's path, a config key, a file) and what to
    do about it. ``run.py`` prints it after ``error:`` and exits with status 2.
    """


def refuse_unknown(name: str, value: object, known: Collection[object]) -> None:
    """Raise InputError where ``value`` is none of ``known``."""
    if value not in known:
        shown = f"'{value}'" if isinstance(value, str) else repr(value)
        raise InputError(f"{name} is {shown}: choose one of {', '.join(map(str, known))}")


class Stopped(KeyboardInterrupt):
    """A signal ended a run.

    ``signal``: its number; ``out``: where the run was to be written; ``kept``: whether a checkpoint to go on
    from is there.
    """

    def __init__(self, signal: int, out: str = "", kept: bool = False) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal, self.out, self.kept = signal, out, kept
