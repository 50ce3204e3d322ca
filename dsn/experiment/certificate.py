"""Whether earlier tasks are what they were: hashes after each task, and what they say afterwards.

A row is taken after each task and goes into ``result.json``. :func:`judge` compares the rows with each other,
with the accepted transfers, and with the model file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dsn.masking.fingerprint import Fingerprint, Fingerprints

from .result import Row, Transfer

Status = Literal["unchanged", "changed by an accepted transfer", "BROKEN"]


def row_of(fingerprints: Fingerprints) -> Row:
    """The fingerprints of all committed tasks, now."""
    tasks = fingerprints.model.committed
    found = fingerprints.of(*tasks)
    return Row(
        tasks=tasks,
        weights=[one.weights for one in found],
        reads=[one.reads for one in found],
        logits=[one.logits for one in found],
    )


@dataclass(frozen=True)
class Verdict:
    """What became of ``task``; ``reason`` says more, where there is more to say."""

    task: int
    status: Status
    reason: str = ""

    def __str__(self) -> str:
        return f"task {self.task}: {self.status}" + (f", {self.reason}" if self.reason else "")


def judge(
    rows: Sequence[Row], now: Row, transfers: Sequence[Transfer], *, same_machine: bool
) -> list[Verdict]:
    """What became of each task, in order: ``rows`` after each task, and the model file's hashes ``now``.

    ``same_machine``: whether logits can be compared with those in the rows.
    """
    return [_judge_task(task, rows, now, transfers, same_machine) for task in now.tasks]


def _judge_task(
    task: int, rows: Sequence[Row], now: Row, transfers: Sequence[Transfer], same_machine: bool
) -> Verdict:
    known = [(row.tasks[-1], row.of(task)) for row in rows if task in row.tasks]
    givers = []
    for (_, before), (learnt, after) in zip(known, known[1:], strict=False):
        if before == after:
            continue
        if not any(t.accepted and (t.task, t.source) == (task, learnt) for t in transfers):
            changed = " and ".join(_differences(before, after))
            return Verdict(task, "BROKEN", f"its {changed} changed while task {learnt} was learnt")
        givers.append(learnt)
    last, present = known[-1][1], now.of(task)
    different = _differences(last, present)
    note = ""
    if different == ["logits"] and not same_machine:
        note = "by its weights; logits were made on another machine, so they say nothing"
    elif different:
        return Verdict(task, "BROKEN", f"its {' and '.join(different)} in the file are not those of the run")
    if givers:
        told = f"from task {', '.join(map(str, givers))}"
        return Verdict(task, "changed by an accepted transfer", f"{told}; {note}" if note else told)
    return Verdict(task, "unchanged", note)


def _differences(one: Fingerprint, other: Fingerprint) -> list[str]:
    return [name for name in ("weights", "reads", "logits") if getattr(one, name) != getattr(other, name)]
