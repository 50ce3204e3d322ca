"""Node-Path Balancing of one layer in closed form (Pham et al., NeurIPS 2023).

Given the paths p [d] that arrive at a layer's inputs, place m taps so as to maximise

    alpha * nodes / (n + d) + (1 - alpha) * paths / most + beta * kernels / m

where nodes are the inputs and neurons that have a tap (and a path to it), paths is the sum of p over the
taps, most its largest possible value, kernels those that are not empty; the scales are those of public
code for it. The paper solves it with a mixed-integer solver. Read input by input it is separable with falling
returns: an input's first tap is worth its paths, the node and the kernel; the next n - 1, each in another
kernel, its paths and the kernel; the others its paths alone. So taking the best m taps is optimal. Where they
go makes no difference to that; dealt to the neurons in a circle they reach as many neurons as there can be.

Shapes: n neurons, d inputs, k taps a kernel; paths [d]; a placement [n, d], taps a kernel.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]


def balance(
    log_paths: Numbers,
    n: int,
    taps: int,
    count: int,
    *,
    alpha: float,
    beta: float,
    random: np.random.Generator,
    credit_unreached: bool = False,
    all_inputs_below_one: bool = False,
    evenly: bool = True,
) -> Counts:
    """Taps a kernel, [n, d], of a layer that keeps ``count`` weights; ``log_paths`` [d], -inf for none.

    An input that no path reaches is worth nothing and taken last of all. Equal inputs share evenly.

    Args:
        credit_unreached: such an input counts as a node with kernels all the same.
        all_inputs_below_one: where the weights do not fill one input's kernels, measure paths against those
            of all inputs with full kernels.
        evenly: equal inputs share evenly, and neurons are shuffled; otherwise inputs are served one after the
            other, a solution of as high a value: a corner, as a solver gives it.
    """
    worth = relative(log_paths)
    node, path, kernel = weights(worth, n, taps, count, alpha=alpha, beta=beta)
    if all_inputs_below_one and count < n * taps:
        path = (1 - alpha) / max(worth.sum() * n * taps + count * worth.max(), np.finfo(float).tiny)
    reached = np.isfinite(log_paths) | credit_unreached
    first = np.where(reached, path * worth + node + kernel, -1.0)
    next_ones = np.where(reached, path * worth + kernel, -1.0)
    rest = np.where(reached, path * worth, -1.0)
    values = np.concatenate([first, next_ones, rest])
    rooms = np.repeat([1, n - 1, n * (taps - 1)], len(worth))
    chosen = _best(values, rooms, count, random, evenly).reshape(3, -1).sum(0)
    return _placed(chosen, n, random, evenly)


def relative(log_paths: Numbers) -> Numbers:
    """Paths over the largest of them, [d] in [0, 1]; all 0 where there is none."""
    top = log_paths.max(initial=-np.inf)
    return np.exp(log_paths - top) if np.isfinite(top) else np.zeros(len(log_paths))


def weights(
    worth: Numbers, n: int, taps: int, count: int, *, alpha: float, beta: float
) -> tuple[float, float, float]:
    """What a node, a path (relative to the largest input's) and a kernel count in the objective."""
    full, left = divmod(count, n * taps)
    ranked = np.append(np.sort(worth)[::-1], 0.0)
    most = ranked[:full].sum() * n * taps + left * ranked[min(full, len(worth))]
    return alpha / (n + len(worth)), (1 - alpha) / max(most, np.finfo(float).tiny), beta / max(count, 1)


def _best(values: Numbers, rooms: Counts, count: int, random: np.random.Generator, evenly: bool) -> Counts:
    """How many of each group to take, ``count`` in all, the most valuable first; equal ones ``evenly``."""
    taken = np.zeros(len(values), dtype=np.int64)
    scale = np.abs(values).max(initial=0.0) or 1.0
    order = np.argsort(-np.round(values / scale, 12), kind="stable")
    ranked = np.round(values / scale, 12)[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)) + 1, len(order))
    start = 0
    for end in ends:
        group = order[start:end]
        share = _level if evenly else _in_turn
        taken[group] = share(rooms[group], min(count, int(rooms[group].sum())), random)
        count -= int(taken[group].sum())
        start = end
        if not count:
            break
    return taken


def _level(rooms: Counts, count: int, random: np.random.Generator) -> Counts:
    """``count`` shared among groups as evenly as their ``rooms`` allow; the odd ones go to random groups."""
    if count >= rooms.sum():
        return rooms
    ranked = np.sort(rooms)
    below = np.concatenate([[0], np.cumsum(ranked)[:-1]])  # what the smaller groups hold in all
    filled = below + ranked * np.arange(
        len(ranked), 0, -1
    )  # in all, when everyone has as many as this group's room
    k = int(np.searchsorted(filled, count, side="right"))
    level = int((count - below[k]) // (len(ranked) - k))
    taken = np.minimum(rooms, level)
    more = random.permutation(np.flatnonzero(rooms > level))[: count - int(taken.sum())]
    taken[more] += 1
    return taken


def _in_turn(rooms: Counts, count: int, random: np.random.Generator) -> Counts:
    """``count`` shared among groups: each is filled before the next, in random order."""
    order = random.permutation(len(rooms))
    before = rooms[order].cumsum() - rooms[order]
    taken = np.zeros_like(rooms)
    taken[order] = np.clip(count - before, 0, rooms[order])
    return taken


def _placed(chosen: Counts, n: int, random: np.random.Generator, shuffled: bool) -> Counts:
    """Taps a kernel [n, d] with ``chosen`` [d] an input, dealt in a circle, ``shuffled`` or in order."""
    inputs = random.permutation(len(chosen)) if shuffled else np.arange(len(chosen))
    dealt = np.repeat(inputs, chosen[inputs])
    neurons = (random.permutation(n) if shuffled else np.arange(n))[np.arange(len(dealt)) % n]
    placed = np.zeros((n, len(chosen)), dtype=np.int64)
    np.add.at(placed, (neurons, dealt), 1)
    return placed
