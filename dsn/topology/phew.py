"""PHEW, paths with higher edge weights (Patil and Dovrolis, ICML 2021): random walks along large weights.

A walk enters at an input or, backwards, at an output, in turn, and leaves a unit by a kernel with probability
in proportion to the sum of its |w|, and along one of its taps in proportion to |w|. The weights walked on
stay. Where layers meet in a sum a walk passes every layer on its way, as in the authors' code: it takes an
identity shortcut never, a shortcut with weights every other time.

Shapes: W [n, d, ...] of n neurons and d inputs, k taps a kernel; walkers [m].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .layers import Masks, budget_of, weights_of
from .wiring import INPUT, OUTPUT, Stage, Wiring, find_wiring

Indices = NDArray[np.int64]
Numbers = NDArray[np.float64]
Links = list[tuple[Stage, Indices, Indices]]
"""where a unit leads to: a stage, units sorted [k], and what each of them meets there [k]"""
WALKERS = 128  # that go at once, in each direction
LEAST = 0.001  # of the budget: where all walkers together add less, the largest weights fill up


def phew(
    network: nn.Module,
    density: float,
    *,
    input_shape: Sequence[int],
    random: np.random.Generator,
    **_unused: Any,
) -> Masks:
    """Walks, forwards and backwards by turns, until the share ``density`` of the weights is walked on.

    High densities need weights that hardly any walk finds; there the largest of the others fill up.
    """
    weights = {path: weight.detach().cpu().abs().double() for path, weight in weights_of(network).items()}
    budget = budget_of({path: weight.shape for path, weight in weights.items()}, density)
    walks = _Walks(find_wiring(network, input_shape), {p: w.numpy() for p, w in weights.items()})
    sizes = np.array([weight.numel() for weight in weights.values()])
    kept = np.zeros(sizes.sum(), dtype=bool)
    begun, added = 0, budget
    while (left := budget - int(kept.sum())) and added >= LEAST * budget:
        ways = [walks.go(begun, forwards, random) for forwards in (True, False)]
        steps = np.stack(ways, axis=1).reshape(-1, ways[0].shape[1])  # by turns
        found, first = np.unique(steps[steps >= 0], return_index=True)
        new = found[~kept[found]][first[~kept[found]].argsort()]
        kept[new[:left]] = True
        begun, added = begun + WALKERS, len(new)
    size = np.concatenate([weight.numpy().ravel() for weight in weights.values()])
    kept[np.where(kept, -1.0, size).argsort()[::-1][:left]] = True
    parts = np.split(kept, sizes.cumsum()[:-1])
    return {
        path: torch.from_numpy(part).view(weight.shape)
        for (path, weight), part in zip(weights.items(), parts, strict=True)
    }


class _Walks:
    """Walks over |W| [n, d, k], by path, in a network of this wiring."""

    def __init__(self, wiring: Wiring, sizes: Mapping[str, Numbers]) -> None:
        self.wiring = wiring
        sizes = {path: np.maximum(w, np.finfo(float).tiny) for path, w in _three(sizes).items()}
        self.taps = {path: w.cumsum(2) for path, w in sizes.items()}
        self.to_neurons = {path: w.sum(2).cumsum(0) for path, w in sizes.items()}
        self.to_inputs = {path: w.sum(2).cumsum(1).T for path, w in sizes.items()}
        starts = np.cumsum([0, *(w.size for w in sizes.values())])
        self.starts = dict(zip(sizes, starts.tolist(), strict=False))
        self.onwards, self.back = _nearest(wiring)

    def go(self, begun: int, forwards: bool, random: np.random.Generator) -> Indices:
        """Indices of the weights that each walk takes, [walkers, stages]; -1 where it passes none."""
        wiring, steps = self.wiring, np.full((WALKERS, len(self.wiring.stages)), -1)
        waiting: dict[Stage, list[tuple[Indices, Indices]]] = {
            stage: [] for stage in [INPUT, *wiring.stages, OUTPUT]
        }
        begin, width = (INPUT, wiring.widths[INPUT]) if forwards else (OUTPUT, wiring.inputs[OUTPUT])
        everyone = np.arange(WALKERS)
        links = self.onwards if forwards else self.back
        _send(links[begin], everyone, (begun + everyone) % width, waiting, random)
        order = list(enumerate(wiring.stages))
        for place, stage in order if forwards else reversed(order):
            for walkers, arrived in waiting[stage]:
                left, index = self._step(stage[0], arrived, forwards, random)
                steps[walkers, place] = index
                _send(links[stage], walkers, left, waiting, random)
        return steps

    def _step(
        self, path: str, arrived: Indices, forwards: bool, random: np.random.Generator
    ) -> tuple[Indices, Indices]:
        """From units ``arrived`` [m] through a layer: the units that are reached, the weights' indices."""
        there = _draw((self.to_neurons if forwards else self.to_inputs)[path][:, arrived], random)
        neurons, inputs = (there, arrived) if forwards else (arrived, there)
        _, d, k = self.taps[path].shape
        tap = _draw(self.taps[path][neurons, inputs].T, random)
        return there, self.starts[path] + (neurons * d + inputs) * k + tap


def _three(sizes: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """With a last axis of one tap where there is none."""
    return {path: w.reshape(*w.shape[:2], -1) for path, w in sizes.items()}


def _draw(cumulated: Numbers, random: np.random.Generator) -> Indices:
    """An index [m] each by what is ``cumulated`` [choices, m] along the first axis."""
    mark = random.random(cumulated.shape[1]) * cumulated[-1]
    return np.minimum((cumulated <= mark).sum(0), len(cumulated) - 1)


def _send(
    links: Links,
    walkers: Indices,
    units: Indices,
    waiting: Mapping[Stage, list[tuple[Indices, Indices]]],
    random: np.random.Generator,
) -> None:
    """Send each walker [m] from its unit [m] along one of ``links``; who finds none ends there."""
    which = random.integers(len(links), size=len(walkers)) if links else np.full(len(walkers), -1)
    for number, (stage, keys, met) in enumerate(links):
        chosen = which == number
        low = np.searchsorted(keys, units[chosen], "left")
        high = np.searchsorted(keys, units[chosen], "right")
        place = low + (random.random(len(low)) * (high - low)).astype(np.int64)
        going = high > low
        waiting[stage].append((walkers[chosen][going], met[place[going]]))


def _nearest(wiring: Wiring) -> tuple[dict[Stage, Links], dict[Stage, Links]]:
    """For each stage what its neurons lead to, and what leads to its inputs, but not past other layers."""
    stages = [INPUT, *wiring.stages, OUTPUT]
    sources = {stage: {link.source for link in wiring.links.get(stage, [])} for stage in stages}
    before: dict[Stage, set[Stage]] = {}  # all that leads to a stage, by whatever way
    for stage in stages:
        before[stage] = sources[stage].union(*(before[source] for source in sources[stage]))
    onwards: dict[Stage, Links] = {stage: [] for stage in stages}
    back: dict[Stage, Links] = {stage: [] for stage in stages}
    for stage in stages:
        for link in wiring.links.get(stage, []):
            neurons, columns = link.neurons.numpy(), link.columns.numpy()
            readers = {reader for reader in stages if link.source in sources[reader]}
            if not any(reader in before[stage] for reader in readers):
                order = neurons.argsort(kind="stable")
                onwards[link.source].append((stage, neurons[order], columns[order]))
            if not any(link.source in before[source] for source in sources[stage]):
                order = columns.argsort(kind="stable")
                back[stage].append((link.source, columns[order], neurons[order]))
    return onwards, back
