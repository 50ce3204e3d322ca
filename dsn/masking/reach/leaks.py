"""What makes a backbone forget, whatever is protected: refused when it is wrapped."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import InputError
from ..structure import Structure
from .comparing import changed, felt
from .live import map_of
from .sending import Arrivals, send
from .values import KINDS, Sender, signed, zero_input


def refuse_leaks(model: Structure) -> None:
    """Raise InputError where a masked neuron could still be felt: see each message for the case.

    Warns where weights are protected that need not be, since the backbone does not run on every value.
    """
    why = map_of(model).why
    if why is not None:
        warnings.warn(
            f"the backbone does not run on values that are not finite ({why}), by which the inputs that "
            "masked neurons cannot reach are found: all weights of a used neuron will be protected",
            stacklevel=2,
        )
    _refuse_endless_zeros(model)
    _refuse_signs(model)


def _refuse_endless_zeros(model: Structure) -> None:
    """Where all neurons are masked, ordinary values must not become infinite or NaN."""
    nothing = {path: torch.zeros(n, dtype=torch.bool) for path, n in model.layers.items()}
    for zero in (None, -0.0, 0.0):
        arrivals = Sender(model, nothing, 0, zero).send()
        for place, flags in felt(model, arrivals, lambda t: ~t.isfinite()).items():
            if bool(flags.any()):
                raise InputError(
                    f"what arrives at '{place}' is infinite or not a number where the neurons before it are "
                    "masked: an operation between them divides by a 0, or takes its logarithm; use another"
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
    still = _with_norms_computing(model, half, kind, 0.0, x)
    for zero in (-0.0, None):
        moved = _with_norms_computing(model, half, kind, zero, x)
        for place, flags in changed(model, still, moved).items():
            if bool(flags.any()):
                raise InputError(
                    f"what arrives at '{place}' depends on the sign of a masked neuron's 0, which its "
                    "weights give: an operation before it tells +0 from -0 (signbit, copysign, 1 / x); use "
                    "another"
                )


def _with_norms_computing(
    model: Structure, masks: Mapping[str, Tensor], kind: int, zero: float | None, x: Tensor
) -> Arrivals:
    return send(model, Sender(model, masks, kind, zero), x)
