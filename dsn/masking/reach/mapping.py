"""How the map of a network is found: codes are sent, and what they say is held against many kinds of values.

NaN passes through nearly every operation. Each layer in turn, or several at once that never meet, sends it
from half of its neurons: L rows, in which neuron i is on where its code word has a 1. All words have L/2
ones, so a column that feels one neuron alone spells its word, and one that feels several has more ones. Then
all kinds of values are sent under random masks: what arrives where the map says that nothing can makes its
whole place live for good. That costs plasticity, not memory.

Shapes: rows of masks [r, n] a layer; what arrives, bool [r, d] a place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...errors import InputError
from ..map import NONE, SEVERAL, Link, NetworkMap, Size
from ..structure import Structure
from .sending import send
from .sizes import true_size
from .values import BATCH, BOUNDLESS, FINITE, KINDS, Sender, holed, signed

Rows = Mapping[str, Tensor]
"""by layer, which neurons are on, bool [r, n]; layers that are missing are off"""
Sent = tuple[Size, Sequence[int], int]
"""a size, the kinds of values that are sent at it, and of how many samples at once"""
AT_ONCE = 2**23  # values of all layers that are sent in one pass of codes
ONE_BY_ONE = 2**26  # the same, of all passes in which each neuron of a layer is on by itself
CODED = tuple(KINDS.index(make) for make in (BOUNDLESS[0], *FINITE[:2], signed, holed))
TRUE_KINDS = (KINDS.index(BOUNDLESS[0]), KINDS.index(signed))  # at the true size, where the other is smaller
SHARES = (1 / 2, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 1 / 2, 1 / 4, 1 / 2)  # of neurons open, a round of values each
ENOUGH = 64  # columns times rounds


class _Endless(Exception):
    """The backbone does not run on values that are not finite."""


def find_map(model: Structure) -> NetworkMap:
    """The map of ``model`` as wide as it is now.

    Raises:
        InputError: where the backbone does not run on finite values.
    """
    try:
        return _found(model)
    except _Endless as error:
        cause = error.__cause__
        found = NetworkMap(dict(model.layers), _columns(model), why=f"{type(cause).__name__}: {cause}")
        for flags in found.always.values():
            flags.fill_(True)
        return found


def _found(model: Structure) -> NetworkMap:
    closed = {path: torch.zeros(n, dtype=torch.bool) for path, n in model.layers.items()}
    sizes: list[Sent] = [(model.size, range(len(KINDS)), BATCH)]
    if model.size.shape != true_size(model).shape:
        sizes.append((true_size(model), TRUE_KINDS, 2))
    always = _arrived(model, closed, sizes)
    for path, layer in model.layer_modules():
        always.setdefault(path, torch.ones(layer.weight.shape[1], dtype=torch.bool))  # not called now
    found = NetworkMap(dict(model.layers), always)
    kinds = [KINDS.index(BOUNDLESS[0])]
    found.links = _links(model, found, kinds)
    if _unexplained(model, found, sizes):
        found.links = _links(
            model, found, [*kinds, *(KINDS.index(make) for make in (*FINITE[:2], signed, holed))]
        )
        for place in _unexplained(model, found, sizes):
            found.always[place].fill_(True)
    return found


def arrived_under(model: Structure, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where values of any kind arrive under ``masks``, bool [d] by place; InputError where they cannot."""
    try:
        return _arrived(model, masks, [(model.size, range(len(KINDS)), BATCH)])
    except _Endless as error:
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
    felt = _felt(model, closed, 0, model.size, BATCH)
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
    with _telling(kind):
        arrivals = sender.send(keep=lambda place, x: not_zero(x, _dim(model, place)))
    return {place: torch.stack(calls).any(0).cpu() for place, calls in arrivals.places().items() if calls}


def not_zero(x: Tensor, dim: int) -> Tensor:
    """Whether anything but 0 lies at each index of dimension ``dim``, bool [d]; NaN does."""
    rows = x.movedim(dim, 1).flatten(2) if x.dim() > 2 else x[..., None]
    return (rows.amax(2).ne(0) | rows.amin(2).ne(0)).any(0)


def _dim(model: Structure, place: str) -> int:
    gate = model.gates_by_path.get(place)
    return -1 if gate is None else gate.neuron_dim


@contextmanager
def _telling(kind: int) -> Iterator[None]:
    """Say what it means that the backbone's own code fails on values of a kind."""
    try:
        yield
    except Exception as error:
        if KINDS[kind] in BOUNDLESS:
            raise _Endless from error
        raise InputError(
            f"the backbone does not run on made-up values in the shape of {BATCH} example inputs "
            f"({type(error).__name__}: {error}): masks need a backbone that takes any batch and any values"
        ) from error


def _unexplained(model: Structure, found: NetworkMap, sizes: Sequence[Sent]) -> list[str]:
    """Places at which something arrives under random masks that the map does not have."""
    fewest = min((len(found.always[place]) for place, links in found.links.items() if links), default=1)
    rounds = min(len(SHARES), -(-ENOUGH // fewest))
    random = torch.Generator().manual_seed(0)
    places: dict[str, None] = {}
    for number, share in enumerate(SHARES[:rounds]):
        masks = {p: torch.rand(n, generator=random).lt(share) for p, n in found.widths.items()}
        live = found.live(masks)
        for size, kinds, batch in sizes if number == 0 else sizes[:1]:
            for kind in kinds:
                for place, felt in _felt(model, masks, kind, size, batch).items():
                    if felt.shape != live[place].shape or bool((felt & ~live[place]).any()):
                        places[place] = None
    return list(places)


# ---- codes -----------------------------------------------------------------------------------------------


def _links(model: Structure, found: NetworkMap, kinds: Sequence[int]) -> dict[str, dict[str, Link]]:
    """Which neurons arrive at which columns, by place and layer, as values of ``kinds`` tell."""
    reached = _reached(model, found, kinds)
    links: dict[str, dict[str, Link]] = {place: {} for place in found.always}
    for group in _apart(reached):
        words = {path: code(found.widths[path]) for path in group}
        longest = max(word.shape[1] for word in words.values())
        rows = {path: torch.zeros(longest, len(word), dtype=torch.bool) for path, word in words.items()}
        for path, word in words.items():
            rows[path][: word.shape[1]] = word.T
        spelled = _changed(model, rows, kinds)
        for path, word in words.items():
            for place, columns in reached[path].items():
                if bool(columns.any()):
                    links[place][path] = read(spelled[place][: word.shape[1]] & columns, word)
    for path in found.widths:
        if any(path in at and len(at[path].sets) for at in links.values()):
            _tell_apart(model, path, links, kinds)
    return links


def _reached(model: Structure, found: NetworkMap, kinds: Sequence[int]) -> dict[str, dict[str, Tensor]]:
    """Where each layer arrives at all, bool [d] by place."""
    paths = list(found.widths)
    rows = {
        path: torch.zeros(len(paths), n, dtype=torch.bool).index_fill(0, torch.tensor(at), True)
        for at, (path, n) in enumerate(found.widths.items())
    }
    arrived = _changed(model, rows, kinds)
    return {path: {place: felt[at] for place, felt in arrived.items()} for at, path in enumerate(paths)}


def _apart(reached: Mapping[str, Mapping[str, Tensor]]) -> list[list[str]]:
    """Groups of layers no two of which arrive at one column."""
    groups: list[tuple[list[str], Tensor]] = []
    for path, places in reached.items():
        columns = torch.cat(list(places.values()))
        for number, (group, taken) in enumerate(groups):
            if not bool((taken & columns).any()):
                groups[number] = ([*group, path], taken | columns)
                break
        else:
            groups.append(([path], columns))
    return [group for group, _ in groups]


def code(n: int) -> Tensor:
    """A word for each of n neurons, bool [n, L], each with L/2 ones, L as small as can be."""
    length = next(even for even in itertools.count(2, 2) if math.comb(even, even // 2) >= n)
    ones = torch.tensor(list(itertools.islice(itertools.combinations(range(length), length // 2), n)))
    return torch.zeros(n, length, dtype=torch.bool).scatter_(1, ones, True)


def read(spelled: Tensor, words: Tensor) -> Link:
    """What the columns tell: ``spelled``, bool [L, d], by ``words``, bool [n, L].

    A column that spells no word can feel any neuron, until :func:`_tell_apart` knows more.
    """
    worth = 2 ** torch.arange(words.shape[1])
    known, order = (words.long() @ worth).sort()
    numbers = spelled.T.long() @ worth
    at = torch.searchsorted(known, numbers).clamp(max=len(known) - 1)
    neurons = torch.where(known[at] == numbers, order[at], SEVERAL)
    neurons[~spelled.any(0)] = NONE
    return Link(neurons, torch.ones(int(neurons.eq(SEVERAL).sum()), len(words), dtype=torch.bool))


def _tell_apart(model: Structure, path: str, links: dict[str, dict[str, Link]], kinds: Sequence[int]) -> None:
    """Send the neurons of one layer one by one, and keep what each column felt that feels several."""
    n = model.layers[path]
    if n * _values_a_row(model) > ONE_BY_ONE:
        return
    arrived = _changed(model, {path: torch.eye(n, dtype=torch.bool)}, kinds)
    for place, at in links.items():
        if path in at:
            several = at[path].neurons.eq(SEVERAL)
            felt = arrived[place][:, several].T
            at[path].sets = torch.where(felt.any(1, keepdim=True), felt, True)


def _values_a_row(model: Structure) -> int:
    return sum(
        model.layers[path] * max(1, math.prod(shape))
        for path, calls in model.size.maps.items()
        for shape in calls
    )


def _changed(model: Structure, rows: Rows, kinds: Sequence[int]) -> dict[str, Tensor]:
    """Where each row brings something else than no neuron does, bool [r, d] by place."""
    count = len(next(iter(rows.values())))
    step = max(2, AT_ONCE // _values_a_row(model))
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, step):
        part: dict[str, Tensor] = {}
        for kind in kinds:
            _add(part, _changed_once(model, {p: on[start : start + step] for p, on in rows.items()}, kind))
        parts.append(part)
    return {place: torch.cat([part[place] for part in parts]) for place in parts[0]}


def _changed_once(model: Structure, rows: Rows, kind: int) -> dict[str, Tensor]:
    """A pass with a sample a row, behind one in which no neuron is on; all else is the same in each."""
    loud, calm = Sender(model, None, kind), Sender(model, None, 0)
    rows = {path: torch.cat([on[:1] & False, on]).to(model.device) for path, on in rows.items()}
    count = len(next(iter(rows.values())))

    def alike(_path: str, x: Tensor) -> Tensor:
        return calm.draw(x[:1]).expand_as(x).contiguous()

    def emit(path: str, output: Tensor) -> Tensor:
        on = rows.get(path)
        if on is None:
            return torch.zeros_like(output)
        shape = [len(output), *[1] * (output.dim() - 1)]
        shape[model.gates_by_path[path].neuron_dim] = on.shape[1]
        values = loud.draw(output[:1])
        return torch.where(on.view(shape), values, torch.zeros_like(values)).expand_as(output).contiguous()

    x = alike("", model.size.zeros(model, count))
    with _telling(kind):
        arrivals = send(
            model,
            emit,
            x,
            free_norms=alike,
            keep=lambda place, x: differs_from_first(x, _dim(model, place)),
        )
    return {place: torch.stack(calls).any(0).cpu() for place, calls in arrivals.places().items() if calls}


def differs_from_first(x: Tensor, dim: int) -> Tensor:
    """Where the other entries of x [1 + r, ...] differ from its first one along ``dim``: bool [r, d]."""
    first, others = x[:1], x[1:]
    flags = others.ne(first) & ~(others.isnan() & first.isnan())
    return flags.movedim(dim, 1).flatten(2).any(2) if x.dim() > 2 else flags
