"""How everything was before a task, to go back to where its training does not come to its end."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..storage import Tree
from .groups import options_of
from .state import copied

if TYPE_CHECKING:
    from .strategy import DSN


class Beginning:
    """The state of ``strategy`` before ``task`` is added.

    ``loaded``: the state within the task that was put into the strategy, where training goes on from one.
    """

    def __init__(self, strategy: "DSN", task: int, loaded: Mapping[str, Tree] | None = None) -> None:
        self.task = task
        self._loaded = loaded
        if loaded is None:
            self._model = copied(strategy.model.state_dict())
            self._options = options_of(strategy.optimizer)

    def restore(self, strategy: "DSN") -> None:
        """Drop the half-learnt task; the network is then as it was before it."""
        if self._loaded is not None:
            strategy.put_state(self._loaded)
            return
        warnings.warn(
            f"the training of task {self.task} did not come to its end: the task is dropped, and the network "
            "is as it was before it",
            stacklevel=3,
        )
        model = strategy.model
        model.load_state_dict(self._model)
        model.dense = False
        model.select(None)
        strategy.groups.put_options(self._options)
        strategy.phase, strategy.resumed = None, None
