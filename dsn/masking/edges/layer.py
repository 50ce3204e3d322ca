"""The edges of one layer: what tasks keep of it, and what the task being learnt computes with.

Shapes: W [n, d, ...]; own, earlier, open: bool [n]; scores and bits of the r rows that are read [r, d, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..kinds import per_neuron
from ..reach import laid_out
from ..records import TaskRecord
from .scores import how_many, straight_through, top_k

DENSITY = 0.5  # of the edges that a task may read, the share that it reads


class LayerEdges(nn.Module):
    """What tasks keep of one layer: bits of edges, own biases, own weights; scores while one is learnt."""

    own: Tensor

    def __init__(self, whole: bool, signs: bool) -> None:
        super().__init__()
        self.whole, self.signs = whole, signs
        self.scores: nn.Parameter | None = None
        self.register_buffer("own", torch.zeros(0, dtype=torch.bool))
        self.bits = TaskRecord()
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        self._ready: tuple[tuple[object, ...], Tensor, Tensor, Tensor] | None = None

    def of(self, task: int) -> list[nn.Parameter]:
        """The weights and biases that are wholly those of ``task``."""
        return [own[str(task)] for own in self._own().values() if str(task) in own]

    def chosen(self) -> Tensor:
        """Bool, a scored edge: whether it is read, or read as it is instead of with the other sign."""
        return self._chosen(self._ranked())

    def factors(self, chosen: Tensor, dtype: torch.dtype) -> Tensor:
        """What the weights of ``chosen`` edges, bool, and of the others are multiplied by."""
        numbers = chosen.to(dtype)
        return 2 * numbers - 1 if self.signs else numbers

    def _ranked(self) -> Tensor:
        """The scores as they are compared; gradients pass through."""
        assert self.scores is not None
        return self.scores if self.signs else self.scores.abs()

    def _chosen(self, ranked: Tensor) -> Tensor:
        return ranked.detach() >= 0 if self.signs else top_k(ranked, how_many(DENSITY, ranked.numel()))

    def learnt(
        self, weight: Tensor, used: Callable[[], Tensor], initial: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """[n, d, ...] what the task being learnt computes with; gradients go to ``weight`` and scores."""
        _, rows, order, frozen = self.prepared(weight, used, initial)
        if self.scores is not None:
            ranked = self._ranked()
            choice = straight_through(ranked, self.factors(self._chosen(ranked), ranked.dtype))
            frozen = frozen * choice.to(frozen.dtype)
        return laid_out(torch.cat([weight.index_select(0, rows), frozen]).index_select(0, order), weight)

    @torch.no_grad()
    def prepared(
        self, weight: Tensor, used: Callable[[], Tensor], initial: Callable[[Tensor], Tensor]
    ) -> tuple[tuple[object, ...], Tensor, Tensor, Tensor]:
        """The rows that learn, where each row lies behind them, and the values of the others: once a task.

        ``used``: bool [n], the neurons of earlier tasks.
        """
        key = (weight.device, weight.dtype)
        if self._ready is None or self._ready[0] != key:
            rows, read = self.own.nonzero().flatten(), (~self.own).nonzero().flatten()
            order = torch.cat([rows, read]).argsort()
            values = torch.where(per_neuron(used(), weight), weight, initial(weight))
            self._ready = (key, rows, order, values[read])
        return self._ready

    def forget(self) -> None:
        """End the learning of a task."""
        self.scores, self._ready = None, None
        self.own = self.own.new_zeros(0)

    def drop(self, task: int) -> None:
        """Forget all of ``task``."""
        self.forget()
        self.bits.drop(str(task))
        for own in self._own().values():
            if str(task) in own:
                del own[str(task)]

    def kept_of(self, task: int) -> dict[str, Tensor | None]:
        """Bits, weights and biases of a committed task; None for what it has not."""
        own = {name: kept.get(str(task), None) for name, kept in self._own().items()}
        return {"bits": self.bits.get(str(task)), **own}

    @torch.no_grad()
    def put(self, task: int, kept: Mapping[str, Tensor | None]) -> None:
        """Put what :meth:`kept_of` gave in the place of what ``task`` is learnt with; its learning ends."""
        bits, device = kept["bits"], self.own.device
        if bits is not None:
            self.bits.put(str(task), bits.to(device))
        for name, own in self._own().items():
            if (value := kept[name]) is not None:
                own[str(task)].copy_(value)
        self.forget()

    def _own(self) -> dict[str, nn.ParameterDict]:
        return {"weights": self.weights, "biases": self.biases}

    def take_structure(self, state: Mapping[str, Tensor], prefix: str, like: Tensor) -> None:
        """Make room for what ``state`` holds under ``prefix``; it also says whether the layer is whole."""
        self.forget()
        self.whole = is_whole(state, prefix, self.whole)
        own, scores = state.get(f"{prefix}own"), state.get(f"{prefix}scores")
        self.own = self.own.new_zeros(0 if own is None else len(own))
        self.scores = None if scores is None else nn.Parameter(like.new_zeros(scores.shape))
        self.bits = TaskRecord().to(like.device)
        self.bits.take_structure(state, f"{prefix}bits.")
        for name, kept in self._own().items():
            kept.clear()
            for key, value in state.items():
                if key.startswith(f"{prefix}{name}."):
                    kept[key.removeprefix(f"{prefix}{name}.")] = nn.Parameter(like.new_zeros(value.shape))
        self.bits.to(like.device)


def is_whole(state: Mapping[str, Tensor], prefix: str, otherwise: bool) -> bool:
    """Whether a stored layer is wholly that of its tasks; ``otherwise`` where none is stored."""
    return any(key.startswith(f"{prefix}weights.") for key in state) if len(state["task_ids"]) else otherwise
