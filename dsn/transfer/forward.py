"""Forward transfer into the head: a task that was just learnt reads what earlier tasks see in its inputs.

Its own data are at hand, so this is supervised; earlier tasks are read, never changed. Shapes: x [n, ...],
y [n], features [n, d], logits [n, classes].
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..masking import MaskedModel
from ..masking.records import Lateral
from .assessment import features_of, own_logits, remembered
from .correspondence import SAMPLES
from .linear import fit_head
from .similarity import most_similar

WEIGHTS = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class ForwardOutcome:
    """What ``task`` reads from the earlier tasks ``sources``, with what weight; 0: nothing.

    loss_before, loss_after: cross-entropy on its validation data without and with it, in nats.
    """

    task: int
    sources: list[int]
    weight: float
    loss_before: float
    loss_after: float

    def __str__(self) -> str:
        names = f"{'tasks' if len(self.sources) > 1 else 'task'} {', '.join(map(str, self.sources))}"
        losses = f"validation loss {self.loss_before:.3f} to {self.loss_after:.3f}"
        if not self.weight:
            return f"task {self.task} reads nothing of {names}: that would not lower its validation loss"
        return f"task {self.task} reads {names} with weight {self.weight:g}: {losses}"


def transfer_forward(
    model: MaskedModel, task: int, x: Tensor, y: Tensor, validation: tuple[Tensor, Tensor], tasks: int
) -> ForwardOutcome | None:
    """Let ``task`` read the features of the ``tasks`` earlier ones most like it; None if there are none.

    z_k / T_k + w (sum_j V_j f_j(x) + c): V and c are one logistic regression on the features of all j, fitted
    to the task's training data; w in ``WEIGHTS`` has the least cross-entropy on its validation data, whose
    temperature T_k ``assess`` has kept.
    """
    sources = most_similar(model, task, tasks)
    if not sources:
        return None
    step = -(-len(x) // SAMPLES)
    x, y = x[::step], y[::step].to(model.device)
    classes = int(model.heads[str(task)].out_features)  # type: ignore[arg-type]
    seen = [features_of(model, x, source) for source in sources]
    weight, bias = fit_head(torch.cat(seen, 1), F.one_hot(y, classes).float())
    columns = weight.split([features.shape[1] for features in seen], 1)

    held_out, labels = validation[0], validation[1].to(model.device)
    scale = 1 / (remembered(model, task, "temperature") or 1.0)
    own = scale * own_logits(model, held_out, task).float()
    read = bias + sum(
        F.linear(features_of(model, held_out, source).float(), v)
        for source, v in zip(sources, columns, strict=True)
    )
    losses = torch.stack([F.cross_entropy(own + w * read, labels) for w in WEIGHTS])
    best = int(losses.argmin())
    outcome = ForwardOutcome(task, sources, WEIGHTS[best], float(losses[0]), float(losses[best]))
    if best:
        for index, (source, v) in enumerate(zip(sources, columns, strict=True)):
            first = index == 0
            model.lateral_heads(task).append(
                Lateral(
                    source,
                    weight.new_tensor(scale if first else 1.0),
                    WEIGHTS[best] * v,
                    WEIGHTS[best] * bias if first else torch.zeros_like(bias),
                )
            )
    return outcome
