"""What a run says of a task's topology: a line with ``--verbose``, a warning where a layer has no room."""

from typing import Any

from rich.console import Console

from dsn.errors import InputError
from dsn.masking import MaskedModel
from dsn.topology.tasks import TaskTopology, task_topology

from ..base.console import say


class TopologyLines:
    """Call it after each task; it does nothing for a ``model`` without masks over neurons."""

    def __init__(self, console: Console, model: Any, verbose: bool) -> None:
        self.console, self.verbose = console, verbose
        self.model = model if isinstance(model, MaskedModel) else None

    def __call__(self) -> None:
        if self.model is None:
            return
        task = self.model.committed[-1]
        try:
            topology = task_topology(self.model, task)
        except InputError as error:
            self._say(f"topology is not measured: {error}")
            self.model = None
            return
        if self.verbose:
            self._say(f"  {described(topology)}")
        for line in warnings_of(topology):
            self._say(f"warning: task {task}: {line}")

    def _say(self, line: str) -> None:
        say(self.console, line)


def described(topology: TaskTopology) -> str:
    """One line: nodes, paths, what of them is frozen and free, and the narrowest layer."""
    paths = "no path" if topology.log10_paths is None else f"10^{topology.log10_paths:.1f} paths"
    best = balance(topology)
    shares = {"frozen": topology.frozen_paths, "free": topology.free_paths}
    parts = [f"{share:.1%} {name} throughout" for name, share in shares.items() if share is not None]
    narrowest = f"narrowest '{topology.narrowest_layer}' with {topology.narrowest_neurons}"
    plastic = f"{sum(topology.plastic_edges.values())} plastic edges"
    nodes = f"{topology.effective_nodes} effective nodes"
    return ", ".join([nodes, paths, *([best] if best else []), *parts, plastic, narrowest])


def balance(topology: TaskTopology) -> str:
    """Nodes and paths beside the most that its weights a layer allow; empty where a file does not say."""
    if topology.most_nodes is None or topology.log10_paths is None or topology.most_log10_paths is None:
        return ""
    return (
        f"balance {topology.effective_nodes} of at most {topology.most_nodes} nodes and "
        f"10^{topology.log10_paths:.1f} of at most 10^{topology.most_log10_paths:.1f} paths"
    )


def warnings_of(topology: TaskTopology) -> list[str]:
    """A sentence each where layers have collapsed or are saturated, with their names and what helps."""
    lines = []
    if topology.collapsed:
        lines.append(
            f"collapsed in {_names(topology.collapsed)}, with one active neuron or none on a path; "
            "a lower selection.sparsity or a higher selection.logit_mean keeps more"
        )
    if topology.saturated:
        lines.append(
            f"saturated in {_names(topology.saturated)}, where no free neuron is left; "
            "later tasks only reuse there, unless selection.budget, sparsity or growth leaves room"
        )
    return lines


def _names(paths: list[str]) -> str:
    return ", ".join(f"'{path}'" for path in paths)
