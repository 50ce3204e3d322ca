"""What makes a backbone forget, whatever is protected: refused when it is wrapped."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import InputError
from ..norms import TaskNorm
from ..structure import Structure
from .live import Flags, any_along, felt_inputs, keep_seen_live, open_everywhere
from .sending import Arrivals, send
from .values import BATCH, BOUNDLESS, FINITE, KINDS, Sender, holed, signed, zero_input


def refuse_leaks(model: Structure) -> None:
    """Raise InputError where a masked neuron could still be felt: see each message for the case.

    Warns where weights are protected that need not be, since the backbone does not run on every value.
    """
    everything = open_everywhere(model)
    _refuse_failures(model, everything)
    _refuse_free_norms(model, everything)
    _refuse_reads_past_norms(model)
    _refuse_offsets(model)
    _refuse_signs(model)


def _refuse_failures(model: Structure, everything: Mapping[str, Tensor]) -> None:
    """What arrives where these passes succeed is kept: it is what :func:`live.read_inputs` asks for first."""
    found = Flags()
    for kind, make in enumerate(KINDS):
        try:
            arrivals = Sender(model, everything, kind).send()
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
        found.add(felt_inputs(model, arrivals, lambda arrived: arrived.ne(0)))
    keep_seen_live(model, found.layers(model)[0])


def _refuse_free_norms(model: Structure, everything: Mapping[str, Tensor]) -> None:
    placed = {norm for norm in model.norm_of.values() if norm is not None}
    free = [path for path, norm in model.backbone.named_modules() if isinstance(norm, TaskNorm)]
    if not set(free) - placed:
        return
    x = zero_input(model) + 1
    still = send(model, Sender(model, None, 0), x)
    for kind, _ in enumerate(KINDS):
        try:
            moved = send(model, Sender(model, everything, kind), x)
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


def _refuse_reads_past_norms(model: Structure) -> None:
    if all(norm is None for norm in model.norm_of.values()):
        return
    ones = {path: torch.ones(gate.n, device=model.device) for path, gate in model.gates_by_path.items()}
    x = zero_input(model) + 1
    still = send(model, ones, x)
    for kind in (KINDS.index(signed), KINDS.index(holed), KINDS.index(BOUNDLESS[0])):
        raw = Sender(model, None, kind)
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


def _refuse_offsets(model: Structure) -> None:
    """Where all neurons are masked, only what comes from the network's input may differ from 0."""
    offset, of_input = Flags(), Flags()
    for zero in (None, -0.0, 0.0):
        nothing = Sender(model, None, 0, zero)
        still = send(model, nothing, zero_input(model))
        offset.add(felt_inputs(model, still, lambda t: t.ne(0)))
    for kind, _ in enumerate(KINDS):
        try:
            moved = send(model, nothing, Sender(model, None, kind).x())
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


def _refuse_signs(model: Structure) -> None:
    """Where half of the neurons are masked, nothing may tell +0 from -0."""
    random = torch.Generator().manual_seed(0)
    half = {
        path: torch.rand(gate.n, generator=random).lt(0.5).to(model.device)
        for path, gate in model.gates_by_path.items()
    }
    x = zero_input(model) + 1
    kind = KINDS.index(signed)
    still = send(model, Sender(model, half, kind, 0.0), x)
    for zero in (-0.0, None):
        for place, flags in _changed(model, still, send(model, Sender(model, half, kind, zero), x)).items():
            if bool(flags.any()):
                raise InputError(
                    f"what arrives at '{place}' depends on the sign of a masked neuron's 0, which its "
                    "weights give: an operation before it tells +0 from -0 (signbit, copysign, 1 / x); use "
                    "another"
                )


def _changed(model: Structure, before: Arrivals, after: Arrivals) -> dict[str, Tensor]:
    """Where two passes brought something else; NaN equals NaN."""
    dims = {path: gate.neuron_dim for path, gate in model.gates_by_path.items()}
    later = after.places()
    return {
        place: torch.stack(
            [
                any_along(_differ(a, b), dims.get(place, -1))
                for a, b in zip(arrived, later[place], strict=False)
            ]
        ).any(0)
        for place, arrived in before.places().items()
        if arrived and later[place]
    }


def _differ(one: Tensor, other: Tensor) -> Tensor:
    return one.ne(other) & ~(one.isnan() & other.isnan())
