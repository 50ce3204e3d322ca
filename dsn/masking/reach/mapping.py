"""How the map of a network is found: codes are sent, and what they say is held against many kinds of values.

NaN passes through nearly every operation, so the codes (``codes.py``) are sent as NaN. Then all kinds of
values are sent under random masks: what arrives where the map says that nothing can makes its whole place
live for good. That costs plasticity, not memory.

Shapes: what arrives, bool [d] a place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ...errors import InputError
from ..layers import evaluating
from ..map import FEATURES, OUTPUT, Link, NetworkMap, Size
from ..structure import Structure
from .codes import ALL, ONE_BY_ONE, changed, spelled
from .sizes import FEWEST, at_once, true_size, values_a_row
from .values import BATCH, BOUNDLESS, FINITE, KINDS, Endless, Sender, holed, signed, telling

Sent = tuple[Size, Sequence[int], int]
"""a size, the kinds of values that are sent at it, and of how many samples at once"""
CODED = tuple(KINDS.index(make) for make in (BOUNDLESS[0], *FINITE[:2], signed, holed))
TRUE_KINDS = (KINDS.index(BOUNDLESS[0]), KINDS.index(signed))  # at the true size, where the other is smaller
COUNTS = (5, 7, 12, 16, 33, 64, 100)  # of samples at once, too, where each is computed with the others
SHARES = (1 / 2, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 1 / 2, 1 / 4, 1 / 2)  # of neurons open, a round of values each
ENOUGH = 64  # columns times rounds


def find_map(model: Structure) -> NetworkMap:
    """The map of ``model`` as wide as it is now.

    Raises:
        InputError: where the backbone does not run on finite values.
    """
    try:
        return _found(model)
    except Endless as error:
        cause = error.__cause__
        found = NetworkMap(dict(model.layers), _columns(model), why=f"{type(cause).__name__}: {cause}")
        for flags in found.always.values():
            flags.fill_(True)
        return found


def _found(model: Structure) -> NetworkMap:
    closed = {path: torch.zeros(n, dtype=torch.bool) for path, n in model.layers.items()}
    sizes: list[Sent] = [(model.size, range(len(KINDS)), at_once(model, BATCH))]
    if model.size.shape != true_size(model).shape:
        sizes.append((true_size(model), TRUE_KINDS, FEWEST))
    if model.mixes_samples:  # a mean over samples that are all alike is off by a rounding for some counts
        sizes += [(model.size, TRUE_KINDS[1:], count) for count in COUNTS]
    always = _arrived(model, closed, sizes)
    for path, layer in model.layer_modules():
        always.setdefault(path, torch.ones(layer.weight.shape[1], dtype=torch.bool))  # not called now
    found = NetworkMap(dict(model.layers), always)
    found.links = _links(model, CODED[:1])
    if _unexplained(model, found, sizes):
        found.links = _links(model, CODED)
        for place in _unexplained(model, found, sizes):
            found.always[place].fill_(True)
    return found


def mixes_samples(model: Structure) -> bool:
    """Whether the features of a sample depend on those beside it; taken for no where a sample is large."""
    if at_once(model, BATCH) < BATCH:
        return False
    x = torch.randn(model.size.zeros(model, BATCH).shape, generator=torch.Generator().manual_seed(0))
    x = x.to(model.device, model.dtype)
    with evaluating(model):
        model.open_plainly()
        try:
            together = model.backbone(x)
            alone = torch.cat([model.backbone(one) for one in x.split(1)])
        except Exception:  # the backbone's own code, which takes no single sample
            return True
    return not torch.allclose(together, alone, rtol=1e-3, atol=1e-5, equal_nan=True)


def arrived_under(model: Structure, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where values of any kind arrive under ``masks``, bool [d] by place; InputError where they cannot."""
    try:
        return _arrived(model, masks, [(model.size, range(len(KINDS)), at_once(model, BATCH))])
    except Endless as error:
        raise InputError(f"the backbone does not run under these masks ({error.__cause__})") from error


def _arrived(model: Structure, masks: Mapping[str, Tensor], sizes: Sequence[Sent]) -> dict[str, Tensor]:
    felt: dict[str, Tensor] = {}
    for size, kinds, batch in sizes:
        for kind in kinds:
            _add(felt, _felt(model, masks, kind, size, batch))
    return felt


def _columns(model: Structure) -> dict[str, Tensor]:
    """A flag a column, bool [d] by place, all False: found with values that every backbone runs on."""
    closed = {path: torch.zeros(n, dtype=torch.bool) for path, n in model.layers.items()}
    felt = _felt(model, closed, 0, model.size, at_once(model, BATCH))
    flags = {
        path: torch.zeros(layer.weight.shape[1], dtype=torch.bool) for path, layer in model.layer_modules()
    }
    return flags | {place: torch.zeros_like(columns) for place, columns in felt.items()}


def _add(flags: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for place, felt in more.items():
        flags[place] = flags[place] | felt if place in flags else felt


# ---- what arrives under masks ----------------------------------------------------------------------------


def _felt(
    model: Structure, masks: Mapping[str, Tensor], kind: int, size: Size, batch: int
) -> dict[str, Tensor]:
    """Where anything but 0 arrives, bool [d] by place, in any call."""
    sender = Sender(model, masks, kind, size=size, batch=batch)
    with telling(kind):
        arrivals = sender.send(keep=lambda place, x: not_zero(x, _dim(model, place)))
    return {place: torch.stack(calls).any(0).cpu() for place, calls in arrivals.places().items() if calls}


def not_zero(x: Tensor, dim: int) -> Tensor:
    """Whether anything but 0 lies at each index of dimension ``dim``, bool [d]; NaN does."""
    rows = x.movedim(dim, 1).flatten(2) if x.dim() > 2 else x[..., None]
    return (rows.amax(2).ne(0) | rows.amin(2).ne(0)).any(0)


def _dim(model: Structure, place: str) -> int:
    gate = model.gates_by_path.get(place)
    return -1 if gate is None else gate.neuron_dim


def _unexplained(model: Structure, found: NetworkMap, sizes: Sequence[Sent]) -> list[str]:
    """Places at which something arrives under random masks that the map does not have."""
    fewest = min((len(found.always[place]) for place, links in found.links.items() if links), default=1)
    rounds = min(len(SHARES), -(-ENOUGH // fewest))
    places: dict[str, None] = {}
    for number, masks in enumerate(itertools.islice(tried_masks(found.widths), rounds)):
        live = found.live(masks)
        for of_size, (size, kinds, batch) in enumerate(sizes if number == 0 else sizes[:1]):
            arrived: dict[str, Tensor] = {}
            for kind in kinds:
                felt = _felt(model, masks, kind, size, batch)
                _add(arrived, felt)
                for place, flags in felt.items():
                    if flags.shape != live[place].shape or bool((flags & ~live[place]).any()):
                        places[place] = None
            if number == of_size == 0:
                found.keep_arrived(masks, arrived)
    return list(places)


def tried_masks(widths: Mapping[str, int]) -> Iterator[dict[str, Tensor]]:
    """The random masks, bool [n] a layer, under which a map is tried."""
    random = torch.Generator().manual_seed(0)
    for share in SHARES:
        yield {path: torch.rand(n, generator=random).lt(share) for path, n in widths.items()}


def _links(model: Structure, kinds: Sequence[int]) -> dict[str, dict[str, Link]]:
    """Which neurons arrive at which columns, by place and layer, as values of ``kinds`` tell."""

    def told(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        felt: dict[str, Tensor] = {}
        for stage, flags in changed(model, {(path, ALL): on for path, on in rows.items()}, kinds).items():
            _add(felt, {FEATURES if stage == OUTPUT else stage[0]: flags})
        return felt

    return spelled(model.layers, told, ONE_BY_ONE / values_a_row(model))
