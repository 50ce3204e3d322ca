"""What happens when a task is learnt: it takes stock of itself, reads earlier ones, they may gain from it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..masking import MaskedModel
from ..masking.layers import evaluating
from ..replay import Impressions, record_statistics, synthesise
from ..transfer import ForwardOutcome, TransferOutcome, assess, transfer_backward, transfer_forward
from .settings import Transfer


def end_task(
    model: MaskedModel,
    task: int,
    x: Tensor,
    y: Tensor,
    validation: tuple[Tensor, Tensor],
    transfer: Transfer,
    *,
    replay: Mapping[str, Any],
    seed: int,
) -> tuple[ForwardOutcome | None, list[TransferOutcome]]:
    """Take stock of ``task``, learnt from x [n, ...], y [n]; then transfer forward and backward.

    Args:
        validation: x [m, ...], y [m] that the task was not trained on.
        replay: arguments of ``dsn.replay.synthesise``, with ``images``; used where impressions are needed.
        seed: of the impressions.
    """

    def make(old: int, draw: int) -> Impressions:
        return synthesise(model, old, seed=seed + draw, **replay)

    with evaluating(model):  # once: the way through the modules of many tasks is long
        assess(model, task, *validation, samples=len(x))
        record_statistics(model, task, (part.to(model.device) for part in x.split(512)))
        read = transfer_forward(model, task, x, y, validation, transfer.forward)
        given = transfer_backward(
            model,
            task,
            x,
            y,
            replay=make,
            tasks=transfer.tasks,
            mechanism=transfer.mechanism,
            acceptance=transfer.acceptance,
            seed=seed,
        )
    return read, given
