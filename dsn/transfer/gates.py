"""Backward transfer as the paper has it: gates opened on neurons that the earlier task does not own.

Let N be the neurons of a later task that the earlier task k has not. Soft gates on N and the matching columns
of head k are trained on impressions; every weight of the shared network stays as it is. Then the gates become
bits. Source: Gao et al. 2023; METHOD.md, section 3. Shapes: x [n, ...], targets [n, classes], gates [n_l].
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..masking import MaskedModel
from ..masking.annealing import annealed_sigmoid
from ..masking.layers import evaluating
from ..masking.reach import live_inputs

S_MAX = 400.0
START = -0.05  # gate logits begin closed: the earlier task as it was


def open_gates(
    model: MaskedModel,
    task: int,
    source: int,
    x: Tensor,
    targets: Tensor,
    seed: int,
    *,
    epochs: int = 5,
    batch_size: int = 64,
    lr: float = 0.01,
) -> int:
    """Open gates of ``task`` on neurons of ``source``; returns how many.

    Changes the mask and head of ``task``; norms take the state of the opened channels from ``source``.
    """
    own, others = model.masks(task), model.masks(source)
    closed = {path: _same_width(others[path], mask) & ~mask for path, mask in own.items()}
    if not any(bool(mask.any()) for mask in closed.values()):
        return 0
    _take_norm_state(model, task, source, closed)
    head = cast(nn.Linear, model.heads[str(task)])
    start = head.weight.detach().clone()
    extra = torch.zeros_like(start, requires_grad=True)
    logits = {
        path: torch.full((len(m),), START, device=m.device, requires_grad=True) for path, m in own.items()
    }
    optimizer = torch.optim.Adam([extra, *logits.values()], lr=lr)
    random = torch.Generator().manual_seed(seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    new_columns = _new_features(model, task, closed)
    with evaluating(model), torch.enable_grad():
        for p in trained:
            p.requires_grad_(False)
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=random).to(x.device)
            batches = order.split(batch_size)
            for i, batch in enumerate(batches):
                scale = 1 / S_MAX + (S_MAX - 1 / S_MAX) * i / max(len(batches) - 1, 1)
                model.select(task)
                for path, gate in model.gates_by_path.items():
                    soft = annealed_sigmoid(logits[path], scale, S_MAX) * closed[path]
                    gate.values = own[path] + soft.to(model.dtype)
                features = model.compute(x[batch], task)
                loss = F.cross_entropy(
                    F.linear(features, start + extra * new_columns, head.bias), targets[batch]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        for p in trained:
            p.requires_grad_(True)
    row, opened = model.committed.index(task), 0
    for path, gate in model.gates_by_path.items():
        fresh = closed[path] & (logits[path].detach() > 0)
        opened += int(fresh.sum())
        gate.replace(row, own[path] | fresh)
    with torch.no_grad():
        head.weight.add_(extra * new_columns)
    return opened


def _same_width(mask: Tensor, like: Tensor) -> Tensor:
    return F.pad(mask, (0, max(len(like) - len(mask), 0)))[: len(like)]


def _new_features(model: MaskedModel, task: int, closed: dict[str, Tensor]) -> Tensor:
    """1.0 for the features that come from the closed neurons, [d]."""
    width = cast(nn.Linear, model.heads[str(task)]).in_features
    return live_inputs(model, closed)[1][:width].float() * ~live_inputs(model, model.masks(task))[1][:width]


@torch.no_grad()
def _take_norm_state(model: MaskedModel, task: int, source: int, closed: dict[str, Tensor]) -> None:
    for path, norm_path in model.norm_of.items():
        if norm_path is None:
            continue
        norm = model.backbone.get_submodule(norm_path)
        mine, theirs = norm.of(task).state_dict(), norm.of(source).state_dict()  # type: ignore[operator]
        for name, value in mine.items():
            if value.dim() == 1:
                value[closed[path]] = theirs[name][: len(value)][closed[path]]
