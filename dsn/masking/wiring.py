"""What masked neurons reach: found by sending values through the network instead of tracing it.

Each masked layer emits given values in place of its output, on an evaluation pass. What can arrive non-zero
at a layer's input is live. Residual sums, concatenation, flatten and pooling need no case of their own.

What is live must be so for *any* values: a weight that is taken for dead by mistake is not protected, and
earlier tasks change. So many kinds of values are sent (:data:`KINDS`), and what any of them brings is live:
NaN and the infinities pass through nearly every operation; finite values of all sizes and both signs, that
differ over neurons, positions and the batch and are 0 here and there, pass through the others (a comparison
with NaN is false). What cannot be decided is live: that costs plasticity, not memory.

Shapes: values and masks [n] a layer; inputs [d] a layer, d the columns of a Linear's weight or the input
channels of a Conv.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import InputError
from .kinds import Maskable, layer_kind
from .layers import evaluating
from .norms import TaskNorm

if TYPE_CHECKING:
    from .model import MaskedModel

Emit = Callable[[str, Tensor], Tensor]
"""(path, output) -> what is sent in its place; ``output`` gives shape, type and device, its values do not "
"count"""
InputsOfTask = tuple[dict[str, int], dict[str, Tensor], dict[str, Tensor]]
"""widths of the layers, masks of a task, and the inputs that these let through, by layer"""
BATCH = 3  # samples sent at once, so that statistics over the batch are felt too


@dataclass
class Arrivals:
    """What one pass brought: to each layer's input, to each norm's input, and to the features."""

    layers: dict[str, list[Tensor]]
    norms: dict[str, list[Tensor]]
    features: Tensor

    def places(self) -> dict[str, list[Tensor]]:
        """What arrived at each layer and at the "features"."""
        return {**self.layers, "features": [self.features]}


def send(
    model: MaskedModel,
    emit: Emit | Mapping[str, Tensor],
    x: Tensor,
    *,
    raw: Emit | None = None,
    free_norms: Emit | None = None,
) -> Arrivals:
    """Run the backbone on ``x`` while each layer emits values where its mask is applied.

    Args:
        emit: the values, or one number a neuron, [n] by path.
        raw: what a layer gives past its mask, before a norm that the mask follows; by default zeros.
        free_norms: what norms emit that stand behind no layer; by default they compute.
    """
    layers: dict[str, list[Tensor]] = {path: [] for path in model.gates_by_path}
    norms: dict[str, list[Tensor]] = {}
    emitted = _broadcast(model, emit) if isinstance(emit, Mapping) else emit

    def layer_forward(path: str, layer: Maskable, masked_here: bool) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            shape = _output_shape(model, path, layer, input, len(layers[path]))
            layers[path].append(input.detach().clone())
            output = input.new_zeros(shape)
            if masked_here:
                return emitted(path, output)
            return output if raw is None else raw(path, output)

        return forward

    def norm_forward(path: str, norm: TaskNorm, send_on: Emit | None) -> Callable[[Tensor], Tensor]:
        compute = norm.forward

        def forward(x: Tensor) -> Tensor:
            norms[path].append(x.detach().clone())
            return compute(x) if send_on is None else send_on(path, x)

        return forward

    layer_of = {norm: path for path, norm in model.norm_of.items() if norm is not None}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        model.select(None)
        for path, layer in model.layer_modules():
            _stand_in(stack, layer, layer_forward(path, layer, model.norm_of[path] is None))
        for path, norm in model.backbone.named_modules():
            if isinstance(norm, TaskNorm):
                norms[path] = []
                behind = layer_of.get(path)
                placed = None if behind is None else _named(emitted, behind)
                _stand_in(stack, norm, norm_forward(path, norm, placed or free_norms))
        features = model.backbone(x)
    return Arrivals(layers, norms, features)


def _stand_in(stack: ExitStack, module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Let ``module`` run ``forward`` until ``stack`` is closed."""
    module.forward = forward  # on the instance: the class's own comes back with its removal
    stack.callback(lambda: module.__dict__.pop("forward"))


def _named(emit: Emit, path: str) -> Emit:
    return lambda _path, output: emit(path, output)


def _broadcast(model: MaskedModel, values: Mapping[str, Tensor]) -> Emit:
    def emit(path: str, output: Tensor) -> Tensor:
        return model.gates_by_path[path].as_broadcast(values[path], output).expand_as(output).clone()

    return emit


def _output_shape(model: MaskedModel, path: str, layer: Maskable, x: Tensor, call: int) -> tuple[int, ...]:
    calls = model.map_sizes[path]
    return layer_kind(layer).output_shape(x, model.gates_by_path[path].n, calls[min(call, len(calls) - 1)])


# ---- what is sent ----------------------------------------------------------------------------------------


def _signed(shape: torch.Size, random: torch.Generator) -> Tensor:
    """Numbers of any size from 1e-4 to 1e4 and of both signs."""
    sign = torch.randint(0, 2, shape, generator=random) * 2.0 - 1
    return sign * 10 ** (8 * torch.rand(shape, generator=random) - 4)


def _holed(shape: torch.Size, random: torch.Generator) -> Tensor:
    return _signed(shape, random) * torch.randint(0, 2, shape, generator=random)


def _even(shape: torch.Size, random: torch.Generator) -> Tensor:
    """The same all over a map, or along the dimensions in the middle; some neurons are 0."""
    small = torch.Size(
        [shape[0], shape[1], *[1] * (len(shape) - 3), *([shape[-1]] if len(shape) == 3 else [1])]
    )
    return _holed(small if len(shape) > 2 else shape, random).expand(shape).contiguous()


def _sparse(shape: torch.Size, random: torch.Generator) -> Tensor:
    """A half, a quarter, an eighth of the neurons (dimension 1, or the last), the others 0 all over a map."""
    kept = 0.5 ** (1 + torch.arange(shape[0]) % 3).view(-1, *[1] * (len(shape) - 1))
    dim = 1 if len(shape) != 3 else int(torch.randint(1, 3, (), generator=random))
    small = [n if at in (0, dim) else 1 for at, n in enumerate(shape)]
    return _signed(shape, random) * (torch.rand(small, generator=random) < kept)


def _filled(value: float) -> Callable[[torch.Size, torch.Generator], Tensor]:
    return lambda shape, _random: torch.full(shape, value)


FINITE: tuple[Callable[[torch.Size, torch.Generator], Tensor], ...] = (
    lambda shape, random: 1 + torch.rand(shape, generator=random),
    lambda shape, random: -1 - torch.rand(shape, generator=random),
    _signed,
    _holed,
    _even,
    _sparse,
    _sparse,
)
BOUNDLESS = (_filled(math.nan), _filled(math.inf), _filled(-math.inf))
KINDS = (*FINITE, *BOUNDLESS)


class _Sender:
    """Values of one kind for the network's input, and for what the masks let through.

    What is masked is 0, of the sign of ``zero``, by default of any sign: a masked neuron's sign is that of
    what its weights give.
    """

    def __init__(
        self,
        model: MaskedModel,
        masks: Mapping[str, Tensor] | None,
        kind: int,
        zero: float | None = None,
    ) -> None:
        self.model, self.masks, self.kind, self.zero = model, masks, kind, zero
        self.random = torch.Generator().manual_seed(kind)
        self.signs = torch.Generator().manual_seed(kind)

    def draw(self, like: Tensor) -> Tensor:
        return KINDS[self.kind](like.shape, self.random).to(like)

    def __call__(self, path: str, output: Tensor) -> Tensor:
        if self.zero is None:
            zeros = ((torch.randint(0, 2, output.shape, generator=self.signs) * 2.0 - 1) * 0.0).to(output)
        else:
            zeros = torch.full_like(output, self.zero)
        if self.masks is None:
            return zeros
        gate = self.model.gates_by_path[path]
        mask = torch.zeros(gate.n, dtype=torch.bool, device=output.device)
        mask[: len(self.masks[path])] = self.masks[path].to(mask)
        shape = [1] * output.dim()
        shape[gate.neuron_dim] = gate.n
        return torch.where(mask.view(shape), self.draw(output), zeros)

    def send(self) -> Arrivals:
        """One pass; the network's own input and norms that stand behind no layer are not masked."""
        return send(self.model, self, self.x(), free_norms=lambda _path, output: self.draw(output))

    def x(self) -> Tensor:
        return self.draw(_zeros(self.model))


def _zeros(model: MaskedModel) -> Tensor:
    return torch.zeros((BATCH, *model.input_shape[1:]), device=model.device, dtype=model.dtype)


# ---- what arrives ----------------------------------------------------------------------------------------


def live_inputs(model: MaskedModel, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Which inputs of each layer [d], and which features [d], can differ from 0 under ``masks``.

    The network's own input counts as live, and so does what a norm gives that stands behind no layer, since
    its state is each task's own. Masks shorter than their layer (it has grown since) are filled up with
    zeros.
    """
    found = _Flags()
    for kind, _ in enumerate(KINDS):
        try:
            arrivals = _Sender(model, masks, kind).send()
        except Exception:  # the backbone's own code, on values that it may check
            if KINDS[kind] not in BOUNDLESS:
                raise
            found.everything()
            continue
        found.add(_flags(model, arrivals, lambda arrived: arrived.ne(0)))
    return found.layers(model)


def read_inputs(model: MaskedModel, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which columns [d] of each layer's weight the neurons under ``masks`` may depend on.

    Those of the live inputs; those that were not seen live even with all neurons open, since nothing is known
    of them (a threshold that hardly any values pass); and all of them where a layer's own forward may mix the
    columns of a row, as weight standardisation does.
    """
    live, _ = live_inputs(model, masks)
    seen = _seen_live(model)
    return {
        path: torch.ones_like(flags) if path in model.whole_rows else flags | ~seen[path]
        for path, flags in live.items()
    }


def _seen_live(model: MaskedModel) -> dict[str, Tensor]:
    """The inputs [d] of each layer that were live with all neurons open, found once for its widths."""
    key = (model.layers, model.device)
    if model.seen_live is None or model.seen_live[0] != key:
        everything = {
            path: torch.ones(n, dtype=torch.bool, device=model.device) for path, n in key[0].items()
        }
        model.seen_live = (key, live_inputs(model, everything)[0])
    return model.seen_live[1]


def needed_inputs(model: MaskedModel, before: int | None = None) -> dict[str, Tensor]:
    """Which columns [d] of each layer's weight the used neurons depend on, for any committed task.

    ``before``: for the tasks committed before this one. What all masks together let through, and what each of
    them does alone: where neurons compete (top-k, a norm over them), fewer open ones can mean more felt.
    """
    tasks = model.committed if before is None else model.committed[: model.tasks.index(before)]
    needed = read_inputs(model, model.used(before))
    for task in tasks:
        alone = _inputs_of(model, task)
        needed = {path: flags | alone[path] for path, flags in needed.items()}
    return needed


def _inputs_of(model: MaskedModel, task: int) -> dict[str, Tensor]:
    """:func:`read_inputs` under the mask of ``task``, found once a mask and widths."""
    masks = model.masks(task)
    known = model.inputs_of_tasks.get(task)
    if (
        known is None
        or known[0] != model.layers
        or any(m.device != known[1][p].device or not torch.equal(known[1][p], m) for p, m in masks.items())
    ):
        known = model.inputs_of_tasks[task] = (model.layers, masks, read_inputs(model, masks))
    return known[2]


class _Flags:
    """Bool [d] by place, gathered over passes."""

    def __init__(self) -> None:
        self.flags: dict[str, Tensor] = {}
        self.all = False

    def add(self, more: Mapping[str, Tensor]) -> None:
        for place, flags in more.items():
            self.flags[place] = self.flags[place] | flags if place in self.flags else flags

    def everything(self) -> None:
        self.all = True

    def layers(self, model: MaskedModel) -> tuple[dict[str, Tensor], Tensor]:
        """By layer, and those of the features; where nothing ever arrived, all could be live."""
        for path, layer in model.layer_modules():
            if path not in self.flags:
                self.flags[path] = torch.ones(layer.weight.shape[1], dtype=torch.bool, device=model.device)
        if self.all:
            self.flags = {place: torch.ones_like(flags) for place, flags in self.flags.items()}
        return {path: self.flags[path] for path in model.gates_by_path}, self.flags["features"]


def _flags(model: MaskedModel, arrivals: Arrivals, felt: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Which inputs [d] of each place ``felt`` something in any call; places that no call reached are "
    "missing."""
    dims = {path: gate.neuron_dim for path, gate in model.gates_by_path.items()}
    return {
        place: torch.stack([_any_along(felt(t), dims.get(place, -1)) for t in arrived]).any(0)
        for place, arrived in arrivals.places().items()
        if arrived
    }


def _any_along(flags: Tensor, dim: int) -> Tensor:
    """Reduce bool ``flags`` to one flag for each index of dimension ``dim``."""
    return flags.movedim(dim, 0).flatten(1).any(1)


def refuse_leaks(model: MaskedModel) -> None:
    """Raise InputError where a masked neuron could still be felt: see each message for the case.

    Warns where weights are protected that need not be, since the backbone does not run on every value.
    """
    everything = {
        path: torch.ones(gate.n, dtype=torch.bool, device=model.device)
        for path, gate in model.gates_by_path.items()
    }
    _refuse_failures(model, everything)
    _refuse_free_norms(model, everything)
    _refuse_reads_past_norms(model)
    _refuse_offsets(model)
    _refuse_signs(model)


def _refuse_failures(model: MaskedModel, everything: Mapping[str, Tensor]) -> None:
    for kind, make in enumerate(KINDS):
        try:
            _Sender(model, everything, kind).send()
        except Exception as error:
            if make in FINITE:
                raise InputError(
                    f"the backbone does not run on made-up values in the shape of {BATCH} example inputs "
                    f"({type(error).__name__}: {error}): masks need a backbone that takes any batch and any "
                    "values"
                ) from error
            warnings.warn(
                f"the backbone does not run on values that are not finite ({type(error).__name__}: {error}), "
                "by which the inputs that masked neurons cannot reach are found: all weights of a used "
                "neuron will be protected",
                stacklevel=2,
            )
            return


def _refuse_free_norms(model: MaskedModel, everything: Mapping[str, Tensor]) -> None:
    placed = {norm for norm in model.norm_of.values() if norm is not None}
    free = [path for path, norm in model.backbone.named_modules() if isinstance(norm, TaskNorm)]
    if not set(free) - placed:
        return
    x = _zeros(model) + 1
    still = send(model, _Sender(model, None, 0), x)
    for kind, _ in enumerate(KINDS):
        try:
            moved = send(model, _Sender(model, everything, kind), x)
        except Exception:  # said by _refuse_failures
            continue
        for norm, inputs in moved.norms.items():
            if norm not in placed and any(
                _differ(a, b).any() for a, b in zip(still.norms[norm], inputs, strict=False)
            ):
                raise InputError(
                    f"norm '{norm}' does not come straight after a Linear or Conv layer: it would turn the "
                    "zeros of masked neurons into other numbers; put it right behind the layer (layer, norm, "
                    "activation) or remove it"
                )


def _refuse_reads_past_norms(model: MaskedModel) -> None:
    if all(norm is None for norm in model.norm_of.values()):
        return
    ones = {path: torch.ones(gate.n, device=model.device) for path, gate in model.gates_by_path.items()}
    x = _zeros(model) + 1
    still = send(model, ones, x)
    for kind in (KINDS.index(_signed), KINDS.index(_holed), KINDS.index(BOUNDLESS[0])):
        raw = _Sender(model, None, kind)
        try:
            moved = send(model, ones, x, raw=lambda _path, output, raw=raw: raw.draw(output))  # type: ignore[misc]
        except Exception:  # said by _refuse_failures
            continue
        for path, flags in _changed(model, still, moved).items():
            if bool(flags.any()):
                raise InputError(
                    f"'{path}' reads the output of a layer past the norm that its mask follows: add a norm "
                    "or layer of its own to the second branch, or use the norm's output in both"
                )


def _refuse_offsets(model: MaskedModel) -> None:
    """Where all neurons are masked, only what comes from the network's input may differ from 0."""
    offset, of_input = _Flags(), _Flags()
    for zero in (None, -0.0, 0.0):
        nothing = _Sender(model, None, 0, zero)
        still = send(model, nothing, _zeros(model))
        offset.add(_flags(model, still, lambda t: t.ne(0)))
    for kind, _ in enumerate(KINDS):
        try:
            moved = send(model, nothing, _Sender(model, None, kind).x())
        except Exception:  # said by _refuse_failures
            continue
        of_input.add(_changed(model, still, moved))
    for place, flags in offset.flags.items():
        if bool((flags & ~of_input.flags[place]).any()):
            raise InputError(
                f"what arrives at '{place}' is not 0 where the neurons before it are masked: an activation "
                "or operation between them maps 0 to something else (a sigmoid, a softplus, an added "
                "constant); use one with f(0) = 0, such as ReLU, GELU or tanh"
            )


def _refuse_signs(model: MaskedModel) -> None:
    """Where half of the neurons are masked, nothing may tell +0 from -0."""
    random = torch.Generator().manual_seed(0)
    half = {
        path: torch.rand(gate.n, generator=random).lt(0.5).to(model.device)
        for path, gate in model.gates_by_path.items()
    }
    x = _zeros(model) + 1
    kind = KINDS.index(_signed)
    still = send(model, _Sender(model, half, kind, 0.0), x)
    for zero in (-0.0, None):
        for place, flags in _changed(model, still, send(model, _Sender(model, half, kind, zero), x)).items():
            if bool(flags.any()):
                raise InputError(
                    f"what arrives at '{place}' depends on the sign of a masked neuron's 0, which its "
                    "weights give: an operation before it tells +0 from -0 (signbit, copysign, 1 / x); use "
                    "another"
                )


def _changed(model: MaskedModel, before: Arrivals, after: Arrivals) -> dict[str, Tensor]:
    """Where two passes brought something else; NaN equals NaN."""
    dims = {path: gate.neuron_dim for path, gate in model.gates_by_path.items()}
    later = after.places()
    return {
        place: torch.stack(
            [
                _any_along(_differ(a, b), dims.get(place, -1))
                for a, b in zip(arrived, later[place], strict=False)
            ]
        ).any(0)
        for place, arrived in before.places().items()
        if arrived and later[place]
    }


def _differ(one: Tensor, other: Tensor) -> Tensor:
    return one.ne(other) & ~(one.isnan() & other.isnan())


# ---- what meets ------------------------------------------------------------------------------------------


def coupled_layers(model: MaskedModel) -> list[list[str]]:
    """Groups of layers whose outputs meet in a sum or product, so that they must have equally many "
    "neurons."""
    paths = list(model.gates_by_path)
    reached: dict[str, Tensor] = {}
    none = {p: torch.zeros(g.n, dtype=torch.bool) for p, g in model.gates_by_path.items()}
    unreached = ~_flat(live_inputs(model, none))
    for path in paths:
        alone = none | {path: torch.ones(model.gates_by_path[path].n, dtype=torch.bool)}
        reached[path] = _flat(live_inputs(model, alone)) & unreached
    groups: list[list[str]] = []
    for path in paths:
        meets = [group for group in groups if any((reached[path] & reached[other]).any() for other in group)]
        groups = [group for group in groups if group not in meets]
        groups.append(sorted({path, *(p for group in meets for p in group)}, key=paths.index))
    return groups


def _flat(live: tuple[dict[str, Tensor], Tensor]) -> Tensor:
    return torch.cat([*live[0].values(), live[1]])
