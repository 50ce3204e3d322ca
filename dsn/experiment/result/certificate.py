"""Whether earlier tasks are what they were: hashes after each task, and what they say afterwards.

A row is taken after each task and goes into ``result.json``. :func:`judge` compares the rows with each other,
with the accepted transfers, and with the model file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dsn.masking.state.fingerprint import Fingerprint, Fingerprints

from .result import Row, Transfer

Status = Literal["unchanged", "changed by an accepted transfer", "unchanged but for rounding", "BROKEN"]
ROUNDING = 2e-3
"""by how much the levels of logits may differ, relatively, that other kernels compute from equal weights"""


def row_of(fingerprints: Fingerprints) -> Row:
    """The fingerprints of all committed tasks, now."""
    tasks = fingerprints.model.committed
    found = fingerprints.of(*tasks)
    return Row(
        tasks=tasks,
        weights=[one.weights for one in found],
        reads=[one.reads for one in found],
        logits=[one.logits for one in found],
        levels=[one.level for one in found],
    )


def unchanged(*rows: Row) -> list[int]:
    """The tasks that have the same fingerprints in two rows that follow each other; none for fewer rows."""
    if len(rows) < 2:
        return []
    before, now = (list(zip(row.tasks, row.weights, row.reads, row.logits, strict=True)) for row in rows)
    return [one[0] for one, other in zip(before, now, strict=False) if one == other]


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


def unfit_rows(rows: Sequence[Row], tasks: Sequence[int]) -> str | None:
    """Why ``rows`` are not those of a run that learnt ``tasks``, in this order; None if they are."""
    if len(rows) != len(tasks):
        return f"it has {len(rows)} rows, the model file has the tasks {list(tasks)}"
    for place, row in enumerate(rows):
        if row.tasks != list(tasks[: place + 1]):
            return f"row {place} is about the tasks {row.tasks}, not {list(tasks[: place + 1])}"
        counts = {len(row.weights), len(row.reads), len(row.logits), len(row.levels or row.tasks)}
        if counts != {len(row.tasks)}:
            return f"row {place} has not one hash a task"
    return None


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
    told = f"from task {', '.join(map(str, givers))}" if givers else ""
    if not different:
        return Verdict(task, "changed by an accepted transfer" if givers else "unchanged", told)
    if different != ["logits"]:
        return Verdict(task, "BROKEN", f"its {' and '.join(different)} in the file are not those of the run")
    if last.level is None or present.level is None:
        if same_machine:
            return Verdict(task, "BROKEN", "its logits in the file are not those of the run")
        note = "by its weights; logits were made on another machine, so they say nothing"
        status: Status = "changed by an accepted transfer" if givers else "unchanged"
        return Verdict(task, status, f"{told}; {note}" if told else note)
    if abs(last.level - present.level) > ROUNDING * max(last.level, present.level):
        why = "its weights are those of the run, but its logits are others, by more than rounding"
        return Verdict(task, "BROKEN", f"{why}: the code or this machine computes something else")
    note = "its weights are those of the run, its logits nearly"
    return Verdict(task, "unchanged but for rounding", f"{note}; changed {told}" if told else note)


def _differences(one: Fingerprint, other: Fingerprint) -> list[str]:
    return [name for name in ("weights", "reads", "logits") if getattr(one, name) != getattr(other, name)]
