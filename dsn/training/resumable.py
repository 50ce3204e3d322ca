"""A strategy whose whole state can be taken while it is at rest, and put back; docs/checkpoint.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from ..errors import InputError
from ..storage import Tree, read_tree, write_tree
from .state import put_state, take_state

if TYPE_CHECKING:
    from .strategy import DSN

STATE_FILE, STATE_FORMAT, STATE_VERSION = "strategy.safetensors", "dsn-strategy", 1


class Resumable:
    """Mix-in of :class:`dsn.DSN`."""

    if TYPE_CHECKING:

        def _refuse_bad_loss(self) -> None: ...

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, also amid training: logits and loss of the last batch are numbers there, without graph.

        A copy of a half-learnt task is one whose training was interrupted: its next ``train`` drops the task.
        """
        return {
            name: value.detach() if isinstance(value, Tensor) and not value.is_leaf else value
            for name, value in self.__dict__.items()
        }

    def take_state(self) -> dict[str, Tree]:
        """Everything that training goes on from, while the strategy is at rest; see ``state.py``."""
        self._refuse_bad_loss()
        return take_state(cast("DSN", self))

    def put_state(self, state: Mapping[str, Tree]) -> None:
        """Put back what :meth:`take_state` took. Raises InputError, naming the first thing that differs."""
        put_state(cast("DSN", self), state)

    def save(self, folder: str | Path) -> None:
        """Keep the whole state, while the strategy is at rest, in ``folder``; docs/checkpoint.md.

        The file is written whole or not at all. Raises OSError where the disk refuses.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tree(folder / STATE_FILE, self.take_state(), format=STATE_FORMAT, version=STATE_VERSION)

    def load(self, folder: str | Path) -> None:
        """Put back what :meth:`save` kept, into a strategy with the same settings and backbone.

        Random states are put back too. If it was saved within a task, ``train`` must be given that task's
        experience next: it goes on there.

        Raises:
            InputError: a missing, damaged or foreign file, or one that does not fit: the first difference is
                named, and nothing is changed.
        """
        path = Path(folder) / STATE_FILE
        state = read_tree(path, format=STATE_FORMAT, version=STATE_VERSION)
        try:
            self.put_state(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
