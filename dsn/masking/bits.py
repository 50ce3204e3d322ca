"""Masks as packed bits, ceil(n/8) bytes for n neurons, and as wide as their layer is now."""

import torch
from torch import Tensor

_WEIGHTS = (128, 64, 32, 16, 8, 4, 2, 1)


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a bool mask [n] into uint8 [ceil(n/8)], the first neuron in the highest bit, as numpy does."""
    padded = torch.zeros(-(-mask.numel() // 8) * 8, dtype=torch.uint8, device=mask.device)
    padded[: mask.numel()] = mask
    weights = torch.tensor(_WEIGHTS, dtype=torch.uint8, device=mask.device)
    return (padded.view(-1, 8) * weights).sum(dim=1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The bool mask [n] that :func:`pack_bits` packed into uint8 [ceil(n/8)]."""
    weights = torch.tensor(_WEIGHTS, dtype=torch.uint8, device=packed.device)
    return (packed[:, None] & weights).ne(0).view(-1)[:n]


def widened(mask: Tensor, n: int) -> Tensor:
    """The mask as [n]: neurons that were added to its layer later are not in it."""
    return torch.cat([mask, mask.new_zeros(n - len(mask))])
