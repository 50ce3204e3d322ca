"""The weights a pruned network starts from."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dsn.masking.kinds import per_neuron

from .layers import weights_of


@torch.no_grad()
def apply_masks(network: nn.Module, masks: Mapping[str, Tensor], *, rescale: bool = False) -> None:
    """Set the weights outside ``masks`` to 0, in place.

    ``rescale``: multiply the others by sqrt(fan in / active fan in) of their neuron. All initialisations in
    use have variances in proportion to 1 / fan in (He et al. 2015); so has this, for the inputs still there.
    """
    for path, weight in weights_of(network).items():
        mask = masks[path].to(weight.device)
        weight.mul_(mask)
        if rescale:
            active = mask.flatten(1).sum(1).clamp(min=1).to(weight.dtype)
            factor = (mask[0].numel() / active).sqrt()
            weight.mul_(per_neuron(factor, weight))
