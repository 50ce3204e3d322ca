"""Live inputs found anew for every mask, by sending all kinds of values under it: the map's readable twin."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dsn import MaskedModel
from dsn.masking.reach.comparing import felt
from dsn.masking.reach.values import KINDS, Sender


def sent_live_inputs(model: MaskedModel, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which columns, bool [d] by layer and of the "features", something arrives at under ``masks``."""
    live: dict[str, Tensor] = {}
    for kind, _ in enumerate(KINDS):
        arrivals = Sender(model, masks, kind).send()
        for place, flags in felt(model, arrivals, lambda arrived: arrived.ne(0)).items():
            live[place] = live[place] | flags if place in live else flags
    for path, layer in model.layer_modules():
        live.setdefault(path, torch.ones(layer.weight.shape[1], dtype=torch.bool))
    return live
