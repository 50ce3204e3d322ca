"""A task's forward pass over its own neurons alone, for synthesis: the same logits up to rounding, faster.

Each layer is cut to the neurons (rows) that the task's mask keeps and to the inputs (columns) that can then
differ from 0. Layers that meet in a sum keep the union of their masks; layers before a layer or group norm
keep all neurons, since those norms mix them. The model's own tensors are only read.

Shapes: W [out, in, ...] -> W[rows][:, columns]; x [batch, ...]; logits [batch, C].
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..masking import MaskedModel
from ..masking.computes import weights_of
from ..masking.norms import TaskNorm
from ..masking.reach import coupled_layers, live_inputs

TOLERANCE = 1e-3  # of the largest logit


class CompactPass:
    """``logits = compact(x)`` in evaluation mode; ``compact.rows``: bool [n] a layer, the neurons kept."""

    @torch.no_grad()
    def __init__(self, model: MaskedModel, task: int) -> None:
        self._model, self._task = model, task
        self.rows = _rows(model, task)
        columns, features = live_inputs(model, self.rows)
        self._tensors: dict[str, Tensor] = {}
        own = weights_of(model, task)
        for path, layer in model.layer_modules():
            weight, bias = own.get(f"{path}.weight", layer.weight), own.get(f"{path}.bias", layer.bias)
            weight = weight[self.rows[path]][:, columns[path]]
            form = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
            self._tensors[f"{path}.weight"] = weight.contiguous(memory_format=form)
            if bias is not None:
                self._tensors[f"{path}.bias"] = bias[self.rows[path]]
            self._cut_norm(path)
        head = cast(nn.Linear, model.heads[str(task)])
        self._head = head.weight[:, features], head.bias

    def _cut_norm(self, path: str) -> None:
        site = self._model.mask_module(path)
        if not isinstance(site, TaskNorm) or site.mixes_neurons:
            return
        norm = site.of(self._task)
        for name, value in [*norm.named_parameters(), *norm.named_buffers()]:
            if value.dim():
                key = f"{self._model.norm_of[path]}.tasks.{self._task}.{name}"
                self._tensors[key] = value[self.rows[path]]

    def __call__(self, x: Tensor) -> Tensor:
        form = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        inputs = (x.contiguous(memory_format=form),)
        with self._model.lock:
            self._model.select(self._task)
            for path, gate in self._model.gates_by_path.items():
                gate.values = cast(Tensor, gate.values)[self.rows[path]]
            features = functional_call(self._model.backbone, self._tensors, inputs)
        return F.linear(features, *self._head)


def _rows(model: MaskedModel, task: int) -> dict[str, Tensor]:
    masks = model.open_neurons(task)
    rows: dict[str, Tensor] = {}
    for group in coupled_layers(model):
        union = torch.stack([masks[path] for path in group]).any(0)
        for path in group:
            site = model.mask_module(path)
            if isinstance(site, TaskNorm) and site.mixes_neurons:
                union = torch.ones_like(union)
        rows |= dict.fromkeys(group, union)
    return rows


@torch.no_grad()
def compact_pass(model: MaskedModel, task: int, x: Tensor) -> CompactPass | None:
    """The compact pass of a task; None where it does not apply.

    It does not where the model has grown since the task's commit, where the task's head reads from later
    tasks, and where the backbone computes with a fixed number of channels. The last is found out by comparing
    logits on ``x`` [batch, ...].
    """
    widths = {path: len(mask) for path, mask in model.masks(task).items()}
    if len(model.lateral_heads(task)) or widths != model.layers:
        return None
    try:
        compact = CompactPass(model, task)
        logits = compact(x)
    except (RuntimeError, ValueError):
        return None
    full = model(x, task)
    close = (logits - full).abs().amax() <= TOLERANCE * full.abs().amax().clamp(min=1e-6)
    return compact if bool(close) else None
