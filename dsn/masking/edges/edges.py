"""Where a task learns and what it reads: owners of weights, and edge bits.

A task *owns* neurons: their incoming weights, and only those, learn, each weight once in its life. Before
that it has its initial value (initial_values.py). What task t computes a layer with is, row by row,

    owned by t:               trained
    owned by an earlier task: trained * choice
    of anybody or nobody else: initial * choice     (owned later, or never: it stays initial for t for ever)

A neuron's owner is the first task whose committed mask has it, in the order of commits; nothing is stored for
it. A task's mask has the neurons that it owns and the owned ones that it reads; those that nobody owns at
its commit are open beside them. While a task is learnt each edge that it does not own has a score,
straight-through. Its choice is 0 or 1 (``own_and_read``: 1 for the larger half of a layer's |score|), or -1
or 1 (``own_and_sign``: the sign of the score; Koster et al., "Signing the supermask", ICLR 2022,
choose among all three). At the commit it becomes packed bits; without scores (``own``) everything is read as
it is. Biases are the task's own, and so are whole layers that take few bytes: at most 2 kB, or at most a
twentieth of what a bit for every edge of the network takes. A first convolution is one of them, as a rule;
each task starts it from that of the task before.

Shapes: W [n, d, ...]; own, earlier, open: bool [n]; scores and bits of the r rows that are read [r, d, ...].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..bits import pack_bits
from ..kinds import per_edge, per_neuron
from ..reach import laid_out, narrow_columns
from ..state.snapshot import Snapshot
from ..structure import Structure
from .initial_values import initial_values
from .layer import LayerEdges
from .owners import Owners, bits_of

EDGES = ("none", "own_and_read", "own_and_sign", "own")
WHOLE_BYTES, WHOLE_SHARE = 2048, 0.05  # a layer of no more bytes, or share of all bits, is a task's own
CACHED = 4  # committed tasks whose weights are kept ready


class Edges(nn.Module):
    """The edges of every masked layer of a model; see the head of this file.

    Making it gives the model's weights their initial values.
    """

    seed: Tensor
    signs: Tensor

    def __init__(self, model: Structure, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.chooses = mode != "own"
        self.register_buffer("signs", torch.tensor(mode == "own_and_sign"))
        self.layers = nn.ModuleDict()
        self.register_buffer("seed", torch.randint(2**31, ()))
        self._seed = int(self.seed)  # on the host
        self._still: tuple[tuple[object, ...], dict[str, Tensor], dict[str, Tensor]] | None = None
        self._cache: dict[int, tuple[Snapshot, dict[str, Tensor]]] = {}
        edges = sum(layer.weight.numel() for _, layer in model.layer_modules())
        few = max(WHOLE_BYTES, WHOLE_SHARE * edges / 8)
        for path, layer in model.layer_modules():
            whole = layer.weight.numel() * layer.weight.element_size() <= few
            self.layers[path.replace(".", "/")] = LayerEdges(whole, mode == "own_and_sign")
            layer.weight.data.copy_(self.initial(path, layer.weight))
            model.gates_by_path[path].opens_unowned = True

    @torch.no_grad()
    def reseed(self, model: Structure, seed: int) -> None:
        """Give the weights of a model without tasks the initial values of another seed."""
        if seed != self._seed and not model.tasks:
            self.seed.fill_(seed)
            self._seed = seed
            for path, layer in model.layer_modules():
                layer.weight.copy_(self.initial(path, layer.weight))

    def of(self, path: str) -> LayerEdges:
        """The edges of the layer at ``path``."""
        return cast(LayerEdges, self.layers[path.replace(".", "/")])

    def by_path(self) -> Iterator[tuple[str, LayerEdges]]:
        """(path, edges) of each layer, in forward order."""
        return ((key.replace("/", "."), cast(LayerEdges, module)) for key, module in self.layers.items())

    def initial(self, path: str, weight: Tensor) -> Tensor:
        """The initial values of the layer at ``path``, shaped as ``weight``."""
        gain = 1.0 if self.mode == "own_and_sign" else 2.0  # the others read half of them at the start
        return initial_values(self._seed, path, weight.shape, weight, gain)

    def own_parameters(self, task: int) -> list[nn.Parameter]:
        """Biases and weights that ``task`` alone uses."""
        return [parameter for _, layer in self.by_path() for parameter in layer.of(task)]

    def scores(self) -> list[nn.Parameter]:
        """The scores of each layer while a task is learnt; empty otherwise."""
        return [layer.scores for _, layer in self.by_path() if layer.scores is not None]

    def bytes_of(self, task: int) -> int:
        """Bytes of the packed bits of a committed task."""
        kept = (layer.bits.get(str(task)) for _, layer in self.by_path())
        return sum(bits.numel() for bits in kept if bits is not None)

    # ---- a task's life -----------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self, model: Structure, task: int, fresh: Mapping[str, int]) -> None:
        """Begin ``task``: it owns the first ``fresh`` free neurons of each layer; all are alike."""
        last = str(model.tasks[-1]) if model.tasks else None
        for path, edges in self.by_path():
            layer, used = model.layer(path), model.gates_by_path[path].used()
            edges.forget()
            edges.own = ~used & ((~used).cumsum(0) <= fresh[path])
            weight, values = layer.weight, self.initial(path, layer.weight)
            if edges.whole:
                before = edges.weights[last] if last is not None else None
                fits = before is not None and before.shape[1:] == values.shape[1:]
                if before is not None and fits:
                    values[: len(before)] = before
                edges.weights[str(task)] = nn.Parameter(laid_out(values, weight))
            else:
                weight.copy_(torch.where(per_neuron(edges.own, weight), values, weight))
                if self.chooses:
                    edges.scores = nn.Parameter(_drawn_scores(weight, int((~edges.own).sum())))
                edges.prepared(weight, model.gates_by_path[path].used, partial(self.initial, path))
            if layer.bias is not None:
                edges.biases[str(task)] = nn.Parameter(layer.bias.detach().clone())

    def drop(self, task: int) -> None:
        """Undo :meth:`begin`, and :meth:`commit` if there was one."""
        self._still = None
        self._cache.pop(task, None)
        for _, layer in self.by_path():
            layer.drop(task)

    def mask(self, model: Structure, path: str) -> Tensor:
        """Bool [n]: the mask of the task being learnt; its own neurons, and every owned one."""
        return model.gates_by_path[path].used() | self.of(path).own

    @torch.no_grad()
    def commit(self, task: int) -> None:
        """Keep the bits of ``task`` and forget its scores."""
        self._still = None
        for _, edges in self.by_path():
            if edges.scores is not None:
                edges.bits.put(str(task), pack_bits(edges.chosen().flatten()))
            edges.forget()

    def learning_rows(self, model: Structure, path: str, task: int) -> Tensor:
        """Bool [n]: the rows of a layer that are those of ``task``, committed or being learnt."""
        return self.of(path).own if task == model.learning else Owners(model, path, task).own

    # ---- what a task computes with -----------------------------------------------------------------------

    def weights(self, model: Structure, task: int) -> dict[str, Tensor]:
        """The weights and biases of ``task``, by name, as wide as it knows them.

        Differentiable while the task trains, with its mask committed or not; afterwards kept ready until a
        tensor that they come from has changed.
        """
        if task == model.learning:
            return self._learnt(model, task)
        model.masks(task)
        if torch.is_grad_enabled() and next(model.heads[str(task)].parameters()).requires_grad:
            return self._consolidating(model, task)
        sources: list[Tensor] = [p for _, layer in model.layer_modules() for p in layer.parameters()]
        sources += [gate.masks for gate in model.gates_by_path.values()]
        sources += [*self.own_parameters(task), self.seed]
        sources += [bits for _, e in self.by_path() if (bits := e.bits.get(str(task))) is not None]
        with torch.inference_mode(False), torch.no_grad():
            kept = self._cache.pop(task, None)
            if kept is None or not kept[0].holds((), sources):
                kept = Snapshot((), sources), self._committed(model, task)
            self._cache[task] = kept
            while len(self._cache) > CACHED:
                del self._cache[next(iter(self._cache))]
            return kept[1]

    def _learnt(self, model: Structure, task: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path, edges in self.by_path():
            if edges.whole:
                found[f"{path}.weight"] = edges.weights[str(task)]
            else:
                weight, used = model.layer(path).weight, model.gates_by_path[path].used
                found[f"{path}.weight"] = edges.learnt(weight, used, partial(self.initial, path))
            if str(task) in edges.biases:
                found[f"{path}.bias"] = edges.biases[str(task)]
        return found

    def _consolidating(self, model: Structure, task: int) -> dict[str, Tensor]:
        """:meth:`_committed`, differentiable: what does not learn is found once."""
        key = (task, model.device, model.dtype)
        if self._still is None or self._still[0] != key:
            with torch.no_grad():
                owners = {path: Owners(model, path, task).own for path, _ in self.by_path()}
                self._still = (key, self._committed(model, task), owners)
        _, still, owners = self._still
        found = dict(still)
        for path, edges in self.by_path():
            if not edges.whole:
                weight, name = model.layer(path).weight, f"{path}.weight"
                found[name] = torch.where(per_neuron(owners[path], weight), weight, still[name])
        return found

    def _committed(self, model: Structure, task: int) -> dict[str, Tensor]:
        columns = narrow_columns(model, task)
        found: dict[str, Tensor] = {}
        for path, edges in self.by_path():
            if edges.whole:
                found[f"{path}.weight"] = edges.weights[str(task)]
            else:
                layer, owners = model.layer(path).weight, Owners(model, path, task)
                weight = layer if columns is None else layer[: len(owners.own), columns[path]]
                values = torch.where(
                    per_neuron(owners.earlier, weight), weight.detach(), self.initial(path, weight)
                )
                chosen = bits_of(edges.bits.get(str(task)), owners.read, weight)
                read = values * edges.factors(chosen, values.dtype) * per_neuron(owners.read, weight)
                found[f"{path}.weight"] = laid_out(
                    torch.where(per_neuron(owners.own, weight), weight, read), layer
                )
            if str(task) in edges.biases:
                found[f"{path}.bias"] = edges.biases[str(task)]
        return found

    def read(self, model: Structure, task: int, alike: bool = False) -> dict[str, Tensor]:
        """Bool [n, d, ...] a layer, as wide as it is now: the edges that a committed task computes with.

        Its own ones and those whose bits are set; with signs all that are open, or, for ``alike``, those
        that it reads as they are. What it owns of a whole layer is all that is open.
        """
        columns = narrow_columns(model, task)
        found: dict[str, Tensor] = {}
        for path, edges in self.by_path():
            weight, owners = model.layer(path).weight, Owners(model, path, task)
            width = len(owners.own)
            known = torch.ones(weight.shape[1], dtype=torch.bool) if columns is None else columns[path]
            narrow = weight[:width, known.to(weight.device)]
            bits = None if edges.whole or (edges.signs and not alike) else edges.bits.get(str(task))
            inside = bits_of(bits, owners.read, narrow) | per_neuron(owners.own, narrow)
            wide = torch.zeros_like(weight, dtype=torch.bool)
            wide[:width, known.to(weight.device)] = inside
            found[path] = wide
        return found

    def similarity(self, model: Structure, tasks: Sequence[int]) -> Tensor:
        """[T, T] how alike the edges of committed ``tasks`` are: the cosine |a and b| / sqrt(|a| |b|) of what
        they own or read (with signs: as it is) a layer, geometric mean over the layers that are not whole, in
        [0, 1]."""
        maps = [self.read(model, task, alike=True) for task in tasks]
        layers = []
        for path, edges in self.by_path():
            if not edges.whole:
                rows = [torch.stack([(a[path] & b[path]).sum() for b in maps]) for a in maps]
                shared = torch.stack(rows).double()
                size = shared.diagonal()
                layers.append(shared / torch.outer(size, size).sqrt().clamp(min=1))
        if not layers:
            return torch.ones(len(tasks), len(tasks), dtype=torch.float64, device=model.device)
        return torch.stack(layers).log().mean(0).exp()

    # ---- growth and loading -------------------------------------------------------------------------------

    @torch.no_grad()
    def fill(self, model: Structure, rows: Mapping[str, int], columns: Mapping[str, Tensor]) -> None:
        """Give initial values to what was added: rows from ``rows`` on, and all but ``columns``, bool [d]."""
        for path, layer in model.layer_modules():
            weight = layer.weight
            old = torch.arange(len(weight), device=weight.device) < rows[path]
            kept = old[:, None] & columns[path].to(weight.device)
            weight.copy_(torch.where(per_edge(kept, weight), weight, self.initial(path, weight)))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._seed = int(self.seed)

    def take_structure(self, model: Structure, state: Mapping[str, Tensor], prefix: str) -> None:
        """Make room for what ``state`` holds under ``prefix``."""
        self._cache.clear()
        self._still = None
        for key, module in self.layers.items():
            like = model.layer(key.replace("/", ".")).weight
            cast(LayerEdges, module).take_structure(state, f"{prefix}layers.{key}.", like)


def _drawn_scores(weight: Tensor, rows: int) -> Tensor:
    scores = torch.empty_like(weight)
    nn.init.kaiming_uniform_(scores, a=5**0.5)
    return scores[:rows].contiguous()
