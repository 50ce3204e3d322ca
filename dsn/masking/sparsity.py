"""The price of neurons: what a task pays for those that no earlier task uses."""

from __future__ import annotations

import torch
from torch import Tensor

from .computes import Computes


def sparsity(model: Computes, task: int) -> Tensor:
    """Share of the free neurons that the soft gates of ``task`` take, in [0, 1]; a scalar with gradient.

    sum_l sum_i sigma(s e_li) (1 - M_li) / sum_l sum_i (1 - M_li), with M the neurons used by earlier tasks
    (METHOD.md, section 1): reuse is free of charge. 0 once the mask is committed, during a dense warm-up,
    where no neuron is free, and with edges, where a plan says what a task takes.
    """
    if task != model.learning or model.dense or model.edges is not None:
        return torch.zeros((), device=model.device)
    return model.price()
