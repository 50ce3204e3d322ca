"""One run's result: what ``result.json`` holds, written and read. docs/result.md describes every field."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dsn.errors import InputError
from dsn.evaluation.capacity import Neurons
from dsn.evaluation.metrics import Matrix, as_matrix
from dsn.masking.state.fingerprint import Fingerprint
from dsn.storage import write_bytes
from dsn.topology.tasks import TaskTopology

from ..config.problems import describe

FORMAT_VERSION: Final = 1
RESULT = "result.json"
NUMBERS = re.compile(r"(?<=\[)\n[^\[\]{}\"]*(?=\])")
"""a list of numbers, which stands on one line: otherwise spaces would be half the file of many tasks"""


class Part(BaseModel):
    """What every part of the result has in common: no unknown fields, no changes after the fact."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


P = TypeVar("P", bound=Part)


class Metrics(Part):
    """The metrics of :mod:`dsn.evaluation.metrics`; None where the runs they need were not made."""

    acc: float
    bwt: float | None
    forgetting: float | None
    learning_accuracy: float
    fwt_random: float | None
    fwt_independent: float | None
    trans: float | None
    cil_acc: float | None = None
    """mean accuracy at the end without saying the task, by the score ``combined``; None in older files"""
    task_inference: float | None = None
    """how often the task is right there"""


class TaskUse(Part):
    """What one task uses of the network."""

    task: int
    neurons: dict[str, Neurons]
    """by layer path, in forward order, as counted at the task's commit"""
    mask_bytes: int
    similarity: list[float]
    """to each task, in order: cosine of the masks a layer, geometric mean over the layers"""
    jaccard: dict[str, list[float]]
    """by layer path: shared over used neurons, with each task in order; empty where layers times tasks
    squared is more than a million (``dsn.evaluation.jaccard`` gives it from the model)"""
    topology: TaskTopology | None = None
    """None in older files, and where branches of the backbone meet in a product"""


class Transfer(Part):
    """One attempt at backward transfer: a ``dsn.transfer.TransferOutcome``."""

    task: int
    source: int
    mechanism: str
    similarity: float
    neurons: int
    accepted: bool
    reason: str
    measures: dict[str, float | None]
    """every number that the decision used; None where it is not finite"""

    @field_validator("measures", mode="before")
    @classmethod
    def _finite(cls, measures: dict[str, float | None]) -> dict[str, float | None]:
        return {
            name: value if value is not None and np.isfinite(value) else None
            for name, value in measures.items()
        }


class Forward(Part):
    """What a task reads from earlier tasks: a ``dsn.transfer.ForwardOutcome``."""

    task: int
    sources: list[int]
    weight: float
    """of the earlier tasks' features in its logits; 0: nothing is read"""
    loss_before: float
    loss_after: float


class Memory(Part):
    """What a strategy has to keep to answer for its tasks and to learn the next one."""

    bytes_per_task: list[int]
    """in the order of learning: mask bits, head, norm state and whatever else belongs to one task alone"""
    shared_bytes: int
    """state beside the backbone's weights that no one task owns: importances, a copy of the old network"""
    stored_samples: int
    """training samples kept for later tasks"""
    stored_sample_bytes: int
    backbone_bytes: int | None = None
    """of the weights of one dense backbone's layers; None in older files"""
    used_bytes: int | None = None
    """of them, those that some task uses and no seed gives again; 0 where tasks have networks of their own"""

    @property
    def stored_bytes(self) -> int:
        """Kept beside the backbone's weights."""
        return sum(self.bytes_per_task) + self.shared_bytes + self.stored_sample_bytes

    @property
    def parameters(self) -> float | None:
        """All that is kept, used weights too, as so many numbers of 32 bits; None in older files."""
        return None if self.used_bytes is None else (self.used_bytes + self.stored_bytes) / 4

    @property
    def capacity(self) -> float | None:
        """Its bits over one dense network's: WSN's (Kang et al. 2022, section 4), with packed masks."""
        kept, dense = self.parameters, self.backbone_bytes
        return None if kept is None or not dense else 4 * kept / dense


class Row(Part):
    """Hashes of tasks, taken after the last of ``tasks`` was learnt; one entry a task, in order.

    In a file, ``tasks`` are those that are new or not what they were in the row before; in older files, all.
    """

    tasks: list[int]
    weights: list[str]
    reads: list[str]
    logits: list[str]
    levels: list[float | None] = Field(default_factory=list)
    """of the logits: what is equal but for rounding has nearly the same; empty in older files"""

    @classmethod
    def made(cls, found: Mapping[int, Fingerprint]) -> "Row":
        """The row of these tasks."""
        hashes = found.values()
        return cls(
            tasks=list(found),
            weights=[one.weights for one in hashes],
            reads=[one.reads for one in hashes],
            logits=[one.logits for one in hashes],
            levels=[one.level for one in hashes],
        )

    def by_task(self) -> dict[int, Fingerprint]:
        """The hashes of each task."""
        levels = self.levels or [None] * len(self.tasks)
        hashes = map(Fingerprint, self.weights, self.reads, self.logits, levels)
        return dict(zip(self.tasks, hashes, strict=True))


class Forgotten(Part):
    """A removal: a ``dsn.masking.state.removal.Removal``. Nothing else of the tasks is left."""

    tasks: list[int]
    unread: list[int]
    """tasks that read features of them; their accuracies were measured anew"""
    redrawn: int
    """weights and biases with values from the seed"""
    shared: int
    """that they had trained and others keep, since they need them"""


class Seal(Part):
    """Digests of the run's files, see :mod:`dsn.experiment.result.seal`."""

    files: dict[str, str]
    rows: list[str]
    result: str


class UnlabelledRow(Part):
    """The tasks learnt so far, where nobody says which one an input is of: by score, a number a task."""

    accuracy: dict[str, list[float]]
    """share of its test data whose task and class are both right"""
    inference: dict[str, list[float]]
    """share whose task is right"""


class TaskTime(Part):
    """Wall-clock seconds of one task."""

    train: float
    evaluate: float


class Timings(Part):
    """Wall-clock seconds; ``total`` is from the first stream to the last evaluation."""

    total: float
    tasks: list[TaskTime]
    references: float
    """independent networks, for the metrics that compare with them"""


class Result(Part):
    """A finished run. ``timings`` and ``environment`` alone differ between runs of one config and seed."""

    format_version: Literal[1] = FORMAT_VERSION
    config: dict[str, Any]
    seed: int
    accuracy_matrix: list[list[float | None]]
    metrics: Metrics
    tasks: list[TaskUse]
    independent: list[float] | None = None
    transfers: list[Transfer] = Field(default_factory=list)
    forward_transfers: list[Forward] = Field(default_factory=list)
    memory: Memory | None = None
    """None in files written before it was measured"""
    certificate: list[Row] | None = None
    """one row a task; None in older files, and where the strategy has no masks over neurons"""
    class_incremental: list[UnlabelledRow] | None = None
    """one row a task; None unless it was evaluated"""
    forgotten: list[Forgotten] = Field(default_factory=list)
    """what was removed from the finished run, in order"""
    timings: Timings
    environment: dict[str, Any]
    seal: Seal | None = None
    """None in older files"""

    @field_validator("accuracy_matrix")
    @classmethod
    def _valid_matrix(cls, rows: list[list[float | None]]) -> list[list[float | None]]:
        if len({len(row) for row in rows}) != 1:
            raise ValueError("rows of different lengths")
        as_matrix(rows)
        return rows

    @property
    def matrix(self) -> Matrix:
        """The accuracy matrix [T, T], NaN where not evaluated."""
        return as_matrix(self.accuracy_matrix)


def unlabelled_metrics(rows: Sequence[UnlabelledRow] | None) -> dict[str, float | None]:
    """``cil_acc`` and ``task_inference``: means over the tasks of the last row, by the combined score."""
    last = None if not rows else rows[-1]
    return {
        "cil_acc": None if last is None else float(np.mean(last.accuracy["combined"])),
        "task_inference": None if last is None else float(np.mean(last.inference["combined"])),
    }


def matrix_as_lists(matrix: Matrix) -> list[list[float | None]]:
    """The matrix for JSON: None where it is NaN."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]


def write_result(result: Result, path: Path) -> None:
    """Write ``result`` as JSON, floats at full precision; the file appears whole or not at all."""
    text = json.dumps(result.model_dump(mode="json"), indent=2, allow_nan=False)
    write_whole(path, NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")


def read_result(path: Path) -> Result:
    """The result in the file ``path``.

    Raises InputError for a missing file, text that is not JSON, another format version or a wrong field.
    """
    return read_part(path, Result, FORMAT_VERSION, "a finished run writes it")


def read_part(
    path: Path,
    kind: type[P],
    version: int,
    missing: str,
    absent: tuple[type[OSError], ...] = (FileNotFoundError,),
) -> P:
    """The ``kind`` of the given format version in the JSON file ``path``.

    Raises InputError for a missing file (an ``absent`` error), with what to do, and for text that is not
    JSON, another format version or a wrong field.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("is no file")
        values = json.loads(path.read_text(encoding="utf-8"))
    except absent:
        raise InputError(f"{path}: no such file; {missing}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable {path.name}: {error}") from error
    found = values.get("format_version") if isinstance(values, dict) else None
    if found != version:
        raise InputError(f"{path}: format_version is {found!r}, this version reads {version}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {line}" for line in describe(error, kind))) from error


def matrix_csv(matrix: Matrix) -> str:
    """The matrix as CSV: one line a row, ``after_task`` first; empty where not evaluated."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["after_task", *(f"task_{k}" for k in range(len(matrix)))])
    for i, row in enumerate(matrix_as_lists(matrix)):
        writer.writerow([i, *("" if value is None else repr(value) for value in row)])
    return text.getvalue()


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` into a temporary file beside ``path``, then rename it to ``path``."""
    write_bytes(path, text.encode())
