"""Batch norms with the statistics of the network that is evaluated, measured on training samples.

Running statistics belong to training: to the weights of some steps ago, to soft gates, to none of the weights
that averaging makes, and where dropout stands before a norm, to larger variances than evaluation has (Li et
al., "Understanding the disharmony between dropout and batch normalization by variance shift", CVPR 2019). A
thousand samples are enough to measure them anew ("precise" batch norm: Wu and Johnson, "Rethinking 'Batch' in
BatchNorm", 2021, section 3).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..masking.kinds import is_norm, norm_kind
from ..masking.layers import evaluating


def measure_norms(
    model: nn.Module,
    buffers: Mapping[int, Iterable[Tensor]],
    batches: Iterable[tuple[Tensor, Tensor]],
    samples: int,
    logits: Callable[[Tensor, int], object],
) -> None:
    """Give batch norms the mean over ``samples`` of each task, and the mean variance of a batch.

    It is done to the norms of ``model`` whose running statistics are among the ``buffers`` of a task; all
    else is in evaluation mode meanwhile. ``batches``: x [batch, ...] and the tasks of its samples [batch],
    which do not matter where there is one task; they are gone through once, until each task has had
    ``samples`` or there are no more. A task's samples in a batch are passed over where there is but one, it
    has no variance; where there are no others nothing changes. ``logits`` sends some x through the model as
    a task. No random state is changed.
    """
    norms = {task: _norms_of(model, own) for task, own in buffers.items()}
    seen = {task: 0 for task, own in norms.items() if own and samples}
    if not seen:
        return
    alone = len(buffers) == 1
    every = [norm for own in norms.values() for norm in own]
    with torch.random.fork_rng(devices=[]), evaluating(model), _put_back_momenta(every):
        for batch, tasks in batches:
            for task in [task for task in seen if seen[task] < samples]:
                x = batch if alone else batch[tasks == task]
                if len(x) > 1:
                    seen[task] += len(x)
                    _measure(norms[task], len(x) / seen[task], partial(logits, x, task))
            if min(seen.values()) >= samples:
                break


def _measure(norms: list[Any], share: float, compute: Callable[[], object]) -> None:
    """Let ``norms`` take over the statistics of what they read in a pass, as this share of all so far."""
    for norm in norms:
        norm.train()
        norm.momentum = share  # 1 for the first batch: what was there is forgotten
    compute()
    for norm in norms:
        norm.eval()


def _norms_of(model: nn.Module, buffers: Iterable[Tensor]) -> list[Any]:
    changing = {id(buffer) for buffer in buffers}
    return [module for module in model.modules() if is_norm(module) and _mean(module) in changing]


def _mean(norm: nn.Module) -> int | None:
    """Whose running mean it is, as an id."""
    kept = norm_kind(norm).statistics(norm)
    return None if kept is None else id(kept[0])


@contextmanager
def _put_back_momenta(norms: list[Any]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
