"""Ways for an earlier task to gain from a later one. Each changes that task alone, without its data.

A mechanism takes a Situation, applies its change to the model and returns how many neurons it opened; None if
it has nothing to offer. Shapes: features [n, d], lateral weight [classes, d].
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ..masking.records import Lateral
from .assessment import features_of, remembered
from .gates import open_gates
from .linear import fit_head
from .similarity import neurons_opened
from .situation import Situation, Targets

Head = tuple[Tensor, Tensor]
"""weight [classes, d], bias [classes]"""

NEAR_WEIGHT = 0.5  # of a head fitted to labels of a near task, beside the earlier task's own
FAR_WEIGHT = 0.3  # of a head fitted to less than that
POOL_WEIGHT = 1.0  # of the later task's opinion, beside the earlier task's own


def give(situation: Situation, *laterals: Lateral) -> None:
    """Let the earlier task read ``laterals``, instead of what a later task gave before: it has one giver.

    What it reads from tasks before it stays.
    """
    heads = situation.model.lateral_heads(situation.task)
    kept = _from_before(situation)
    del heads[:]
    heads.extend([*kept, *laterals])


def _from_before(situation: Situation) -> list[Lateral]:
    """What the task reads from tasks before it (``transfer_forward``); that calibrates its logits too."""
    order = situation.model.committed.index
    laterals = [cast(Lateral, lateral) for lateral in situation.model.lateral_heads(situation.task)]
    return [lateral for lateral in laterals if order(lateral.source_task) < order(situation.task)]


def added(situation: Situation, reader: int, share: float, head: Head, first: bool = True) -> Lateral:
    """A lateral that adds ``share`` (V f(x) + c) of ``reader`` to the earlier task's calibrated logits."""
    weight, bias = head
    return Lateral(reader, _scale(situation, weight, first), share * weight, share * bias)


def correspondence(situation: Situation) -> int | None:
    """Labels of the corresponding classes: of a near task, for heads; of a farther one, through its own head.

    Near: heads on both tasks' features, z_k / T_k + w (V_k f_k + c_k) + w (V_t f_t + c_t), as in
    :func:`own_features` and :func:`source_features`. Else :func:`expert`.
    """
    return _correspond(situation, situation.relabelled_targets())


def anchored(situation: Situation) -> int | None:
    """:func:`correspondence`, its heads fitted to impressions of the earlier task as well, which it labels.

    They keep the old function where the later task's images say nothing, as distillation would.
    """
    return _correspond(situation, situation.anchored_targets())


def _correspond(situation: Situation, samples: Targets | None) -> int | None:
    found = situation.correspondence
    if found is None or samples is None:
        return None
    if not found.near:
        return expert(situation)
    own, theirs = (_head(situation, reader, samples) for reader in (situation.task, situation.source))
    give(
        situation,
        added(situation, situation.task, NEAR_WEIGHT, own),
        added(situation, situation.source, NEAR_WEIGHT, theirs, first=False),
    )
    return _opened(situation)


def expert(situation: Situation) -> int | None:
    """The later task's own opinion, passed on as far as its classes speak for the earlier task's.

    p_k(c | x) + w sum_c' p_t(c' | x) P(c | c') / (C P(c)): a linear opinion pool (Stone 1961) of calibrated
    probabilities. P(c | c') are the votes of the earlier task in the images of class c', P(c) their mean: a
    class that it cannot place passes little on. Linear in neither, but it costs head columns alone.
    """
    found = situation.correspondence
    if found is None:
        return None
    model, source = situation.model, situation.source
    head = cast(nn.Linear, model.heads[str(source)])
    sure = 1 / (remembered(model, source, "temperature") or 1.0)
    votes = found.votes / found.votes.mean(0).clamp_min(1e-6) / found.votes.shape[1]
    scale = _scale(situation, head.weight)
    give(situation, Lateral(source, scale, sure * head.weight, sure * head.bias, POOL_WEIGHT * votes))
    return _opened(situation)


def source_features(situation: Situation) -> int | None:
    """A head on the later task's features, fitted to its images and the corresponding labels."""
    return _opened(situation) if _give_relabelled(situation, situation.source) else None


def own_features(situation: Situation) -> int | None:
    """A head on the earlier task's own features, fitted to the later task's images and corresponding labels.

    Nothing of the later task's subnetwork is used: a part of :func:`correspondence`, and its control.
    """
    return 0 if _give_relabelled(situation, situation.task) else None


def _head(situation: Situation, reader: int, samples: Targets) -> Head:
    """Weight and bias of a head on the features of ``reader``, fitted to ``samples``."""
    x, targets = samples
    return fit_head(features_of(situation.model, x, reader), targets.to(situation.model.device))


def relabelled_weight(situation: Situation) -> float:
    """Of a head fitted to corresponding labels: less where the tasks are farther apart."""
    found = situation.correspondence
    return NEAR_WEIGHT if found is not None and found.near else FAR_WEIGHT


def _give_relabelled(situation: Situation, reader: int) -> bool:
    samples = situation.relabelled_targets()
    if samples is not None:
        head = _head(situation, reader, samples)
        give(situation, added(situation, reader, relabelled_weight(situation), head))
    return samples is not None


def impressions(situation: Situation) -> int:
    """A head on the later task's features, fitted to impressions and their soft targets."""
    made = situation.impressions
    return _give_fitted(situation, features_of(situation.model, made.x, situation.source), made.targets)


def current_images(situation: Situation) -> int:
    """A head on the later task's features, fitted to what the earlier task says of the later one's images."""
    features = features_of(situation.model, situation.x, situation.source)
    return _give_fitted(situation, features, situation.outputs)


def gates(situation: Situation) -> int:
    """The paper's: open gates on the later task's neurons, train them and the matching head columns."""
    made = situation.impressions
    return open_gates(situation.model, situation.task, situation.source, made.x, made.targets, situation.seed)


def _give_fitted(situation: Situation, features: Tensor, targets: Tensor) -> int:
    head = fit_head(features, targets.to(features.device))
    give(situation, added(situation, situation.source, FAR_WEIGHT, head))
    return _opened(situation)


def _scale(situation: Situation, like: Tensor, first: bool = True) -> Tensor:
    """What calibrates the earlier task's own logits; they are calibrated once."""
    first = first and not _from_before(situation)
    return like.new_tensor(1 / situation.temperature if first else 1.0)


def _opened(situation: Situation) -> int:
    model = situation.model
    return neurons_opened(model.masks(situation.task), model.masks(situation.source))


MECHANISMS: dict[str, Callable[[Situation], int | None]] = {
    "correspondence": correspondence,
    "anchored": anchored,
    "expert": expert,
    "source_features": source_features,
    "own_features": own_features,
    "impressions": impressions,
    "current_images": current_images,
    "gates": gates,
}
