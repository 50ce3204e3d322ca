"""Norms behind a layer whose output is also read past them: such a norm stands free."""

from __future__ import annotations

import torch

from ..structure import Structure
from .comparing import changed, differ
from .sending import Arrivals, Emit, send
from .values import BOUNDLESS, KINDS, Sender, holed, signed, zero_input


def free_norms_read_past(model: Structure) -> None:
    """Where a layer is read past the norm behind it, put its mask at the layer itself.

    At the norm, the mask would not cover what goes past it. Freed, the norm is one that stands behind no
    layer: what it gives is each task's own affair, and live.
    """
    placed = [path for path, norm in model.norm_of.items() if norm is not None]
    if placed and _felt_past(model, placed):
        for path in placed:
            if _felt_past(model, [path]):
                model.free_norm(path)


def _felt_past(model: Structure, paths: list[str]) -> bool:
    """Whether something changes where ``paths`` give other values than 0 before their norms."""
    ones = {path: torch.ones(gate.n, device=model.device) for path, gate in model.gates_by_path.items()}
    x = zero_input(model) + 1
    still = send(model, ones, x)
    for kind in (KINDS.index(BOUNDLESS[0]), KINDS.index(signed), KINDS.index(holed)):
        try:
            moved = send(model, ones, x, raw=_raw(model, paths, kind))
        except Exception:  # said by refuse_leaks
            continue
        if any(bool(flags.any()) for flags in changed(model, still, moved).values()):
            return True
        if _norms_feel(model, still, moved):
            return True
    return False


def _raw(model: Structure, paths: list[str], kind: int) -> Emit:
    sender = Sender(model, None, kind)
    return lambda path, output: sender.draw(output).clone() if path in paths else output


def _norms_feel(model: Structure, before: Arrivals, after: Arrivals) -> bool:
    """Whether something else arrives at a norm that stands behind no layer."""
    placed = set(model.norm_of.values())
    return any(
        bool(differ(one, other).any())
        for norm, arrived in before.norms.items()
        if norm not in placed
        for one, other in zip(arrived, after.norms[norm], strict=False)
    )
