"""Policies that decide, without old data, whether a change of an earlier task is kept.

A policy is called before the change, measures what it needs, and returns a Decision that refuses, or the
judge to call after the change, who answers with one. The reason is plain words, and after a colon numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .assessment import predict, remembered
from .situation import Situation

AGREEMENT = 0.5  # share of the classes that must be recognised as their counterparts
CLOSENESS = 0.6  # share of its own accuracy that the earlier task must keep on the later one's images
RICHER = 2.0  # the later task must have seen at least so many times the earlier one's training samples


@dataclass(frozen=True)
class Decision:
    """Whether a change is kept, why, and every number that was used."""

    accepted: bool
    reason: str
    measures: dict[str, float]


Judge = Callable[[], Decision]


def closeness(situation: Situation) -> Judge | Decision:
    """Kept if both tasks see the same classes in a like way and the later one has seen more of them.

    Measured on the later task's own, labelled training images. A share ``AGREEMENT`` of the earlier task's
    classes must be what it sees most in the images of the corresponding class. Its accuracy there must reach
    ``CLOSENESS`` of its accuracy on its own validation data. And there must be headroom: the later task was
    trained on at least ``RICHER`` times the samples. Each task keeps what its closest giver gave: a later one
    that is less close is refused, a closer one takes its place.
    """
    return _given_if(_judge_closeness(situation, RICHER), situation)


def likeness(situation: Situation) -> Judge | Decision:
    """:func:`closeness`, whatever the number of samples: also a task with no more data may see better."""
    return _given_if(_judge_closeness(situation, 0.0), situation)


def _given_if(decision: Decision, situation: Situation) -> Judge | Decision:
    """``decision``, or, where it accepts, a judge who also records how close the giver is."""
    if not decision.accepted:
        return decision

    def judge() -> Decision:
        share = torch.tensor(decision.measures["closeness"], device=situation.model.device)
        situation.model.record(situation.task).put("closeness", share)
        return decision

    return judge


def _judge_closeness(situation: Situation, richer: float) -> Decision:
    model, task, source = situation.model, situation.task, situation.source
    own = remembered(model, task, "accuracy")
    samples, more = (remembered(model, t, "samples") for t in (task, source))
    if own is None or samples is None or more is None:
        return Decision(False, "there are no validation data: no accuracy to compare with", {})
    found = situation.correspondence
    if found is None:
        return Decision(False, f"task {source} has fewer classes than task {task}", {})
    share = found.accuracy / max(own, 1e-9)
    measures = {
        "samples_ratio": more / samples,
        "agreement": found.agreement,
        "accuracy": own,
        "accuracy_on_source": found.accuracy,
        "closeness": share,
        "kappa": found.kappa,
        "temperature_on_source": found.temperature,
    }
    if more < richer * samples:
        reason = f"task {source} has hardly more data: {more / samples:.1f} times the samples"
        return Decision(False, reason, measures)
    if found.agreement < AGREEMENT:
        reason = f"task {source} shows other things: {found.agreement:.0%} of the classes are recognised"
        return Decision(False, reason, measures)
    if share < CLOSENESS:
        reason = f"task {source} is not close: {share:.0%} of the accuracy is kept on its images"
        return Decision(False, reason, measures)
    given = remembered(model, task, "closeness")
    if given is not None and share <= given:
        reason = f"a closer task has given already: {given:.0%} of the accuracy kept there, {share:.0%} here"
        return Decision(False, reason, measures)
    why = "is close and has more data" if richer else "is close"
    reason = (
        f"task {source} {why}: {share:.0%} of the accuracy is kept on its images, "
        f"{more / samples:.1f} times the samples"
    )
    return Decision(True, reason, measures)


def held_out_impressions(situation: Situation) -> Judge:
    """Kept if the cross-entropy to the soft targets of impressions from another seed falls."""

    def loss() -> float:
        made = situation.held_out_impressions
        logits = predict(situation.model, made.x, situation.task).float()
        return float(F.cross_entropy(logits, made.targets))

    before = loss()

    def judge() -> Decision:
        after = loss()
        measures = {"impression_loss_before": before, "impression_loss_after": after}
        verb = "falls" if after < before else "does not fall"
        reason = f"loss on held-out impressions {verb}: {before:.3f} to {after:.3f}"
        return Decision(after < before, reason, measures)

    return judge


def always(_situation: Situation) -> Judge:
    """Every change is kept: for ablations."""
    return lambda: Decision(True, "every change is kept", {})


ACCEPTANCE: dict[str, Callable[[Situation], Judge | Decision]] = {
    "closeness": closeness,
    "likeness": likeness,
    "held_out_impressions": held_out_impressions,
    "always": always,
}
