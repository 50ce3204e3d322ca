"""Code words: which neurons of which sources arrive at which columns, told by a few rows of masks.

L rows are sent of each source, or of several at once that never meet; neuron i is on where its code word has
a 1. All words have L/2 ones, so a column that feels one neuron alone spells its word, and one that feels
several has more ones.

Shapes: rows of masks [r, n] a source; what arrives, bool [r, d] a place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..map import INPUT, NONE, OUTPUT, SEVERAL, Link, Stage
from ..structure import Structure
from .sending import Emit, send
from .sizes import values_a_row
from .values import Sender, telling

S = TypeVar("S", bound=Hashable)
"""what a source is: a layer, or one call of it"""
P = TypeVar("P", bound=Hashable)
"""what a place is, likewise"""
ALL = -1  # in the place of a call's number: every call
AT_ONCE = 2**24  # values of all layers that are sent in one pass of codes
LEAST_ROWS = 4  # in one pass, however many values they are
ONE_BY_ONE = 2**26  # the same, of all passes in which each neuron of a layer is on by itself


def spelled(
    widths: Mapping[S, int], changed: Callable[[dict[S, Tensor]], dict[P, Tensor]], most: float
) -> dict[P, dict[S, Link]]:
    """Which neurons of each source arrive at which columns, by place.

    Args:
        widths: neurons of each source.
        changed: rows of the sources that are on -> where each brings something else than none does.
        most: neurons that a layer may have for its neurons to be told apart one by one where they meet.
    """
    at = {source: number for number, source in enumerate(widths)}
    reached = sources_felt(widths, changed)
    links: dict[P, dict[S, Link]] = {place: {} for place in reached}
    for group in _apart({s: torch.cat([felt[at[s]] for felt in reached.values()]) for s in widths}):
        words = {source: code(widths[source]) for source in group}
        longest = max(word.shape[1] for word in words.values())
        told = changed({s: _padded(word.T, longest) for s, word in words.items()})
        for source, word in words.items():
            for place, felt in reached.items():
                columns = felt[at[source]]
                if bool(columns.any()):
                    links[place][source] = read(told[place][: word.shape[1]] & columns, word)
    for source, n in widths.items():
        here = {p: by[source] for p, by in links.items() if source in by and len(by[source].sets)}
        if here and n <= most:
            told = changed({source: torch.eye(n, dtype=torch.bool)})
            for place, link in here.items():
                felt = told[place][:, link.neurons.eq(SEVERAL)].T
                link.sets = torch.where(felt.any(1, keepdim=True), felt, True)
    return links


def sources_felt(
    widths: Mapping[S, int], changed: Callable[[dict[S, Tensor]], dict[P, Tensor]]
) -> dict[P, Tensor]:
    """Which sources bring anything to which columns, bool [sources, d] by place.

    A source that is on has all its neurons on. Many are not sent one by one: each is on in the row of its
    block and in that of its number within the block. Those that a column may feel after that are sent once
    more, together where no column can take one for another: one of several, or one that stands for two of
    which something else in their rows lets nothing pass. All are sent one by one after all where they do not
    explain what was felt.
    """

    def on_in(rows: Tensor) -> dict[P, Tensor]:
        return changed(
            {s: on[:, None].expand(-1, n) for (s, n), on in zip(widths.items(), rows.T, strict=True)}
        )

    alone, numbers = torch.eye(len(widths), dtype=torch.bool), torch.arange(len(widths))
    blocks = math.isqrt(len(widths) - 1) + 1  # as many in each
    if 3 * blocks > len(widths):
        return on_in(alone)
    each = torch.arange(blocks)[:, None]
    words = torch.cat([numbers // blocks == each, numbers % blocks == each])
    told = on_in(words)
    felt = {place: ~_any_in_both(words.T, ~rows) for place, rows in told.items()}
    groups = _apart({n: among for n, among in enumerate(torch.cat([*felt.values()], 1)) if among.any()})
    if groups:
        sent = on_in(torch.stack([alone[group].any(0) for group in groups]))
        for number, group in enumerate(groups):
            for place, rows in sent.items():
                felt[place][group] &= rows[number]
    explained = all(torch.equal(_any_in_both(words, felt[place]), rows) for place, rows in told.items())
    return felt if explained else on_in(alone)


def _any_in_both(one: Tensor, other: Tensor) -> Tensor:
    """Whether both are true anywhere along the dimension they share: bool [a, b] of [a, k] and [k, b]."""
    return (one.float() @ other.float()).gt(0)


def _padded(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])


def _apart(reached: Mapping[S, Tensor]) -> list[list[S]]:
    """Groups of sources no two of which arrive at one column."""
    groups: list[tuple[list[S], Tensor]] = []
    for source, columns in reached.items():
        for number, (group, taken) in enumerate(groups):
            if not bool((taken & columns).any()):
                groups[number] = ([*group, source], taken | columns)
                break
        else:
            groups.append(([source], columns))
    return [group for group, _ in groups]


def code(n: int) -> Tensor:
    """A word for each of n neurons, bool [n, L], each with L/2 ones, L as small as can be."""
    length = next(even for even in itertools.count(2, 2) if math.comb(even, even // 2) >= n)
    ones = torch.tensor(list(itertools.islice(itertools.combinations(range(length), length // 2), n)))
    return torch.zeros(n, length, dtype=torch.bool).scatter_(1, ones, True)


def read(told: Tensor, words: Tensor) -> Link:
    """What the columns tell: ``told``, bool [L, d], by ``words``, bool [n, L].

    A column that spells no word can feel any neuron, until they are told apart.
    """
    worth = 2 ** torch.arange(words.shape[1])
    known, order = (words.long() @ worth).sort()
    numbers = told.T.long() @ worth
    at = torch.searchsorted(known, numbers).clamp(max=len(known) - 1)
    neurons = torch.where(known[at] == numbers, order[at], SEVERAL)
    neurons[~told.any(0)] = NONE
    return Link(neurons, torch.ones(int(neurons.eq(SEVERAL).sum()), len(words), dtype=torch.bool))


def changed(
    model: Structure, rows: Mapping[Stage, Tensor], kinds: Sequence[int], *, through: bool = False
) -> dict[Stage, Tensor]:
    """Where each row brings something else than no neuron does, bool [r, d] by stage, with OUTPUT.

    ``rows``: of one call, of :data:`ALL` calls of a layer, or of INPUT. ``through``: norms that stand behind
    no layer let through what arrives, and the input is 0 unless it is a source; otherwise both are anything.
    """
    count = len(next(iter(rows.values())))
    step = max(LEAST_ROWS, AT_ONCE // values_a_row(model))
    parts: list[dict[Stage, Tensor]] = []
    for start in range(0, count, step):
        some = {stage: on[start : start + step] for stage, on in rows.items()}
        part: dict[Stage, Tensor] = {}
        for kind in kinds:
            for stage, felt in _changed_once(model, some, kind, through).items():
                part[stage] = part[stage] | felt if stage in part else felt
        parts.append(part)
    return {stage: torch.cat([part[stage] for part in parts]) for stage in parts[0]}


def _changed_once(
    model: Structure, rows: Mapping[Stage, Tensor], kind: int, through: bool
) -> dict[Stage, Tensor]:
    """A pass with a sample a row, behind one in which no neuron is on; all else is the same in each."""
    loud, calm = Sender(model, None, kind), Sender(model, None, 0)
    rows = {stage: torch.cat([on[:1] & False, on]).to(model.device) for stage, on in rows.items()}
    found: dict[Stage, Tensor] = {}
    places = {path: number for number, path in enumerate(model.layers)}
    called, gave = dict.fromkeys(model.layers, 0), dict.fromkeys(model.layers, 0)

    def alike(_path: str, x: Tensor) -> Tensor:
        return calm.draw(x[:1]).expand_as(x).contiguous()

    def sent(on: Tensor, like: Tensor, dim: int) -> Tensor:
        shape = [len(like), *[1] * (like.dim() - 1)]
        shape[dim] = on.shape[1]
        values = loud.draw(like[:1])
        return torch.where(on.view(shape), values, torch.zeros_like(values)).expand_as(like).contiguous()

    def emit(path: str, output: Tensor) -> Tensor:
        on = rows.get((path, ALL), rows.get((path, gave[path])))
        if through:  # what computes with them does the same in every pass
            loud.random.manual_seed((places[path] << 16) + gave[path])
        gave[path] += 1
        return (
            torch.zeros_like(output) if on is None else sent(on, output, model.gates_by_path[path].neuron_dim)
        )

    def keep(place: str, x: Tensor) -> Tensor:
        gate = model.gates_by_path.get(place)
        felt = differs_from_first(x, -1 if gate is None else gate.neuron_dim)
        if gate is not None:
            found[place, called[place]] = felt.cpu()
            called[place] += 1
        return felt

    x = model.size.zeros(model, len(next(iter(rows.values()))))
    if not through:
        x = alike("", x)
    elif INPUT in rows:
        x = sent(rows[INPUT], x, 1)
    with telling(kind):
        others: Emit = (lambda _path, x: x) if through else alike
        arrivals = send(model, emit, x, free_norms=others, keep=keep, follow=not through)
    return found | {OUTPUT: arrivals.features.cpu()}


def differs_from_first(x: Tensor, dim: int) -> Tensor:
    """Where the other entries of x [1 + r, ...] differ from its first one along ``dim``: bool [r, d]."""
    first, others = x[:1], x[1:]
    flags = others.ne(first)
    if bool((still := first.isnan()).any()):
        flags &= ~(others.isnan() & still)
    return flags.movedim(dim, 1).flatten(2).any(2) if x.dim() > 2 else flags
