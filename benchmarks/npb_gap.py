"""How far Node-Path Balancing lies below the best mask of a small network: ``python -m benchmarks.npb_gap``.

The objective is that of one layer (dsn/topology/balancing.py) read over the whole network:

    alpha * effective nodes / nodes + (1 - alpha) * paths / most + beta * effective kernels / weights

with ``most`` the largest number of paths of any mask that keeps as many weights in every layer. All of these
masks are tried. Shapes: masks of a layer [B, n, d], one a combination; nodes, paths, kernels [B].
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb, prod

import numpy as np
import torch
from numpy.typing import NDArray

from dsn.topology.npb import ROUNDS, balanced
from dsn.topology.wiring import INPUT, OUTPUT, Wire, Wiring

Numbers = NDArray[np.float64]
COMBINATIONS = 60_000  # of a network at most
NETWORKS = 300
SETTINGS = ((0.01, 1.0), (0.0, 0.0), (0.3, 0.0), (0.7, 1.0), (1.0, 0.0))  # alpha, beta


def chain(widths: Sequence[int]) -> Wiring:
    """The wiring of fully connected layers, ``widths`` from the input to the output."""
    stages = [(str(layer), 0) for layer in range(len(widths) - 1)]
    neurons = [torch.arange(width) for width in widths]
    sources = zip([*stages, OUTPUT], [INPUT, *stages], neurons, strict=True)
    return Wiring(
        stages=stages,
        widths=dict(zip([INPUT, *stages], widths, strict=True)),
        inputs=dict(zip([*stages, OUTPUT], widths, strict=True)),
        links={stage: [Wire(source, these, these)] for stage, source, these in sources},
    )


def measured(layers: Sequence[Numbers]) -> tuple[Numbers, Numbers, Numbers]:
    """Effective nodes, paths and effective kernels [B] of the masks [B, n, d] of each layer."""
    forward = [np.ones((len(layers[0]), layers[0].shape[2]))]
    for layer in layers:
        forward.append(np.einsum("bnd,bd->bn", layer, forward[-1]))
    backward = [np.ones_like(forward[-1])]
    for layer in reversed(layers):
        backward.append(np.einsum("bnd,bn->bd", layer, backward[-1]))
    both = [(p > 0) & (q > 0) for p, q in zip(forward, reversed(backward), strict=True)]
    nodes = np.sum([on.sum(1) for on in both], axis=0)
    ends = zip(layers, both, both[1:], strict=False)
    kernels = np.sum([(t * i[:, None, :] * o[:, :, None]).sum((1, 2)) for t, i, o in ends], axis=0)
    return nodes, forward[-1].sum(1), kernels


def every_mask(widths: Sequence[int], counts: Sequence[int]) -> list[Numbers]:
    """Of each layer, [B, n, d]: all combinations of masks with ``counts`` weights a layer."""
    sets = []
    for n, d, count in zip(widths[1:], widths, counts, strict=False):
        masks = np.zeros((comb(n * d, count), n * d))
        for mask, kept in zip(masks, combinations(range(n * d), count), strict=True):
            mask[list(kept)] = 1
        sets.append(masks.reshape(-1, n, d))
    chosen = np.indices([len(masks) for masks in sets]).reshape(len(sets), -1)
    return [masks[which] for masks, which in zip(sets, chosen, strict=True)]


def shares(
    widths: Sequence[int], counts: Sequence[int], alpha: float, beta: float, seed: int
) -> tuple[float, float]:
    """What one pass forwards and what the repaired masks reach of the best objective, in [0, 1]."""
    nodes, paths, kernels = measured(every_mask(widths, counts))
    scales = alpha / sum(widths), (1 - alpha) / max(paths.max(), 1), beta / sum(counts)
    best = (scales[0] * nodes + scales[1] * paths + scales[2] * kernels).max()
    shapes = {str(i): torch.Size((widths[i + 1], widths[i])) for i in range(len(counts))}
    found: list[float] = []
    for rounds in (0, ROUNDS):
        random = np.random.default_rng(seed)
        kept = {str(i): count for i, count in enumerate(counts)}
        layers = balanced(shapes, chain(widths), kept, random, alpha, beta, rounds, refuse=False)
        own = measured([layer[None].astype(float) for layer in layers.values()])
        found.append(float(sum(scale * value[0] for scale, value in zip(scales, own, strict=True)) / best))
    return found[0], found[1]


def networks(number: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Widths and weights a layer of random networks with few enough masks."""
    random = np.random.default_rng(seed)
    found: list[tuple[list[int], list[int]]] = []
    while len(found) < number:
        widths = random.integers(1, 5, random.integers(3, 5)).tolist()
        sizes = [n * d for n, d in zip(widths[1:], widths, strict=False)]
        counts = [int(random.integers(1, size + 1)) for size in sizes]
        if prod(comb(size, count) for size, count in zip(sizes, counts, strict=True)) <= COMBINATIONS:
            found.append((widths, counts))
    return found


def main() -> None:
    """Print a row a setting."""
    print("| alpha | beta | mean gap, % | repaired | best found, % of networks | repaired | worst gap, % |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    drawn = networks(NETWORKS, seed=0)
    for alpha, beta in SETTINGS:
        found = np.array([shares(*net, alpha, beta, seed) for seed, net in enumerate(drawn)])
        gaps, exact = 100 * (1 - found.mean(0)), 100 * (found > 1 - 1e-9).mean(0)
        worst = 100 * (1 - found[:, 1].min())
        print(
            f"| {alpha:g} | {beta:g} | {gaps[0]:.1f} | {gaps[1]:.1f} | {exact[0]:.0f} | {exact[1]:.0f} "
            f"| {worst:.0f} |"
        )


if __name__ == "__main__":
    main()
