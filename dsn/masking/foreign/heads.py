"""Attention heads as units: all rows of q, k and v that one head is made of are selected together.

Shapes: h heads of e numbers; rows [h e] of q, of k and of v, or [3 h e] of one layer qkv, in this order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ...errors import InputError

if TYPE_CHECKING:
    from ..structure import Structure

ATTENTION = ("rows", "heads")
FUSED, APART = ("qkv",), (("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))


def select_heads(model: Structure) -> None:
    """Tie the gates of every attention whose ``num_heads`` and ``head_dim`` are known; memory is as without.

    That is ``nn.MultiheadAttention`` and timm's, with q, k and v in one layer or in three.

    Raises InputError where there is none, or where a pretrained backbone keeps all heads open.
    """
    if model.pretrained:
        raise InputError(
            "attention is 'heads', but all heads of a pretrained backbone are open: leave it out"
        )
    tied = [_tie(model, path, module) for path, module in model.backbone.named_modules()]
    if not any(tied):
        raise InputError(
            "attention is 'heads', but no module of the backbone has num_heads, head_dim and layers qkv, or "
            "q, k and v of that size: leave it out, and rows are selected one by one"
        )


def _tie(model: Structure, path: str, module: nn.Module) -> bool:
    """Whether ``module`` is such an attention; its gates are tied then."""
    count, size = getattr(module, "num_heads", None), getattr(module, "head_dim", None)
    if not isinstance(count, int) or not isinstance(size, int):
        return False
    for names, parts in ((FUSED, 3), *((names, 1) for names in APART)):
        gates = [model.gates_by_path.get(f"{path}.{name}".removeprefix(".")) for name in names]
        tied = [gate for gate in gates if gate is not None and gate.n == parts * count * size]
        if len(tied) == len(names):
            for gate in tied:
                gate.tie(parts, count, tied[0])
            return True
    return False
