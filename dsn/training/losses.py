"""The losses of an epoch, looked at when it has ended: to ask after each step would leave a GPU waiting."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Losses:
    """Scalars, one an iteration; ``taken``: those of the iterations that an epoch goes on behind."""

    def __init__(self, taken: Iterable[Tensor] = ()) -> None:
        self.taken = list(taken)

    def add(self, loss: Tensor) -> None:
        """Keep the loss of an iteration, without its graph."""
        self.taken.append(loss.detach().squeeze())

    def first_bad(self) -> int | None:
        """The first iteration whose loss is not finite, if there is one."""
        bad = (~torch.isfinite(torch.stack(self.taken or [torch.zeros(())]))).nonzero()
        return int(bad[0]) if len(bad) else None
