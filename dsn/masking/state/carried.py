"""Fingerprints after each of many tasks, at the cost of one hash over what all tasks share.

A task's answers depend on weights and biases that earlier tasks need, which lie in one union for all of them,
and on small parts of its own: masks, head, norm state, what it reads, bits of edges. Where the union is what
it was, and so are a task's own parts and those of the tasks that it reads, its fingerprint is carried over.
"""

from __future__ import annotations

import hashlib
from typing import cast

import torch
from torch import Tensor

from ...storage import add_tensor
from ..computes import Computes
from ..layers import evaluating
from ..protection import protected_places
from ..records import Lateral
from .fingerprint import Fingerprint, Fingerprints, whole_hash
from .snapshot import Held, Snapshots


class CarriedFingerprints(Fingerprints):
    """As :class:`Fingerprints`, which it equals; those of tasks that did not change are not made again."""

    _known: dict[int, tuple[tuple[str, ...], Fingerprint]] | None = None
    _union: tuple[dict[str, torch.Size], dict[str, Tensor], str] | None = None
    _masks: tuple[list[int], list[Tensor]] | None = None

    def __init__(self, model: Computes) -> None:
        super().__init__(model)
        self._hashed: dict[int, tuple[str, list[int]]] = {}
        self._snapshots = Snapshots[int]()

    def of(self, *tasks: int) -> list[Fingerprint]:
        """The fingerprints of ``tasks`` as they are now."""
        with evaluating(self.model):
            known = self._known if self._known is not None and self._is_as_it_was() else {}
            parts = self._all_parts()
            found = {}
            for task in tasks:
                digest, sources = parts[task]
                own = (digest, *(parts[source][0] for source in sources))
                before = known.get(task)
                found[task] = (own, before[1] if before and before[0] == own else self._one(task))
            self._known = known | found
            places = protected_places(self.model)
            self._union = self._shapes(), places, self._hash_of(places)
        return [found[task][1] for task in tasks]

    def _is_as_it_was(self) -> bool:
        """Whether what the tasks needed at the last call is the same, in a network of the same size."""
        if self._union is None or self._union[0] != self._shapes():
            return False
        _, places, digest = self._union
        return self._hash_of(places) == digest

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in self._shared().items()}

    def _shared(self) -> dict[str, Tensor]:
        """Weights and biases of the masked layers."""
        found = {}
        for path, layer in self.model.layer_modules():
            found[f"{path}.weight"] = layer.weight
            if layer.bias is not None:
                found[f"{path}.bias"] = layer.bias
        return found

    def _hash_of(self, places: dict[str, Tensor]) -> str:
        """A hash of the shared values at ``places``, on this device."""
        digest = hashlib.sha256(f"{self.model.device} {self.model.dtype}".encode())
        shared = self._shared()
        for name, place in places.items():
            add_tensor(digest, shared[name][place])
        return digest.hexdigest()

    def _all_parts(self) -> dict[int, tuple[str, list[int]]]:
        """A hash of what belongs to each committed task alone, and the tasks that it reads."""
        known = self._hashed if self._masks_are_as_they_were() else {}
        held = self._held()
        written = self._snapshots.written(held)
        self._hashed = {
            task: (self._parts(task), self._sources(task))
            if task in written or task not in known
            else known[task]
            for task in held
        }
        return self._hashed

    def _masks_are_as_they_were(self) -> bool:
        """Whether the tasks of the last call are the first ones still, with the masks that they had."""
        model, before = self.model, self._masks
        now = [gate.masks for gate in model.gates_by_path.values()]
        self._masks = model.committed, [masks.clone() for masks in now]
        if before is None or model.committed[: len(before[0])] != before[0]:
            return False
        return all(masks[: len(old)].equal(old) for masks, old in zip(now, before[1], strict=True))

    def _held(self) -> dict[int, Held]:
        """All that each committed task alone has, but for its masks."""
        model, tasks = self.model, self.model.committed
        kinds = [model.heads, model.laterals, *(norm.tasks for norm in model.norms())]
        modules = zip(*([kind[str(task)] for task in tasks] for kind in kinds), strict=True)
        edges = [list(self._of_edges(task).values()) for task in tasks]
        return dict(zip(tasks, zip(modules, edges, strict=True), strict=True))

    def _of_edges(self, task: int) -> dict[str, Tensor]:
        """What the edges of ``task`` have alone."""
        if self.model.edges is None:
            return {}
        parts = {path: [*e.of(task), e.bits.get(str(task))] for path, e in self.model.edges.by_path()}
        named = {f"edges.{path}.{n}": value for path, part in parts.items() for n, value in enumerate(part)}
        return {name: value for name, value in named.items() if value is not None}

    def _parts(self, task: int) -> str:
        """A hash of what belongs to ``task`` alone."""
        model = self.model
        found = {f"mask.{path}": mask for path, mask in model.open_neurons(task).items()}
        found |= self._head(task) | self._norms(task)
        found |= {f"reads.{name}": value for name, value in model.lateral_heads(task).named_buffers()}
        return whole_hash(found | self._of_edges(task))

    def _sources(self, task: int) -> list[int]:
        return [cast(Lateral, lateral).source_task for lateral in self.model.lateral_heads(task)]
