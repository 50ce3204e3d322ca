"""Pruners at initialisation behind one signature, ``masks = pruner(network, density, ...)``.

Data-agnostic: ``random``, ``uniform``, ``regular``, ``narrow``, ``synflow``, ``phew``, ``npb``, without its
repair ``npb_forward``, as its authors have it ``npb_paper``. Data-driven: ``snip``, ``iterative_snip``,
``grasp``, and ``magnitude`` of whatever weights the network has, so of trained ones once it is trained.

Shapes: masks bool in the shape of each layer's weight, by layer path; x [n, ...], y [n] int64.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from dsn.errors import InputError

from .layers import Masks, densities, narrow, regular, same_density, shapes_of
from .npb import npb
from .paper import npb_paper
from .phew import phew
from .scores import Samples, grasp, iterative_snip, largest, magnitude, snip, synflow
from .wiring import find_wiring


class Pruner(Protocol):
    """``network`` is left as it is; ``input_shape`` is that of one sample, [1, ...]."""

    def __call__(
        self,
        network: nn.Module,
        density: float,
        *,
        input_shape: Sequence[int],
        samples: Samples | None,
        random: np.random.Generator,
    ) -> Masks: ...


def prune(
    network: nn.Module,
    density: float,
    pruner: str = "npb",
    *,
    input_shape: Sequence[int],
    samples: Samples | None = None,
    seed: int = 0,
    **options: Any,
) -> Masks:
    """Masks, by layer path, that keep the share ``density`` of the weights of all Linear and Conv layers.

    Args:
        pruner: a name in :data:`PRUNERS`.
        input_shape: of one sample as the network takes it, [1, channels, ...] or [1, d].
        samples: labelled x [n, ...], y [n], for data-driven pruners alone.
        options: of the pruner: ``alpha``, ``beta``, ``repair`` of npb, ``rounds`` of synflow, iterative_snip.

    Raises:
        InputError: an unknown pruner, a density outside (0, 1], no samples where they are needed, a grouped
            convolution, or, for a pruner that counts paths, a density at which none survives.
    """
    if pruner not in PRUNERS:
        raise InputError(f"unknown pruner {pruner!r}, known are {', '.join(PRUNERS)}")
    if not 0 < density <= 1:
        raise InputError(f"density {density}: must be above 0 and at most 1")
    random = np.random.default_rng(seed)
    return PRUNERS[pruner](
        network, density, input_shape=input_shape, samples=samples, random=random, **options
    )


def random_weights(
    network: nn.Module, density: float, *, random: np.random.Generator, **_unused: Any
) -> Masks:
    """Random weights, each layer at its Erdős-Rényi-kernel (ERK) density (Evci et al. 2020).

    Stronger than :func:`uniform_weights`, which is what Pham et al. call random.
    """
    shapes = shapes_of(network)
    return _drawn(shapes, densities(shapes, density), random)


def uniform_weights(
    network: nn.Module, density: float, *, random: np.random.Generator, **_unused: Any
) -> Masks:
    """Random weights, each layer at the same density: the "random" of SynFlow's and Pham et al.'s tables."""
    shapes = shapes_of(network)
    return _drawn(shapes, same_density(shapes, density), random)


def _drawn(shapes: Mapping[str, torch.Size], counts: Mapping[str, int], random: np.random.Generator) -> Masks:
    return {p: largest(torch.from_numpy(random.random(s)), counts[p]) for p, s in shapes.items()}


def degree_regular(
    network: nn.Module, density: float, *, random: np.random.Generator, **_unused: Any
) -> Masks:
    """The same densities; every neuron of a layer has as many taps, up to one, and every input too."""
    shapes = shapes_of(network)
    counts = densities(shapes, density)
    return {path: regular(shape, counts[path], random) for path, shape in shapes.items()}


def narrow_and_dense(
    network: nn.Module, density: float, *, input_shape: Sequence[int], **_unused: Any
) -> Masks:
    """Neuron-wise: the same share of every layer's neurons, all weights between them (``layers.narrow``)."""
    return narrow(shapes_of(network), find_wiring(network, input_shape), density)


PRUNERS: dict[str, Pruner] = {
    "random": random_weights,
    "uniform": uniform_weights,
    "regular": degree_regular,
    "narrow": narrow_and_dense,
    "synflow": synflow,
    "npb": npb,
    "npb_forward": partial(npb, repair=False),
    "npb_paper": npb_paper,
    "phew": phew,
    "snip": snip,
    "iterative_snip": iterative_snip,
    "grasp": grasp,
    "magnitude": magnitude,
}
"""By name. ``snip``, ``iterative_snip`` and ``grasp`` need samples, ``magnitude`` a trained network."""
