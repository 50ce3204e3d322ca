"""The gates of one layer: soft while a task is learnt, bits once its mask is committed.

Shapes: n neurons of the layer (a Linear's output units, a Conv's output channels),
T committed tasks; logits [n]; values [n]; masks [T, ceil(n/8)] uint8.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .bits import pack_bits, unpack_bits
from .kinds import per_neuron

LOGIT_LIMIT = 6.0
MARGIN = 0.02  # of a logit from its limit's bar: a gate of 0.0003 or 0.9997 at s_max = 400


def within_budget(logits: Tensor, budget: int | None, among: Tensor | None = None) -> Tensor:
    """Logits [n] shifted until at most ``budget`` of them are positive.

    The bar that becomes 0 lies midway between the ``budget``-th and the next: none of them is left half open,
    to train with the task and to be cut off at its commit. Those above the bar and those below it are moved
    :data:`MARGIN` further apart, so that equal logits, as clamped ones are, fall on one side or the other.
    The order stays. Nothing is shifted where the bar is not above 0. The gradient is that of ``logits``.

    ``among``: 1 for those that are counted and shifted, 0 for the others [n]; by default all are.
    """
    if budget is None or budget >= logits.numel():
        return logits
    with torch.no_grad():
        counted = logits if among is None else torch.where(among > 0, logits, -torch.inf)
        best, where = counted.topk(budget + 1)
        bar = best[-2:].mean() if budget else best[0] + MARGIN
        lower = (bar + MARGIN).expand_as(logits).scatter(0, where[:-1], (bar - MARGIN).expand(budget))
        shifts = bar > 0 if among is None else (bar > 0) & (among > 0)
        lower = torch.where(shifts, lower, 0.0)
    return logits - lower


class Gate(nn.Module):
    """Gates over the neurons of one layer, for the task being learnt and for every committed one.

    It is not called by the network: its method :meth:`gate_output` is a forward hook of the layer, or of
    the norm that follows the layer, and multiplies what comes out by :attr:`values`. Where the layer's
    weights have been multiplied already (:meth:`fold`), ``folded`` tells it to leave the output alone.
    """

    masks: Tensor
    commit_widths: Tensor
    free: Tensor

    def __init__(self, n: int, neuron_dim: int) -> None:
        super().__init__()
        self.n = n
        self.neuron_dim = neuron_dim
        self.logits: nn.Parameter | None = None
        self.budget: int | None = None
        self.fresh: int | None = None
        self.kept_neurons = 0  # of a pretrained backbone: the first ones, used and open for every task
        self.opens_unowned = False  # edges: neurons that no task has yet are open beside the mask
        self.heads: tuple[int, int] | None = None  # attention heads as units: see tie()
        self._leader: tuple[Gate, ...] = ()  # in a tuple, so that it is no submodule
        self.register_buffer("masks", torch.zeros(0, -(-n // 8), dtype=torch.uint8))
        self.register_buffer("commit_widths", torch.zeros(0, dtype=torch.long))
        self.widths: list[int] = []  # n when each mask was committed (a layer may grow later), on the host
        self.register_buffer("free", torch.ones(n), persistent=False)
        self.values: Tensor | None = None
        self.folded = False
        self._bits: tuple[Tensor, tuple[int, int, torch.dtype], Tensor] | None = None  # what bits() gave last

    def gate_output(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        """Forward hook: the output times the gate of each neuron; untouched while no task is selected."""
        if self.values is None or self.folded:
            return output
        return output * self.as_broadcast(self.values, output)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight [n, in, ...] and bias [n] times the gate of each neuron.

        g (W x + b) = (g W) x + g b: for a convolution that is far less to multiply, in the forward and the
        backward pass, than its output at every position; the same numbers up to rounding.
        """
        assert self.values is not None
        values = self.values.to(weight.dtype)
        return weight * per_neuron(values, weight), None if bias is None else bias * values

    def as_broadcast(self, values: Tensor, output: Tensor) -> Tensor:
        """``values`` [n] shaped so that they multiply along the neurons of ``output``."""
        if self.neuron_dim == -1:
            return values.to(output.dtype)
        return _along(self.neuron_dim, values, output)

    def gate_follower(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        """Forward hook of what follows this mask, along dimension 1 (``reach.followers``)."""
        return output if self.values is None else output * _along(1, self.values, output)

    def tie(self, parts: int, count: int, leader: "Gate") -> None:
        """Select whole attention heads from now on: row (p, h, i) of [parts, count, n / (parts count)] is one
        of head h, and heads are those that ``leader`` selects by the logit of their first row."""
        self.heads = (parts, count)
        self._leader = () if leader is self else (leader,)

    def untie(self) -> None:
        """Select neurons one by one again."""
        self.heads, self._leader = None, ()

    def keep_all(self) -> None:
        """Take the neurons that there are for those of a pretrained backbone."""
        self.kept_neurons = self.n
        self.register_buffer("kept", torch.tensor(self.n, device=self.masks.device))

    def with_kept(self, values: Tensor) -> Tensor:
        """Soft gates [n] of the task being learnt, those of a pretrained backbone's neurons 1."""
        kept = self.kept_neurons
        return torch.cat([torch.ones_like(values[:kept]), values[kept:]]) if kept else values

    def open(self, mean: float, std: float, budget: int | None, fresh: int | None) -> None:
        """Begin a task: fresh logits [n] drawn from N(mean, std).

        With ``fresh``, at most so many free neurons are selected; the task starts with them and with every
        used one.
        """
        device = self.masks.device
        self.logits = nn.Parameter((torch.randn(self.n) * std + mean).to(device))
        self.budget, self.fresh = budget, fresh
        self._count_free()
        if fresh is not None:
            with torch.no_grad():
                self.logits.abs_()

    def _count_free(self) -> None:
        self.free = 1.0 - self.used().float()

    def effective_logits(self) -> Tensor:
        """Logits [n] of the task being learnt, after its budget: positive ones are selected."""
        if self._leader:
            return self._leader[0].effective_logits()
        assert self.logits is not None
        if self.heads is not None:
            return self._logits_of_heads(self.logits, *self.heads)
        among = (
            (torch.arange(self.n, device=self.logits.device) >= self.kept_neurons)
            if self.kept_neurons
            else None
        )
        return within_budget(within_budget(self.logits, self.fresh, self.free), self.budget, among)

    def _logits_of_heads(self, logits: Tensor, parts: int, count: int) -> Tensor:
        """One logit a head, at all of its rows [n]; a limit in neurons is one in heads, rounded, of one or
        more unless it is 0."""
        rows = self.n // count

        def heads(neurons: int | None) -> int | None:
            return neurons if not neurons else max(1, round(neurons / rows))

        free = self.free.view(parts, count, -1).amin((0, 2))
        chosen = within_budget(logits.view(parts, count, -1)[0, :, 0], heads(self.fresh), free)
        chosen = within_budget(chosen, heads(self.budget))
        return chosen[None, :, None].expand(parts, count, rows // parts).reshape(-1)

    def may_open(self) -> Tensor:
        """Bool [n]: what the task being learnt may select; under a plan, what it starts with."""
        if self.fresh is None:
            return torch.ones(self.n, dtype=torch.bool, device=self.masks.device)
        opened = self.effective_logits().detach() > 0
        opened[: self.kept_neurons] = True
        return opened

    @torch.no_grad()
    def selection(self) -> Tensor:
        """Bits [n] that a commit would store: sigma(s_max e) > 1/2, and the best neuron if there is none.

        Those of a pretrained backbone are among them.
        """
        logits = self.effective_logits()
        selected = logits > 0
        if self.kept_neurons:
            selected[: self.kept_neurons] = True
        elif self.heads is not None:
            selected |= logits == logits.max()
        else:
            selected[logits.argmax()] = True
        return selected

    @torch.no_grad()
    def store(self, mask: Tensor) -> None:
        """Append the mask [n] of the next task and forget the logits."""
        self.masks = torch.cat([self.masks, pack_bits(mask.to(self.masks.device))[None]])
        self.widths.append(self.n)
        self.commit_widths = torch.tensor(self.widths, device=self.masks.device)
        self.close()

    def close(self) -> None:
        """Forget the logits of the task being learnt."""
        self.logits = None
        self.budget = self.fresh = None

    def forget_last(self) -> None:
        """Undo the last :meth:`store`."""
        self.remove(len(self.widths) - 1)

    @torch.no_grad()
    def remove(self, row: int) -> None:
        """Forget the ``row``-th committed mask."""
        kept = [other for other in range(len(self.widths)) if other != row]
        self.masks = self.masks[kept].clone()
        self.widths = [self.widths[other] for other in kept]
        self.commit_widths = self.commit_widths[kept].clone()
        self._count_free()

    @torch.no_grad()
    def replace(self, row: int, mask: Tensor) -> None:
        """Put ``mask`` in the place of the ``row``-th committed one."""
        packed = pack_bits(mask.to(self.masks.device))
        self.masks[row] = 0
        self.masks[row, : packed.numel()] = packed

    def mask(self, row: int) -> Tensor:
        """Bits [n at the time of the commit] of the ``row``-th committed task."""
        return unpack_bits(self.masks[row], self.widths[row])

    def open_mask(self, row: int) -> Tensor:
        """Bits [n at the time of the commit]: the neurons that the ``row``-th task computes with."""
        mask = self.mask(row)
        return mask | ~self.used(row + 1)[: len(mask)] if self.opens_unowned else mask

    def bits(self, row: int, dtype: torch.dtype) -> Tensor:
        """:meth:`open_mask` as numbers, for :attr:`values`; unpacked anew only when something has changed."""
        if self.masks.is_inference():  # such a tensor does not count its changes
            return self.open_mask(row).to(dtype)
        key = (self.masks._version, row, dtype)
        if self._bits is None or self._bits[0] is not self.masks or self._bits[1] != key:
            self._bits = (self.masks, key, self.open_mask(row).to(dtype))
        return self._bits[2]

    def used(self, rows: int | None = None) -> Tensor:
        """Bits [n]: the union of the first ``rows`` committed masks, by default of all, and what is kept."""
        used = self.all_masks(rows).any(0)
        used[: self.kept_neurons] = True
        return used

    def all_masks(self, rows: int | None = None) -> Tensor:
        """Bits [T, n]: the first ``rows`` committed masks, by default all; 0 where a neuron came later."""
        packed = self.masks[:rows]
        bits = unpack_bits(packed.flatten(), packed.numel() * 8)
        return bits.view(len(packed), packed.shape[1] * 8)[:, : self.n]

    @torch.no_grad()
    def grow(self, by: int) -> None:
        """Add ``by`` neurons; committed masks keep their width."""
        self.n += by
        wider = torch.zeros(len(self.masks), -(-self.n // 8), dtype=torch.uint8, device=self.masks.device)
        wider[:, : self.masks.shape[1]] = self.masks
        self.masks = wider

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, also amid training: soft gates are numbers there, without the graph they came from."""
        values = self.values
        return {**self.__dict__, "values": values if values is None else values.detach()}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count_free()

    def take_structure(self, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        """Make room for the masks and logits that ``state_dict`` holds under ``prefix``."""
        device = self.masks.device
        if f"{prefix}masks" in state_dict and f"{prefix}commit_widths" in state_dict:
            self.masks = torch.zeros_like(state_dict[f"{prefix}masks"], device=device)
            self.widths = [int(width) for width in state_dict[f"{prefix}commit_widths"]]
            self.commit_widths = torch.tensor(self.widths, device=device, dtype=torch.long)
        has_logits = f"{prefix}logits" in state_dict
        self.logits = nn.Parameter(torch.zeros(self.n, device=device)) if has_logits else None


def _along(dim: int, values: Tensor, output: Tensor) -> Tensor:
    shape = [1] * output.dim()
    shape[dim] = values.numel()
    return values.view(shape).to(output.dtype)
