"""Effective nodes, kernels, parameters and paths of a sparse network (Pham et al., NeurIPS 2023).

A *node* is a neuron or an input channel, a *kernel* the taps from one input to one neuron, a *path* a way
from the network's input to its output, one tap a layer. With T[l][j, i] the number of live taps from input i
to neuron j of layer l:

    P[0] = 1, P[l+1] = T[l] P[l];  Q[L] = 1, Q[l] = T[l]' Q[l+1];  paths = sum P[L];

a node is effective iff P > 0 and Q > 0, a kernel iff T > 0 and both its ends are effective. A residual sum
adds P and hands Q to both branches; concatenation concatenates; flatten repeats a channel's P. Norms and
activations count as identity, biases as 0.

Everything is a logarithm, so nothing overflows; -inf stands for 0 exactly, since nothing underflows either:
reachability is exact. Shapes: T [n, d]; log P and log Q [n] of neurons, [d] of a layer's inputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsn.errors import InputError

from .layers import weights_of
from .wiring import INPUT, OUTPUT, Stage, Wiring, find_wiring

SPREAD = 600.0  # numbers whose logarithms differ by less can be added up in float64 without underflow


class Taps(Protocol):
    """A layer as path counting sees it."""

    def forward(self, inputs: Tensor) -> Tensor:
        """log (T p) [n] for log p [d]."""

    def backward(self, outputs: Tensor) -> Tensor:
        """log (T' q) [d] for log q [n]."""

    def count(self, inputs: Tensor, outputs: Tensor) -> tuple[int, int]:
        """Live kernels and taps from the inputs bool [d] to the neurons bool [n]."""


class KernelTaps:
    """So many taps a kernel, [n, d]."""

    def __init__(self, counts: NDArray[np.int64] | Tensor) -> None:
        self.taps = torch.as_tensor(counts).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return _log_matmul(self.taps, inputs)

    def backward(self, outputs: Tensor) -> Tensor:
        return _log_matmul(self.taps.T, outputs)

    def count(self, inputs: Tensor, outputs: Tensor) -> tuple[int, int]:
        live = self.taps[outputs][:, inputs]
        return int(live.count_nonzero()), int(live.sum())


class WeightTaps(KernelTaps):
    """Taps as a mask of weights, bool [n, d, ...], leaves them."""

    def __init__(self, mask: Tensor) -> None:
        mask = mask.detach().cpu()
        super().__init__(mask.flatten(2).sum(2) if mask.dim() > 2 else mask)


@dataclass(frozen=True)
class LayerTopology:
    """Of one layer: all, live (left by the mask) and effective (on a path from input to output)."""

    neurons: int
    effective_neurons: int
    live_kernels: int
    effective_kernels: int
    live_parameters: int
    effective_parameters: int


@dataclass(frozen=True)
class Topology:
    """Of a whole network. ``nodes`` are its input channels and all neurons; parameters are weights."""

    nodes: int
    effective_nodes: int
    live_kernels: int
    effective_kernels: int
    live_parameters: int
    effective_parameters: int
    log10_paths: float | None
    """None where no path is left"""
    layers: dict[str, LayerTopology]

    @property
    def collapsed(self) -> list[str]:
        """Paths of the layers that no path goes through."""
        return [path for path, layer in self.layers.items() if layer.effective_neurons == 0]


@dataclass(frozen=True)
class Flow:
    """log P and log Q of the input's and each stage's neurons [n], log P of each stage's inputs [d]."""

    forward: dict[Stage, Tensor]
    backward: dict[Stage, Tensor]
    inputs: dict[Stage, Tensor]

    @property
    def log_paths(self) -> float:
        """The logarithm of the number of paths, -inf where there is none."""
        return float(self.inputs[OUTPUT].logsumexp(0))

    def effective(self, stage: Stage) -> Tensor:
        """Bool [n]: which neurons are on a path."""
        return self.forward[stage].isfinite() & self.backward[stage].isfinite()


def topology(network: nn.Module, masks: Mapping[str, Tensor], input_shape: Sequence[int]) -> Topology:
    """The measures of ``network`` with the weights that ``masks`` leave.

    Args:
        network: any module of Linear, Conv1d, Conv2d, norms and layers without parameters.
        masks: by layer path, bool in the shape of its weight; a layer without one counts as dense.
        input_shape: of one sample as the network takes it, [1, channels, ...] or [1, d].

    Raises:
        InputError: a mask for no layer or of another shape; branches that meet in a product.
    """
    return measure(find_wiring(network, input_shape), taps_of(network, masks))


def taps_of(network: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Taps]:
    """The taps of every Linear and Conv, by path.

    Raises InputError for a mask that fits none of them, or a grouped convolution.
    """
    weights = weights_of(network)
    for path, mask in masks.items():
        if path not in weights:
            raise InputError(f"mask of '{path}': no such layer; the layers are {', '.join(weights)}")
        if mask.shape != weights[path].shape:
            raise InputError(
                f"mask of '{path}' has shape {list(mask.shape)}, "
                f"its weight {list(weights[path].shape)}: make them the same"
            )
    dense = {path: torch.ones_like(weight, dtype=torch.bool) for path, weight in weights.items()}
    return {path: WeightTaps(masks.get(path, dense[path])) for path in weights}


def measure(wiring: Wiring, taps: Mapping[str, Taps]) -> Topology:
    """The measures of a network with this wiring and these taps a layer."""
    flow = count_paths(wiring, taps)
    layers = {path: _layer(path, wiring, taps[path], flow) for path, call in wiring.stages if call == 0}
    effective_inputs = int(flow.effective(INPUT).sum())

    def total(name: str) -> int:
        return sum(getattr(layer, name) for layer in layers.values())

    return Topology(
        nodes=wiring.widths[INPUT] + total("neurons"),
        effective_nodes=effective_inputs + total("effective_neurons"),
        live_kernels=total("live_kernels"),
        effective_kernels=total("effective_kernels"),
        live_parameters=total("live_parameters"),
        effective_parameters=total("effective_parameters"),
        log10_paths=as_log10(flow.log_paths),
        layers=layers,
    )


def count_paths(wiring: Wiring, taps: Mapping[str, Taps]) -> Flow:
    """P from the input on, Q from the output back."""
    forward = {INPUT: torch.zeros(wiring.widths[INPUT], dtype=torch.float64)}
    inputs: dict[Stage, Tensor] = {}
    for stage in wiring.stages:
        inputs[stage] = arriving(wiring, stage, forward)
        forward[stage] = taps[stage[0]].forward(inputs[stage])
    inputs[OUTPUT] = arriving(wiring, OUTPUT, forward)
    backward = {
        stage: torch.full((n,), -torch.inf, dtype=torch.float64) for stage, n in wiring.widths.items()
    }
    for stage in [OUTPUT, *reversed(wiring.stages)]:
        if stage == OUTPUT:
            felt = torch.zeros(wiring.inputs[OUTPUT], dtype=torch.float64)
        else:
            felt = taps[stage[0]].backward(backward[stage])
        for link in wiring.links[stage]:
            _add(backward[link.source], felt[link.columns], link.neurons, link.distinct_neurons)
    return Flow(forward, backward, inputs)


def arriving(wiring: Wiring, stage: Stage, forward: Mapping[Stage, Tensor]) -> Tensor:
    """log P [d] of the inputs of ``stage``, given log P [n] of the neurons before it."""
    total = torch.full((wiring.inputs[stage],), -torch.inf, dtype=torch.float64)
    for link in wiring.links[stage]:
        _add(total, forward[link.source][link.neurons], link.columns, link.distinct_columns)
    return total


def as_log10(log: float) -> float | None:
    """A natural logarithm as a decimal one; None for that of 0."""
    return None if log == -math.inf else log / math.log(10)


def _layer(path: str, wiring: Wiring, taps: Taps, flow: Flow) -> LayerTopology:
    """A layer that is called several times: neurons effective in any call, kernels of the call with most."""
    stages = [stage for stage in wiring.stages if stage[0] == path]
    neurons = torch.stack([flow.effective(stage) for stage in stages]).any(0)
    counts = [taps.count(flow.inputs[stage].isfinite(), flow.effective(stage)) for stage in stages]
    live = taps.count(torch.ones(wiring.inputs[stages[0]], dtype=torch.bool), torch.ones_like(neurons))
    kernels, parameters = max(counts)
    return LayerTopology(
        neurons=len(neurons),
        effective_neurons=int(neurons.sum()),
        live_kernels=live[0],
        effective_kernels=kernels,
        live_parameters=live[1],
        effective_parameters=parameters,
    )


def _log_matmul(taps: Tensor, logs: Tensor) -> Tensor:
    """log (T exp(x)) for T [n, d], x [d], whatever the size of the numbers."""
    finite = logs[logs.isfinite()]
    if not len(finite):
        return torch.full((len(taps),), -torch.inf, dtype=torch.float64)
    top = finite.max()
    if top - finite.min() < SPREAD:
        return (taps @ (logs - top).exp()).log() + top
    return (taps.log() + logs).logsumexp(1)


def _add(total: Tensor, moved: Tensor, target: Tensor, distinct: bool) -> None:
    """Add in place, in logarithms: ``moved[i]`` goes to ``total[target[i]]``; ``distinct``: no two meet."""
    if distinct:
        total[target] = torch.logaddexp(total[target], moved)
        return
    top = torch.full_like(total, -torch.inf).scatter_reduce(0, target, moved, "amax")
    safe = top.nan_to_num(neginf=0.0)
    added = torch.zeros_like(total).index_add(0, target, (moved - safe[target]).exp()).log() + safe
    total.copy_(torch.logaddexp(total, added))
