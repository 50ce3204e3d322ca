"""Avalanche's hooks of one iteration, called only where a plugin, metric or logger does something there.

Avalanche looks every hook up on every plugin in every iteration, and its evaluator copies the experience for
each; most of these calls end in an empty method of a base class. Which do not is found out once an epoch.
"""

from collections.abc import Callable
from typing import Any

from avalanche.core import BaseSGDPlugin, SupervisedPlugin
from avalanche.evaluation import PluginMetric
from avalanche.training.plugins import EvaluationPlugin

from .shards import ShardedUpdate

PARTS = ("training_iteration", "forward", "backward", "update", "eval_iteration", "eval_forward")
EVENTS = tuple(f"{when}_{part}" for part in PARTS for when in ("before", "after"))

_EMPTY = {getattr(base, e, None) for base in (BaseSGDPlugin, SupervisedPlugin, PluginMetric) for e in EVENTS}


class IterationHooks(ShardedUpdate):
    """The same hooks in the same order, without the empty ones."""

    _iteration_hooks: dict[str, list[Callable[..., Any]]]

    def training_epoch(self, **kwargs: Any) -> None:
        """Avalanche's."""
        self._look_for_hooks()
        super().training_epoch(**kwargs)

    def eval_epoch(self, **kwargs: Any) -> None:
        """Avalanche's."""
        self._look_for_hooks()
        super().eval_epoch(**kwargs)

    def _look_for_hooks(self) -> None:
        hooks = {event: [_hook(plugin, event) for plugin in self.plugins] for event in EVENTS}
        self._iteration_hooks = {event: [h for h in found if h is not None] for event, found in hooks.items()}


def _trigger(event: str) -> Callable[..., None]:
    def trigger(self: IterationHooks, **kwargs: Any) -> None:
        for hook in self._iteration_hooks[event]:
            hook(self, **kwargs)

    return trigger


for _event in EVENTS:
    setattr(IterationHooks, f"_{_event}", _trigger(_event))


def _hook(plugin: Any, event: str) -> Callable[..., Any] | None:
    """What ``plugin`` does at ``event``, or None."""
    if type(plugin) is not EvaluationPlugin:
        return getattr(plugin, event) if acts(plugin, event) else None
    if any(acts(listener, event) for listener in (*plugin.metrics, *plugin.loggers)):
        return getattr(plugin, event)

    def hand_on(strategy: Any, **_kwargs: Any) -> None:
        if plugin._metric_values:  # another plugin has published some: the loggers get them now
            plugin._update_metrics_and_loggers(strategy, event)

    return hand_on


def acts(listener: Any, event: str) -> bool:
    """Whether ``listener`` does anything at ``event``."""
    own = event in getattr(listener, "__dict__", {})
    return own or (hasattr(listener, event) and getattr(type(listener), event, None) not in _EMPTY)
