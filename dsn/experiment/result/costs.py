"""What a network costs: parameters, floating-point operations, time."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dsn.masking import MaskedModel
from dsn.masking.computes import weights_of
from dsn.masking.records import Lateral


@dataclass(frozen=True)
class Cost:
    """Of one sample: ``flops`` and ``seconds``, the median on this machine's CPU; ``bytes`` of the file."""

    parameters: int
    flops: int
    seconds: float
    bytes: int


def task_parameters(model: MaskedModel, task: int) -> int:
    """Numbers that the full network computes ``task`` with: layers, norms, head, and what laterals add."""
    layers = [p for _, layer in model.layer_modules() for p in layer.parameters()]
    tensors: list[Tensor] = [*layers, *model.own_parameters(task)]
    if model.edges is not None:  # in the place of the backbone's
        mine = model.edges.own_parameters(task)
        tensors = [t for t in tensors if not any(t is p for p in [*layers, *mine])]
        tensors += weights_of(model, task).values()
    laterals = [cast(Lateral, module) for module in model.lateral_heads(task)]
    for lateral in laterals:
        tensors += [lateral.scale, lateral.weight, lateral.bias]
    for source in {lateral.source_task for lateral in laterals} - {task}:
        tensors += [p for norm in model.norms() for p in norm.of(source).parameters()]
    return sum(tensor.numel() for tensor in tensors)


def flops(compute: Callable[[], Tensor]) -> int:
    """Floating-point operations of the matrix products and convolutions in a call, by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute()
    return counter.get_total_flops()


def interleaved(
    calls: Sequence[Callable[[], Tensor]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of each call; they take turns, so that a slow moment of the machine meets them all."""
    seconds: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for call in calls:
            call()
        for _ in range(rounds):
            for call, times in zip(calls, seconds, strict=True):
                began = clock()
                call()
                times.append(clock() - began)
    return [statistics.median(times) for times in seconds]
