"""What a transfer is worth, beside its controls and an oracle, on test data that no decision sees.

Shapes: x [n, ...], y [n], features [n, d], logits [n, classes], targets [n, classes] (rows sum to 1). Gains
are differences of test accuracies, in [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .acceptance import ACCEPTANCE, Decision
from .assessment import features_of, predict
from .backward import TaskState
from .correspondence import SAMPLES
from .linear import fit_head
from .mechanisms import FAR_WEIGHT, MECHANISMS, NEAR_WEIGHT, relabelled_weight
from .similarity import similarity
from .situation import Situation

Features = Callable[[Tensor], Tensor]
"""x [n, ...] -> features [n, d]"""

Samples = tuple[Tensor, Tensor]
"""x [n, ...], y [n]"""


@dataclass(frozen=True)
class Trial:
    """One earlier task and one later ``source``, measured on the earlier task's test data.

    accuracy: of the earlier task as it is, in [0, 1]
    transfer: gain of the mechanism, whatever the policy says
    own_features: gain where the same information reaches the earlier task's own features alone
    random_features: gain where it reaches the features of an untrained network instead of the later task's
    oracle: gain of a head on the later task's features, fitted to the earlier task's real training data
    accepted, reason, measures: what the policy said
    """

    task: int
    source: int
    similarity: float
    neurons: int
    accuracy: float
    transfer: float
    own_features: float
    random_features: float
    oracle: float
    accepted: bool
    reason: str
    measures: dict[str, float]

    @property
    def policy(self) -> float:
        """Gain under the policy: 0 where it refuses."""
        return self.transfer if self.accepted else 0.0

    @property
    def own_policy(self) -> float:
        """Gain of the own-features control where the policy accepts, else 0."""
        return self.own_features if self.accepted else 0.0

    @property
    def random_policy(self) -> float:
        """Gain of the random-features control where the policy accepts, else 0."""
        return self.random_features if self.accepted else 0.0


def measure(
    situation: Situation,
    *,
    mechanism: str,
    acceptance: str,
    old: Samples,
    test: Samples,
    random_features: Features,
) -> Trial:
    """Try one transfer, its two controls and its oracle; the model is as before afterwards, bit for bit.

    Args:
        situation: the earlier task as it is, without anything from later tasks for a fair comparison.
        mechanism, acceptance: names in ``MECHANISMS`` and ``ACCEPTANCE``.
        old: the earlier task's real training data, for the oracle alone.
        test: its test data, which neither the mechanism nor the policy sees.
        random_features: of an untrained network of the same architecture.

    Raises:
        InputError: an unknown mechanism or policy.
    """
    for name, value, known in (
        ("mechanism", mechanism, MECHANISMS),
        ("acceptance", acceptance, ACCEPTANCE),
    ):
        if value not in known:
            raise InputError(f"{name} is '{value}': choose one of {', '.join(known)}")
    model, task, source = situation.model, situation.task, situation.source
    situation.look()
    own = predict(model, test[0], task).float()
    before = accuracy(own, test[1])
    state = TaskState(model, task)
    judge = ACCEPTANCE[acceptance](situation)
    neurons = MECHANISMS[mechanism](situation)
    gain = accuracy(predict(model, test[0], task), test[1]) - before
    nothing = Decision(False, f"task {source} has nothing to offer to task {task}", {})
    decision = nothing if neurons is None else judge if isinstance(judge, Decision) else judge()
    state.restore()

    def ensembled(weight: float, targets: Tensor, fit_on: Tensor, read: Tensor) -> float:
        v, c = fit_head(fit_on.float(), targets.to(fit_on.device))
        logits = own / situation.temperature + weight * F.linear(read.float(), v, c)
        return accuracy(logits, test[1]) - before

    given = information(situation, mechanism)
    own_gain = random_gain = 0.0
    if given is not None:
        x, targets, weight = given
        own_gain = ensembled(weight, targets, features_of(model, x, task), features_of(model, test[0], task))
        random_gain = ensembled(weight, targets, random_features(x), random_features(test[0]))
    x, y = (part[:: -(-len(old[0]) // SAMPLES)] for part in old)
    truth = F.one_hot(y, own.shape[1]).float()
    oracle = ensembled(NEAR_WEIGHT, truth, features_of(model, x, source), features_of(model, test[0], source))
    return Trial(
        task=task,
        source=source,
        similarity=similarity(model, task, source),
        neurons=neurons or 0,
        accuracy=before,
        transfer=gain,
        own_features=own_gain,
        random_features=random_gain,
        oracle=oracle,
        accepted=decision.accepted,
        reason=decision.reason,
        measures=decision.measures,
    )


def information(situation: Situation, mechanism: str) -> tuple[Tensor, Tensor, float] | None:
    """What ``mechanism`` learns from: x [n, ...], targets [n, classes] and the weight it gives to a head.

    None where the later task has too few classes. The paper's gates fit no head: their impressions then get
    the weight of those of ``impressions``; nor does ``expert``, whose controls are those of a far task.
    """
    if mechanism == "current_images":
        return situation.x, situation.outputs, FAR_WEIGHT
    if mechanism in ("impressions", "gates"):
        made = situation.impressions
        return made.x, made.targets, FAR_WEIGHT
    anchors = mechanism == "anchored"
    samples = situation.anchored_targets() if anchors else situation.relabelled_targets()
    return None if samples is None else (*samples, relabelled_weight(situation))


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of the rows of ``logits`` whose largest entry is y [n], in [0, 1]."""
    return int(logits.argmax(1).eq(y.to(logits.device)).sum()) / len(y)


@torch.no_grad()
def in_parts(features: Features, x: Tensor, batch_size: int = 512) -> Tensor:
    """``features`` of x [n, ...], computed ``batch_size`` samples at once."""
    return torch.cat([features(part) for part in x.split(batch_size)])
