"""What happens when a task is learnt: it takes stock of itself, reads earlier ones, they may gain from it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..masking import MaskedModel
from ..replay import Impressions, record_statistics, synthesise
from ..transfer import ForwardOutcome, TransferOutcome, assess, transfer_backward, transfer_forward


def end_task(
    model: MaskedModel,
    task: int,
    x: Tensor,
    y: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    tasks: int,
    forward: int,
    mechanism: str,
    acceptance: str,
    replay: Mapping[str, Any],
    seed: int,
) -> tuple[ForwardOutcome | None, list[TransferOutcome]]:
    """Take stock of ``task``, learnt from x [n, ...], y [n]; then transfer forward and backward.

    It may read up to ``forward`` earlier tasks, and up to ``tasks`` earlier ones may gain from it.

    Args:
        validation: x [m, ...], y [m] that the task was not trained on.
        mechanism, acceptance: names in ``dsn.transfer``'s MECHANISMS and ACCEPTANCE.
        replay: arguments of ``dsn.replay.synthesise``, with ``images``; used where impressions are needed.
        seed: of the impressions.
    """
    assess(model, task, *validation, samples=len(x))
    record_statistics(model, task, (part.to(model.device) for part in x.split(512)))
    read = transfer_forward(model, task, x, y, validation, forward)

    def make(old: int, draw: int) -> Impressions:
        return synthesise(model, old, seed=seed + draw, **replay)

    given = transfer_backward(
        model, task, x, y, replay=make, tasks=tasks, mechanism=mechanism, acceptance=acceptance, seed=seed
    )
    return read, given
