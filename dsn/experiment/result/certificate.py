"""Whether earlier tasks are what they were: hashes after each task, and what they say afterwards.

A row is taken after each task; what is new in it goes into ``result.json``. :func:`judge` compares the rows
with each other, with the accepted transfers, and with the model file.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dsn.masking.state.fingerprint import Fingerprint, Fingerprints

from .result import Row, Transfer

Status = Literal["unchanged", "changed by an accepted transfer", "unchanged but for rounding", "BROKEN"]
Known = tuple[int, Fingerprint]
"""after which task was learnt, and what it was then"""
ROUNDING = 2e-3
"""by how much the levels of logits may differ, relatively, that other kernels compute from equal weights"""


def row_of(fingerprints: Fingerprints) -> dict[int, Fingerprint]:
    """The fingerprints of all committed tasks, now."""
    tasks = fingerprints.model.committed
    return dict(zip(tasks, fingerprints.of(*tasks), strict=True))


def standing(rows: Iterable[Row]) -> dict[int, Fingerprint]:
    """What each task is after ``rows``: a row that does not name a task leaves it as it was."""
    found: dict[int, Fingerprint] = {}
    for row in rows:
        found |= row.by_task()
    return found


def whole(rows: Iterable[Row]) -> list[Row]:
    """The rows, each with all tasks that were learnt by then."""
    found: dict[int, Fingerprint] = {}
    return [Row.made(found := found | row.by_task()) for row in rows]


def unchanged(before: Mapping[int, Fingerprint], now: Mapping[int, Fingerprint]) -> list[int]:
    """The tasks that are ``now`` what they were ``before``."""
    return [task for task, found in now.items() if before.get(task) == found]


def changes(before: Mapping[int, Fingerprint], now: Mapping[int, Fingerprint]) -> Row:
    """``now`` without the tasks that are what they were ``before``: what a run keeps of it."""
    return Row.made({task: found for task, found in now.items() if before.get(task) != found})


@dataclass(frozen=True)
class Verdict:
    """What became of ``task``; ``reason`` says more, where there is more to say."""

    task: int
    status: Status
    reason: str = ""

    def __str__(self) -> str:
        return f"task {self.task}: {self.status}" + (f", {self.reason}" if self.reason else "")


def judge(
    rows: Sequence[Row], now: Mapping[int, Fingerprint], transfers: Sequence[Transfer], *, same_machine: bool
) -> list[Verdict]:
    """What became of each task, in order: ``rows`` after each task, and the model file's hashes ``now``.

    ``same_machine``: whether logits can be compared with those in the rows.
    """
    known: dict[int, list[Known]] = {task: [] for task in now}
    for row in rows:
        for task, found in row.by_task().items():
            known[task].append((row.tasks[-1], found))
    accepted = {(t.task, t.source) for t in transfers if t.accepted}
    return [_judge_task(task, known[task], found, accepted, same_machine) for task, found in now.items()]


def unfit_rows(rows: Sequence[Row], tasks: Sequence[int]) -> str | None:
    """Why ``rows`` are not those of a run that learnt ``tasks``, in this order; None if they are."""
    if len(rows) != len(tasks):
        return f"it has {len(rows)} rows, the model file has the tasks {list(tasks)}"
    for place, row in enumerate(rows):
        so_far = list(tasks[: place + 1])
        if row.tasks[-1:] != so_far[-1:] or row.tasks != [task for task in so_far if task in row.tasks]:
            return f"row {place} is about the tasks {row.tasks}, not task {tasks[place]} and some before it"
        counts = {len(row.weights), len(row.reads), len(row.logits), len(row.levels or row.tasks)}
        if counts != {len(row.tasks)}:
            return f"row {place} has not one hash a task"
    return None


def _judge_task(
    task: int,
    known: list[Known],
    present: Fingerprint,
    accepted: Container[tuple[int, int]],
    same_machine: bool,
) -> Verdict:
    givers = []
    for (_, before), (learnt, after) in zip(known, known[1:], strict=False):
        if before == after:
            continue
        if (task, learnt) not in accepted:
            changed = " and ".join(_differences(before, after))
            return Verdict(task, "BROKEN", f"its {changed} changed while task {learnt} was learnt")
        givers.append(learnt)
    last = known[-1][1]
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
