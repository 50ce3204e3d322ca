"""The values that weights have before a task owns their neuron: signed constants that a seed gives again.

They take no bytes of the model's state but the seed's. Shapes: W [n, d, ...].
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def initial_values(
    seed: int, path: str, shape: tuple[int, ...] | torch.Size, like: Tensor, gain: float = 2.0
) -> Tensor:
    """Random signs times sqrt(gain / fan in), by default as He et al. 2015, for the layer at ``path``.

    The same for the same seed, path and shape on any machine: drawn on the CPU. Type and device are those of
    ``like``.
    """
    digest = hashlib.sha256(f"{seed} {path}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    signs = torch.randint(0, 2, tuple(shape), generator=generator, dtype=torch.int8)
    constant = math.sqrt(gain / math.prod(shape[1:]))
    return (signs.to(like.device, like.dtype) * 2 - 1) * constant
