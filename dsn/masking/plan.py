"""How many fresh neurons each of a planned number of tasks may take: equal shares of the network's edges.

With edges (``edges``) a weight learns with its neuron alone, so the tasks share neurons evenly.

A weight learns in one task alone, the first that uses both its ends. Without a plan the first tasks take
what they like and later ones are left with little, or the price of neurons starves them all. With it, the
used neurons keep at most (t + 1) / T of the network's edges once task t of T is learnt, so each task has as
many plastic ones, about: in a chain of wide layers the used neurons grow as sqrt((t + 1) / T). Of an input
that is live whatever is masked (the network's own, one behind a free norm) a used neuron keeps the weight in
any case: such edges grow with the share c of used neurons, the others with c^2.

Shapes: widths are neurons a layer, by path.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError
from .initial import Fans, Widths, edges, edges_each, fans_of
from .reach import map_of
from .structure import Structure


def planned_widths(
    sizes: Widths, fans: Fans, task: int, tasks: int, always: Mapping[str, float] | None = None
) -> Widths:
    """The same share c of each layer, so that c * ``sizes`` keep (task + 1) / tasks of all edges.

    ``task`` counts from 0; from task ``tasks`` - 1 on it is the whole network. ``always``: the share of its
    inputs that is live whatever is masked, by layer; by default all of the first layer's, and none of others.
    """
    if task + 1 >= tasks:
        return dict(sizes)
    given = always or {path: float(place == 0) for place, path in enumerate(sizes)}

    def kept(share: float) -> float:
        """Edges that ``share`` of every layer's neurons keep."""
        linear = edges_each({path: share * n for path, n in sizes.items()}, fans, sizes)
        return sum(count * (given[path] + (1 - given[path]) * share) for path, count in linear.items())

    wanted = edges(sizes, fans) * (task + 1) / tasks
    share, step = 0.0, 0.5
    while step > 1e-9:  # edges grow with the share: bisection
        if kept(share + step) <= wanted:
            share += step
        step /= 2
    return {path: max(1, round(share * n)) for path, n in sizes.items()}


def always_live(model: Structure) -> dict[str, float]:
    """The share of each layer's inputs that is live whatever is masked."""
    always = map_of(model).always
    return {path: float(always[path].float().mean()) for path in model.layers}


def fresh_neurons(model: Structure, tasks: int) -> dict[str, int]:
    """At most how many free neurons of each layer the next task may select, of ``tasks`` planned.

    Raises InputError for fewer than one task.
    """
    if tasks < 1:
        raise InputError(f"planned_tasks is {tasks}: plan for at least 1 task")
    if model.pretrained:  # each fresh neuron reads and writes what is there: edges grow with their number
        share = min((len(model.committed) + 1) / tasks, 1.0)
        fresh = {path: round(model.fresh.get(path, 0) * share) for path in model.layers}
        widths = {path: n - model.fresh.get(path, 0) + fresh[path] for path, n in model.layers.items()}
    else:
        done = len(model.committed)
        widths = planned_widths(model.layers, fans_of(model), done, tasks, always_live(model))
    return {path: max(0, widths[path] - int(used.sum())) for path, used in model.used().items()}


def owned_neurons(model: Structure, tasks: int) -> dict[str, int]:
    """How many free neurons of each layer the next of ``tasks`` planned tasks owns, with edges.

    round(n (t + 1) / T), less those that are owned; from task T on, whatever is free. Raises InputError for
    fewer than one task.
    """
    if tasks < 1:
        raise InputError(f"planned_tasks is {tasks}: plan for at least 1 task")
    share = min((len(model.committed) + 1) / tasks, 1.0)
    return {path: max(0, round(len(u) * share) - int(u.sum())) for path, u in model.used().items()}
