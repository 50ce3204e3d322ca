"""Continual-learning metrics, each computed from the accuracy matrix alone.

Shapes and units: T tasks; R [T, T], R[i, k] the test accuracy of task k after training task i, in [0, 1],
NaN where it was not evaluated; ``independent`` [T] and ``random`` [T], reference accuracies in [0, 1].
Every metric is in the unit of the matrix; differences lie in [-1, 1].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsn.errors import InputError

Matrix = NDArray[np.float64]
Accuracies = ArrayLike | Sequence[Sequence[float | None]]


def as_matrix(values: Accuracies) -> Matrix:
    """The accuracy matrix as float64 [T, T], checked; ``None`` entries become NaN.

    Raises InputError when it is not square, an accuracy lies outside [0, 1], or one at or below the
    diagonal is missing.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise InputError(f"accuracy matrix: shape {list(matrix.shape)}, must be tasks x tasks")
    missing = np.isnan(matrix)
    outside = ~(missing | ((matrix >= 0) & (matrix <= 1)))
    if outside.any():
        i, k = (int(index) for index in np.argwhere(outside)[0])
        raise InputError(f"accuracy matrix: row {i}, column {k} is {matrix[i, k]:g}, must lie in [0, 1]")
    missing = np.tril(missing)
    if missing.any():
        i, k = (int(index) for index in np.argwhere(missing)[0])
        raise InputError(
            f"accuracy matrix: row {i}, column {k} is missing; "
            f"evaluate every task learnt so far (0 to {i}) after task {i}"
        )
    return matrix


def as_reference(values: ArrayLike, tasks: int, name: str) -> Matrix:
    """Reference accuracies as float64 [T], checked. Raises InputError on a wrong length or range."""
    reference = np.array(values, dtype=np.float64)
    if reference.shape != (tasks,):
        raise InputError(f"{name}: shape {list(reference.shape)}, must be one accuracy a task, [{tasks}]")
    if not bool(np.all((reference >= 0) & (reference <= 1))):
        raise InputError(f"{name}: {reference.tolist()} must all lie in [0, 1]")
    return reference


def acc(matrix: Accuracies) -> float:
    """Mean accuracy at the end: mean over k of R[T-1, k]."""
    return _acc(as_matrix(matrix))


def _acc(r: Matrix) -> float:
    return float(r[-1].mean())


def learning_accuracy(matrix: Accuracies) -> float:
    """Mean accuracy of a task right after it was learnt: mean over k of R[k, k]."""
    return _learning_accuracy(as_matrix(matrix))


def _learning_accuracy(r: Matrix) -> float:
    return float(np.diag(r).mean())


def bwt(matrix: Accuracies) -> float | None:
    """Backward transfer: mean over k < T-1 of R[T-1, k] - R[k, k]. None for a single task."""
    return _bwt(as_matrix(matrix))


def _bwt(r: Matrix) -> float | None:
    return _mean(r[-1, :-1] - np.diag(r)[:-1])


def forgetting(matrix: Accuracies) -> float | None:
    """Mean over k < T-1 of max over k <= i <= T-1 of R[i, k] - R[T-1, k]. Never negative. None if T = 1."""
    return _forgetting(as_matrix(matrix))


def _forgetting(r: Matrix) -> float | None:
    best = np.where(np.tri(len(r), dtype=bool), r, 0.0).max(axis=0)
    return _mean((best - r[-1])[:-1])


def fwt_random(matrix: Accuracies, random: ArrayLike) -> float | None:
    """Forward transfer over an untrained network: mean over k >= 1 of R[k-1, k] - random[k].

    ``random[k]`` is the accuracy on task k of the same network, randomly initialised. None when T = 1 or
    when the diagonal above the main one was not evaluated.
    """
    return _fwt_random(as_matrix(matrix), random)


def _fwt_random(r: Matrix, random: ArrayLike) -> float | None:
    return _mean(np.diag(r, k=1) - as_reference(random, len(r), "random")[1:])


def fwt_independent(matrix: Accuracies, independent: ArrayLike) -> float | None:
    """Forward transfer over single-task training: mean over k >= 1 of R[k, k] - independent[k].

    ``independent[k]`` is the accuracy of a network trained on task k alone. None when T = 1.
    """
    return _fwt_independent(as_matrix(matrix), independent)


def _fwt_independent(r: Matrix, independent: ArrayLike) -> float | None:
    return _mean((np.diag(r) - as_reference(independent, len(r), "independent"))[1:])


def trans(matrix: Accuracies, independent: ArrayLike) -> float:
    """Transfer in both directions: mean over k of R[T-1, k] - independent[k]."""
    return _trans(as_matrix(matrix), independent)


def _trans(r: Matrix, independent: ArrayLike) -> float:
    return float((r[-1] - as_reference(independent, len(r), "independent")).mean())


def all_metrics(
    matrix: Accuracies,
    independent: Sequence[float] | None = None,
    random: Sequence[float] | None = None,
) -> dict[str, float | None]:
    """Every metric by its name; None where its runs are missing or nothing is left to average (T = 1)."""
    r = as_matrix(matrix)
    return {
        "acc": _acc(r),
        "bwt": _bwt(r),
        "forgetting": _forgetting(r),
        "learning_accuracy": _learning_accuracy(r),
        "fwt_random": None if random is None else _fwt_random(r, random),
        "fwt_independent": None if independent is None else _fwt_independent(r, independent),
        "trans": None if independent is None else _trans(r, independent),
    }


def _mean(values: NDArray[Any]) -> float | None:
    return None if values.size == 0 or np.isnan(values).any() else float(values.mean())
