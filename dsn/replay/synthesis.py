"""Impressions of a committed task: inputs made from the model alone that it takes for its training data.

Shapes: x [n, ...] as the model takes it; targets [n, C]; labels [n]. Source: Gao et al. 2023, section on
data-free replay; METHOD.md, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..masking import MaskedModel
from ..masking.layers import evaluating
from .allocation import allocate
from .compact import compact_pass
from .generators import GENERATORS, Loss, Setting
from .soft_targets import soft_targets
from .starts import Range, best_noise, noise

SETTLING = 0.2  # share of the steps, at the end, without jitter and flips
LAST_RATE = 0.001  # of the learning rate, at the last step


@dataclass(frozen=True)
class Impressions:
    """x [n, ...] of the model's dtype, soft targets [n, C] float32, labels [n]; on the model's device."""

    x: Tensor
    targets: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.x)


def synthesise(
    model: MaskedModel,
    task: int,
    images: int,
    *,
    generator: str = "statistics",
    steps: int = 150,
    lr: float = 0.1,
    temperature: float = 2.0,
    beta: float = 1.0,
    statistics_weight: float = 1.0,
    tv_weight: float = 0.1,
    jitter: int = 1,
    flip: bool = False,
    pixel_range: Range | None = None,
    batch_size: int = 100,
    seed: int = 0,
) -> Impressions:
    """Make ``images`` impressions of a committed task, all classes at once, in a random order.

    x starts as noise (``starts.best_noise``) and is optimised with Adam; the committed mask and evaluation
    mode throughout. The model is as before afterwards: weights, gradients, what takes a gradient, modes. No
    global random state is read or changed. Classes that the task found hard get more: see
    :func:`dsn.replay.allocate`, with ``model.record(task).get("class_accuracy")``.

    Args:
        generator: a name in ``dsn.replay.GENERATORS``.
        steps, lr: of Adam; the rate falls to nearly 0 along a cosine.
        temperature: tau, divides the logits.
        beta: scale of the targets' Dirichlet concentration.
        statistics_weight, tv_weight, jitter, flip: of the statistics generator; the last three for images
            alone, left out for other inputs. ``jitter`` in pixels, small beside the image;
            ``flip`` only where a mirrored image keeps its class.
        pixel_range: lowest and highest values, e.g. of normalised pixels: numbers, one a channel [channels],
            or anything that broadcasts to one input. None: no limits.
        batch_size: impressions optimised at once, of all classes mixed.
        seed: the same one gives the same impressions.

    A head with one class: its targets are ones; see :func:`dsn.replay.generators.inversion`.

    Raises:
        InputError: a task without committed mask; an unknown generator, or what the generator refuses; fewer
            images than classes; a pixel range of the wrong shape or order; logits that do not depend on the
            input (a layer without neurons); values that are not finite.
    """
    model.masks(task)
    _refuse_bad_settings(generator, steps, lr, temperature, beta, batch_size)
    random = torch.Generator().manual_seed(seed)
    head = cast(nn.Linear, model.heads[str(task)]).weight
    counts = allocate(images, head.shape[0], model.record(task).get("class_accuracy"))
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    labels = labels[torch.randperm(images, generator=random)]
    targets = soft_targets(head.float(), labels, beta=beta, random=random).to(model.device)
    limits = None if pixel_range is None else _as_limits(pixel_range, model)
    with _undisturbed(model), ExitStack() as observers:
        _refuse_dead_input(model, task, random)
        trial = noise((8, *model.input_shape[1:]), 0, random).to(model.device, model.dtype)
        compact = compact_pass(model, task, trial)
        run = compact or (lambda x: model(x, task))
        rows = compact.rows if compact else None
        setting = Setting(
            model=model,
            task=task,
            temperature=temperature,
            statistics_weight=statistics_weight,
            tv_weight=tv_weight,
            jitter=jitter,
            flip=flip,
            random=random,
            run=run,
            rows=rows,
            observe=observers.enter_context,
        )
        loss = GENERATORS[generator](setting)
        parts = []
        for o in targets.split(batch_size):
            start = best_noise(run, model, o, temperature, limits, random)
            parts.append(_optimise(start, o, loss, steps, lr, limits))
    x = torch.cat(parts)
    if not bool(x.isfinite().all()):
        raise InputError(
            f"task {task}: the impressions are not finite; lower lr, or look for such values in the weights"
        )
    return Impressions(x.to(model.dtype), targets, labels.to(model.device))


def _optimise(
    start: Tensor, targets: Tensor, loss: Loss, steps: int, lr: float, limits: Range | None
) -> Tensor:
    """Adam on x [batch, ...] from ``start``, clamped to ``limits`` after each step."""
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=lr)
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * _cosine(step / steps)
        (x.grad,) = torch.autograd.grad(loss(x, targets, step >= (1 - SETTLING) * steps), x)
        adam.step()
        if limits is not None:
            with torch.no_grad():
                x.clamp_(*limits)
    return x.detach()


def _cosine(progress: float) -> float:
    """From 1 to LAST_RATE."""
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def _as_limits(pixel_range: Range, model: MaskedModel) -> Range:
    """The two limits, each broadcast to one input."""
    shape = torch.Size(model.input_shape[1:])
    limits = []
    for value in pixel_range:
        limit = torch.as_tensor(value, dtype=torch.float32)
        if limit.dim() == 1 and len(shape) == 3:
            limit = limit[:, None, None]
        try:
            limits.append(limit.to(model.device).broadcast_to(shape))
        except RuntimeError:
            raise InputError(
                f"pixel_range holds a tensor of shape {tuple(torch.as_tensor(value).shape)}, but an input "
                f"has shape {tuple(shape)}: give a number, one a channel, or that shape"
            ) from None
    low, high = limits
    if not bool((low < high).all()):
        raise InputError("pixel_range: every lowest value must be below the highest one, and none be nan")
    return low, high


def _refuse_bad_settings(
    generator: str, steps: int, lr: float, temperature: float, beta: float, batch_size: int
) -> None:
    if generator not in GENERATORS:
        raise InputError(f"generator is '{generator}': choose one of {', '.join(GENERATORS)}")
    for name, count in {"steps": steps, "batch_size": batch_size}.items():
        if count < 1:
            raise InputError(f"{name} is {count}: give at least 1")
    for name, value in {"lr": lr, "temperature": temperature, "beta": beta}.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value}: give a positive number")


def _refuse_dead_input(model: MaskedModel, task: int, random: torch.Generator) -> None:
    x = noise((32, *model.input_shape[1:]), 0, random).to(model.device).requires_grad_()
    (slope,) = torch.autograd.grad(
        model(x.to(model.dtype), task).float().square().sum(), x, allow_unused=True
    )
    if slope is None or not bool(slope.any()):
        empty = [path for path, mask in model.open_neurons(task).items() if not bool(mask.any())]
        why = f"its mask has no neuron in {', '.join(empty)}" if empty else "its activations are all 0"
        raise InputError(f"task {task}: its logits do not depend on the input, since {why}; learn it again")


@contextmanager
def _undisturbed(model: MaskedModel) -> Iterator[None]:
    """Evaluation mode without weight gradients; all that the model was is put back at the end.

    Other threads that compute with the model wait until then.
    """
    with evaluating(model):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gates = [(gate, gate.values) for gate in model.gates_by_path.values()]
        norms = [(norm, norm.task) for norm in model.norms()]
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            with torch.enable_grad():
                yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            for gate, values in gates:
                gate.values = values
            for norm, selected in norms:
                norm.task = selected
