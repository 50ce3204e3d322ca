"""What a task remembers of how well it did on validation data: a few numbers, kept as part of the model.

Shapes: logits [n, classes], y [n].
"""

from typing import cast

import torch
from torch import Tensor, nn

from ..masking import MaskedModel
from ..masking.layers import evaluating
from ..masking.recognition.calibration import fit_temperature


@torch.no_grad()
def predict(model: MaskedModel, x: Tensor, task: int, batch_size: int = 512) -> Tensor:
    """Logits [n, classes] of ``task`` for x [n, ...] on the model's device, with the committed bits."""
    with evaluating(model):
        return torch.cat([model(part.to(model.device), task) for part in x.split(batch_size)])


@torch.no_grad()
def features_of(model: MaskedModel, x: Tensor, task: int, batch_size: int = 512) -> Tensor:
    """Features [n, d] that the head of ``task`` reads, for x [n, ...], on the model's device."""
    with evaluating(model):
        return torch.cat([model.features(part.to(model.device), task) for part in x.split(batch_size)])


@torch.no_grad()
def own_logits(model: MaskedModel, x: Tensor, task: int) -> Tensor:
    """Logits [n, classes] of ``task`` as it learnt them, without what it reads from other tasks."""
    return cast(nn.Linear, model.heads[str(task)])(features_of(model, x, task))


def assess(model: MaskedModel, task: int, x: Tensor, y: Tensor, samples: int) -> None:
    """Keep in the record of ``task`` what validation data x [n, ...], y [n] say of it.

    accuracy [], class_accuracy [classes] and temperature [] of its logits; and ``samples`` [], how many
    it was trained on.
    """
    logits = predict(model, x, task)
    y = y.to(logits.device)
    right = logits.argmax(1).eq(y).float()
    by_class = [right[y == c].mean() if (y == c).any() else right.mean() for c in range(logits.shape[1])]
    record = model.record(task)
    record.put("accuracy", right.mean())
    record.put("samples", torch.tensor(float(samples), device=logits.device))
    record.put("class_accuracy", torch.stack(by_class))
    record.put("temperature", torch.tensor(fit_temperature(logits, y), device=logits.device))


def remembered(model: MaskedModel, task: int, name: str) -> float | None:
    """A number that :func:`assess` kept, or None."""
    value = model.record(task).get(name)
    return None if value is None else float(value)
