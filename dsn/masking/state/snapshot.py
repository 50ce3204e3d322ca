"""What nobody has written since is not read again: copies of a state cost little, however many the tasks."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Generic, TypeVar

from torch import Tensor, nn

from ..records import Counting, OpenState

_INSIDE = operator.attrgetter("_parameters", "_buffers", "_modules")
BLOCK = 32
"""so many of what stays are asked at once"""
Key = TypeVar("Key", bound=Hashable)
Held = tuple[Sequence[nn.Module], Sequence[Tensor]]
"""modules, and tensors beside them"""


class Snapshot:
    """What tensors modules have and how often each was written, to ask later whether that is still so.

    Operations in place count, other tensors and another storage. Writes through ``tensor.data`` do not, nor
    does what happens outside of torch; tensors made in inference mode count nothing, so they never stay.
    ``Counting`` modules say themselves.
    """

    def __init__(self, modules: Sequence[nn.Module], tensors: Sequence[Tensor] = ()) -> None:
        self._modules, self._loose = list(modules), list(tensors)
        parts = [part for module in modules for part in _parts(module)]
        self._counting = [part for part in parts if isinstance(part, Counting)]
        self._parts = [part for part in parts if not isinstance(part, Counting)]
        self._there = self._look()
        parameters = [p for part in self._parts for p in part.parameters(recurse=False)]
        self._movable = [*parameters, *tensors]  # a buffer that moves is another tensor
        self._tensors = [*self._movable, *(b for part in self._parts for b in part.buffers(recurse=False))]
        countable = not any(tensor.is_inference() for tensor in self._tensors)
        self._counts = self._count() if countable else None

    def holds(self, modules: Sequence[nn.Module], tensors: Sequence[Tensor] = ()) -> bool:
        """Whether it is of these modules and tensors, and nothing in them was replaced or written since."""
        if self._counts is None or not _same(modules, self._modules) or not _same(tensors, self._loose):
            return False
        return _same(self._look(), self._there) and self._count() == self._counts

    def _look(self) -> list[object]:
        """Parameters, buffers and children; torch may give a module another dict of them."""
        return list(chain.from_iterable(map(dict.values, chain.from_iterable(map(_INSIDE, self._parts)))))

    def _count(self) -> tuple[object, ...]:
        """Changes, writes, and where and how tensors lie that stay the same when they are moved."""
        places = [(tensor.data_ptr(), tensor.stride()) for tensor in self._movable]
        return [c.changes for c in self._counting], [t._version for t in self._tensors], places


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` and its submodules, but for those of what counts its changes."""
    yield module
    if not isinstance(module, Counting):
        for child in module.children():
            yield from _parts(child)


def _same(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))


class Snapshots(Generic[Key]):
    """One of each of many, by a key. What stays is asked in blocks: a question about all costs little."""

    def __init__(self) -> None:
        self._single: dict[Key, Snapshot] = {}
        self._blocks: dict[tuple[Key, ...], Snapshot] = {}

    def written(self, now: Mapping[Key, Held], *, known_stay: bool = False) -> set[Key]:
        """Those of ``now`` that are new, or in which something was replaced or written since the last call.

        ``known_stay``: those of the last call are known to be what they were.
        """
        for key in self._single.keys() - now.keys():
            del self._single[key]
        self._blocks = {
            keys: block
            for keys, block in self._blocks.items()
            if all(map(now.__contains__, keys)) and (known_stay or block.holds(*_together(now, keys)))
        }
        asked = set(chain.from_iterable(self._blocks))
        stay, found = list[Key](), set[Key]()
        for key in [key for key in now if key not in asked]:
            if key in self._single and (known_stay or self._single[key].holds(*now[key])):
                stay.append(key)
            else:
                self._single[key] = Snapshot(*now[key])
                found.add(key)
        for first in range(0, 0 if known_stay else len(stay) - BLOCK + 1, BLOCK):
            keys = tuple(stay[first : first + BLOCK])
            self._blocks[keys] = Snapshot(*_together(now, keys))
        return found


def _together(held: Mapping[Key, Held], keys: Sequence[Key]) -> Held:
    modules, tensors = zip(*map(held.__getitem__, keys), strict=True)
    return list(chain.from_iterable(modules)), list(chain.from_iterable(tensors))


class Joined(Mapping[str, Tensor]):
    """Several mappings as one, which is made when it is asked for."""

    def __init__(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        self._mappings = parts

    @cached_property
    def _whole(self) -> dict[str, Tensor]:
        return {name: tensor for part in self._mappings for name, tensor in part.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


class StateCopies:
    """Copies of a model's state on the CPU; what closed tasks have is copied anew where it was written."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Tensor]] = {}
        self._snapshots = Snapshots[str]()

    def of(self, model: nn.Module, *, closed_stay: bool = False) -> Mapping[str, Tensor]:
        """``model.state_dict()`` as it is now, copied. A copy of what stays is given out again: nobody may
        write into it. ``closed_stay``: what was closed at the last call is known to be what it was."""
        state = OpenState()
        model.state_dict(destination=state)
        held: dict[str, Held] = {prefix: ((module,), ()) for prefix, module in state.closed.items()}
        written = self._snapshots.written(held, known_stay=closed_stay)
        self._known = {
            prefix: _copies(module, prefix) if prefix in written else self._known[prefix]
            for prefix, module in state.closed.items()
        }
        return Joined([{name: on_cpu(tensor) for name, tensor in state.items()}, *self._known.values()])


def _copies(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {name: on_cpu(tensor) for name, tensor in module.state_dict(prefix=prefix).items()}


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU that stays as it is while training goes on."""
    return tensor.detach().to("cpu", copy=True)
