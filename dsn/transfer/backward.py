"""Backward transfer: after a task is learnt, the earlier ones most like it may gain from it.

For each of them: a mechanism changes it, a policy judges the change, and what it refuses is undone exactly.
Nothing else of the model changes. Source: Gao et al. 2023; METHOD.md, section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..masking import MaskedModel
from .acceptance import ACCEPTANCE, Decision
from .mechanisms import MECHANISMS
from .similarity import most_similar, neurons_opened, similarity
from .situation import Replay, Situation


@dataclass(frozen=True)
class TransferOutcome:
    """One attempt: may ``task`` gain from the later task ``source``?

    neurons: that it would read and did not before; measures: every number the decision used.
    """

    task: int
    source: int
    mechanism: str
    similarity: float
    neurons: int
    accepted: bool
    reason: str
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """The reason in plain words, without the numbers behind its colon."""
        return self.reason.partition(":")[0]

    def __str__(self) -> str:
        verb = "gains from" if self.accepted else "stays as it is, without"
        return f"task {self.task} {verb} task {self.source} (similarity {self.similarity:.2f}): {self.reason}"


class TaskState:
    """Everything a transfer may change of one task, so that it can be put back exactly."""

    def __init__(self, model: MaskedModel, task: int) -> None:
        self._model, self._task = model, task
        self._tensors = [*model.own_parameters(task), *model.task_buffers(task)]
        self._values = [tensor.detach().clone() for tensor in self._tensors]
        self._masks = model.masks(task)
        self._laterals = list(model.lateral_heads(task))
        self._record = {name: value.clone() for name, value in model.record(task).named_buffers()}

    @torch.no_grad()
    def restore(self) -> None:
        """Put the task back as it was."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        row = self._model.committed.index(self._task)
        for path, gate in self._model.gates_by_path.items():
            gate.replace(row, self._masks[path])
        laterals = self._model.lateral_heads(self._task)
        del laterals[:]
        laterals.extend(self._laterals)
        record = self._model.record(self._task)
        record.clear()
        for name, value in self._record.items():
            record.put(name, value)


def attempt(situation: Situation, mechanism: str, acceptance: str) -> TransferOutcome:
    """Try one transfer and keep or undo it. Raises InputError for an unknown mechanism or policy."""
    if mechanism not in MECHANISMS:
        raise InputError(f"transfer mechanism is '{mechanism}': choose one of {', '.join(MECHANISMS)}")
    if acceptance not in ACCEPTANCE:
        raise InputError(f"acceptance is '{acceptance}': choose one of {', '.join(ACCEPTANCE)}")
    model, task, source = situation.model, situation.task, situation.source
    if mechanism == "gates" and model.edges is not None:
        raise InputError(
            "transfer 'gates' changes masks, and with edges they say who owns a weight: take another"
        )
    readers = _readers(model, task) if mechanism == "gates" else []
    if readers:
        reason = f"its features must not change, tasks {readers} read them"
        return TransferOutcome(task, source, mechanism, similarity(model, task, source), 0, False, reason)
    alike = similarity(model, task, source)
    situation.look()
    judge = ACCEPTANCE[acceptance](situation)
    if isinstance(judge, Decision):
        opened = neurons_opened(model.masks(task), model.masks(source))
        return TransferOutcome(task, source, mechanism, alike, opened, False, judge.reason, judge.measures)
    state = TaskState(model, task)
    neurons = MECHANISMS[mechanism](situation)
    if neurons is None:
        reason = f"task {source} has fewer classes than task {task}"
        return TransferOutcome(task, source, mechanism, alike, 0, False, reason)
    decision = judge()
    if not decision.accepted:
        state.restore()
    return TransferOutcome(
        task, source, mechanism, alike, neurons, decision.accepted, decision.reason, decision.measures
    )


def _readers(model: MaskedModel, task: int) -> list[int]:
    """The other tasks whose logits read the features of ``task``."""
    return [
        other
        for other in model.committed
        if other != task and any(lateral.source_task == task for lateral in model.lateral_heads(other))
    ]


def transfer_backward(
    model: MaskedModel,
    source: int,
    x: Tensor,
    y: Tensor,
    *,
    replay: Replay,
    tasks: int = 3,
    mechanism: str = "correspondence",
    acceptance: str = "closeness",
    seed: int = 0,
    on_outcome: Callable[[TransferOutcome], None] | None = None,
) -> list[TransferOutcome]:
    """Let the earlier tasks most like ``source``, just learnt from x [n, ...], y [n], gain from it.

    Args:
        replay: (task, seed) -> impressions of the task; called only by what needs them.
        tasks: how many earlier tasks are tried, most similar first; a refusal does not end the search.
        mechanism, acceptance: names in ``MECHANISMS`` and ``ACCEPTANCE``.
        on_outcome: is told of each attempt.

    Raises:
        InputError: an unknown mechanism or policy.
    """
    outcomes = []
    for task in most_similar(model, source, tasks):
        outcome = attempt(Situation(model, task, source, x, y, replay, seed), mechanism, acceptance)
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes
