"""Batch norms with the statistics of the network that is evaluated, measured on training samples.

Running statistics belong to training: to the weights of some steps ago, to soft gates, to none of the weights
that averaging makes, and where dropout stands before a norm, to larger variances than evaluation has (Li et
al., "Understanding the disharmony between dropout and batch normalization by variance shift", CVPR 2019). A
thousand samples are enough to measure them anew ("precise" batch norm: Wu and Johnson, "Rethinking 'Batch' in
BatchNorm", 2021, section 3).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..masking.kinds import is_norm, norm_kind
from ..masking.layers import evaluating


def measure_norms(
    model: nn.Module,
    buffers: Iterable[Tensor],
    batches: Iterable[Tensor],
    samples: int,
    logits: Callable[[Tensor], object],
) -> None:
    """Give batch norms the mean over the first ``samples`` of ``batches``, and the mean variance of a batch.

    It is done to the norms of ``model`` whose running statistics are among ``buffers``; all else is in
    evaluation mode meanwhile. ``batches``: x [batch, ...]; those of a single sample are passed over, they
    have no variance, and where there are no others nothing changes. ``logits`` sends one through the model.
    No random state is changed.
    """
    changing = {id(buffer) for buffer in buffers}
    norms: list[Any] = [m for m in model.modules() if is_norm(m) and _mean(m) in changing]
    if not norms or not samples:
        return
    seen = 0
    with torch.random.fork_rng(devices=[]), evaluating(model), _put_back_momenta(norms):
        for x in batches:
            if len(x) > 1:
                seen += len(x)
                for norm in norms:
                    norm.train()
                    norm.momentum = len(x) / seen  # 1 for the first batch: what was there is forgotten
                logits(x)
            if seen >= samples:
                break


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
