"""The accuracy matrix and its metrics for any Avalanche strategy, as a PluginMetric."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor

from dsn.errors import InputError

from .experiences import task_label
from .metrics import Matrix, all_metrics

BEFORE_TRAINING = -1


class TransferMetrics(PluginMetric[dict[str, float | None]]):
    """Collects the accuracy matrix from ``strategy.eval`` and emits :func:`all_metrics` of it.

    Give it to an ``EvaluationPlugin`` and evaluate the tasks learnt so far after each one::

        metrics = TransferMetrics()
        strategy = Naive(model=..., optimizer=..., evaluator=EvaluationPlugin(metrics, loggers=[...]))
        for task, experience in enumerate(benchmark.train_stream):
            strategy.train(experience, eval_streams=[])
            strategy.eval(benchmark.test_stream[: task + 1])
        metrics.matrix, metrics.result()

    Rows follow the order of training, columns too; experiences are told apart by their task label, and
    only those of the stream ``stream`` count. An evaluation before any training gives the reference of
    ``fwt_random``; ``independent``, one accuracy a task in training order, gives that of
    ``fwt_independent`` and ``trans``. Evaluations that Avalanche nests into ``train`` are left out.

    After each evaluation that filled the rows so far, values are emitted as
    ``<metric>/eval_phase/<stream>_stream``, those that are None excepted.

    Raises InputError when an experience carries no label of its own: several labels, or one seen before.
    """

    def __init__(self, stream: str = "test", independent: list[float] | None = None) -> None:
        super().__init__()
        self.stream = stream
        self.independent = independent
        self.reset()

    def reset(self) -> None:
        """Forget everything, for a new run."""
        self.order: list[int] = []  # task labels, in training order
        self._accuracy: dict[int, dict[int, float]] = {}  # row: task label: accuracy
        self._table: Matrix = np.empty((0, 0))  # the rows below as the matrix has them, and room for more
        self._settled = 0  # so many of them stay
        self._kept: dict[int, list[Any]] = {}  # rows before the last, once kept
        self._counted: dict[int, list[Tensor | int]] = {}  # task label: correct, seen
        self._whole = 0  # so many rows are complete for certain
        self._learning: int | None = None

    def take_state(self) -> dict[str, Any]:
        """What was collected so far, while no evaluation is going on."""
        return {"order": list(self.order), "accuracy": [self._told(row) for row in self._accuracy]}

    def _told(self, row: int) -> list[Any]:
        """A row, its task labels and accuracies; the same ones again of a row that stays."""
        if row in self._kept:
            return self._kept[row]
        of = self._accuracy[row]
        told = [row, torch.tensor(list(of)), torch.tensor(list(of.values()), dtype=torch.float64)]
        if row < len(self.order) - 1:
            self._kept[row] = told
        return told

    def put_state(self, state: dict[str, Any], tasks: int) -> None:
        """Put back what :meth:`take_state` took, of the first ``tasks`` tasks."""
        self.reset()
        self.order = list(state["order"][:tasks])
        self._accuracy = {
            row: dict(zip(labels.tolist(), values.tolist(), strict=True))
            for row, labels, values in state["accuracy"]
        }

    def carry_over(self, labels: Iterable[int]) -> set[int]:
        """Take the accuracies of the tasks ``labels`` from the row before into the next; those that had one.

        For tasks whose answers have not changed since, so that they need not be evaluated again.
        """
        row = len(self.order) - 1
        before = self._accuracy.get(row - 1, {})
        carried = {label: before[label] for label in labels if label in before}
        self._accuracy.setdefault(row, {}).update(carried)
        return set(carried)

    @property
    def matrix(self) -> Matrix:
        """R [T, T] over the T tasks trained so far, NaN where not evaluated."""
        return self._rows().copy()

    def rows(self, wanted: Sequence[int]) -> Matrix:
        """The rows ``wanted`` of the matrix, [rows, T]."""
        return self._rows()[list(wanted)]

    def _rows(self) -> Matrix:
        """The matrix, not to be written to. A row before the last stays once all its tasks are trained."""
        size = len(self.order)
        if len(self._table) < size:
            self._table, self._settled = np.full((2 * size, 2 * size), np.nan), 0
        place = {label: k for k, label in enumerate(self.order)}
        for row in range(self._settled, size):
            of = self._accuracy.get(row, {})
            known = {place[label]: value for label, value in of.items() if label in place}
            self._table[row] = np.nan
            self._table[row, list(known)] = list(known.values())
            if row == self._settled < size - 1 and len(known) == len(of):
                self._settled += 1
        return self._table[:size, :size]

    @property
    def random(self) -> list[float] | None:
        """Accuracy of each trained task before any training [T]; None unless all were evaluated then."""
        before = self._accuracy.get(BEFORE_TRAINING, {})
        known = [before.get(label) for label in self.order]
        return [value for value in known if value is not None] if None not in known else None

    def result(self) -> dict[str, float | None]:
        """:func:`all_metrics` of the matrix so far; empty while a row is incomplete."""
        if not self._is_whole():
            return {}
        independent = None if self.independent is None else self.independent[: len(self.order)]
        return all_metrics(self._rows(), independent, self.random)

    def _is_whole(self) -> bool:
        """Whether each row has all tasks that were trained by then; rows before the last stay."""
        last = len(self.order) - 1
        self._whole = max(0, min(self._whole, last))
        while self._whole < last and self._is_complete(self._whole):
            self._whole += 1
        return self._whole == last and self._is_complete(last)

    def _is_complete(self, row: int) -> bool:
        return self._accuracy.get(row, {}).keys() >= set(self.order[: row + 1])

    def before_training_exp(self, strategy: Any) -> None:
        if self._learning is not None:
            self._forget_row()  # its training did not come to its end
        label = task_label(strategy.experience)
        if label in self.order:
            raise InputError(
                f"training experience {len(self.order)} has task label {label}, and {self.order} were "
                "trained before: each experience needs one task label of its own (return_task_id=True or "
                "task_labels=True where the stream is built)"
            )
        self.order.append(label)
        self._learning = label

    def after_training_exp(self, strategy: Any) -> None:
        self._learning = None

    def _forget_row(self) -> None:
        self.order.pop()
        self._accuracy.pop(len(self.order), None)
        self._settled = 0  # earlier rows may have been evaluated on it, in a column that is another's now

    def before_eval(self, strategy: Any) -> None:
        self._counted = {}

    def after_eval_iteration(self, strategy: Any) -> None:
        if not self._counts(strategy):
            return
        with torch.no_grad():
            label = task_label(strategy.experience)
            predicted = strategy.mb_output.argmax(dim=1)
            correct, seen = self._counted.get(label, [0, 0])
            self._counted[label] = [correct + (predicted == strategy.mb_y).sum(), seen + len(predicted)]

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        if not self._counted:
            return []
        row = len(self.order) - 1
        for label, (correct, seen) in self._counted.items():
            self._accuracy.setdefault(row, {})[label] = int(correct) / int(seen)
        self._counted = {}
        return [
            MetricValue(
                self, f"{name}/eval_phase/{self.stream}_stream", value, strategy.clock.train_iterations
            )
            for name, value in self.result().items()
            if value is not None
        ]

    def _counts(self, strategy: Any) -> bool:
        # Avalanche holds the streams of nested evaluations from the begin of ``train`` to its end
        nested = getattr(strategy, "_eval_streams", None) is not None
        return not nested and strategy.experience.origin_stream.name == self.stream


def evaluator(metrics: TransferMetrics, loggers: list[Any], *, curves: bool = False) -> EvaluationPlugin:
    """An Avalanche evaluator of these metrics; ``loggers`` are its loggers, at least one.

    ``curves``: loss and accuracy of each training epoch too. They count from there where an epoch goes on
    after an interruption.
    """
    if not curves:
        return EvaluationPlugin(metrics, loggers=loggers)
    return EvaluationPlugin(metrics, loss_metrics(epoch=True), accuracy_metrics(epoch=True), loggers=loggers)
