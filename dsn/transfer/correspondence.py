"""Which class of a later task stands for which class of an earlier one, seen through the earlier task's eyes.

No data of the earlier task are needed: its subnetwork looks at the later task's training images, whose labels
are known. If the same classes come back (turned, in other styles, other members of the same families), its
outputs say which is which. Shapes: logits [n, old classes], y [n], match [old classes],
votes [later classes, old classes].
"""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..masking import MaskedModel
from ..masking.recognition.calibration import fit_temperature
from .assessment import own_logits, remembered

SAMPLES = 4000  # of the later task are looked at, at most, evenly spread


NEAR_KAPPA, NEAR_TEMPERATURE = 0.5, 1.4


@dataclass(frozen=True)
class Correspondence:
    """How an earlier task's classes correspond to a later one's.

    match[c]: the later class for the earlier class c.
    votes[c', c]: mean probability of c, the earlier task's, in the images of the later class c'.
    agreement: share of the earlier classes c that the earlier task sees most in the images of class match[c].
    accuracy: of the earlier task on the later task's images under the match, in [0, 1].
    temperature: that suits its logits there.
    kappa: the accuracy corrected for chance, 0 at chance and 1 at best (Cohen 1960).
    near: whether the earlier task is at home with those images: kappa is at least ``NEAR_KAPPA``, and it is
        hardly surer of them than it may be, a temperature up to ``NEAR_TEMPERATURE``.
    """

    match: Tensor
    votes: Tensor
    agreement: float
    accuracy: float
    temperature: float

    @property
    def kappa(self) -> float:
        chance = 1 / len(self.match)
        return (self.accuracy - chance) / (1 - chance) if chance < 1 else 0.0

    @property
    def near(self) -> bool:
        return self.kappa >= NEAR_KAPPA and self.temperature <= NEAR_TEMPERATURE


def correspond(model: MaskedModel, task: int, x: Tensor, y: Tensor, classes: int) -> Correspondence | None:
    """How the classes of ``task`` correspond to the labels y [n] of x [n, ...]; None if those are fewer.

    Judged by what the task learnt itself, whatever it reads from other tasks since. The match is the
    one-to-one assignment with the largest sum of votes (Kuhn 1955).
    """
    step = -(-len(x) // SAMPLES)
    x, y = x[::step], y[::step]
    logits = own_logits(model, x, task).float()
    y = y.to(logits.device)
    if logits.shape[1] > classes:
        return None
    outputs = (logits / (remembered(model, task, "temperature") or 1.0)).softmax(1)
    votes = torch.stack([outputs[y == c].mean(0) for c in range(classes)]).nan_to_num(0.0)
    later, earlier = linear_sum_assignment(votes.cpu().numpy(), maximize=True)
    match = torch.empty(logits.shape[1], dtype=torch.long, device=logits.device)
    match[torch.as_tensor(earlier, device=match.device)] = torch.as_tensor(later, device=match.device)
    mine = torch.full((classes,), -1, device=match.device)
    mine[match] = torch.arange(len(match), device=match.device)
    shared = mine[y] >= 0
    target = mine[y[shared]]
    right = logits[shared].argmax(1).eq(target)
    agreement = votes[match].argmax(1).eq(torch.arange(len(match), device=match.device)).float().mean()
    return Correspondence(
        match, votes, float(agreement), float(right.float().mean()), fit_temperature(logits[shared], target)
    )
