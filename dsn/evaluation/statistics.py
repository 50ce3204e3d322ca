"""Statistics over seeds and streams, on plain arrays.

Shapes: ``values`` [n], one number a seed; ``scores`` [S, M], S streams, M strategies. Results are in the unit
of what was given; a limit or a p-value that the numbers cannot give is None, never NaN.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dsn.errors import InputError

LEVEL = 0.95
SAME = 1e-12  # accuracies are ratios of counts: a spread below this comes from rounding


class Estimate(NamedTuple):
    """A mean with its two-sided t-interval; the limits are None for a single value."""

    mean: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A mean paired difference, its t-interval and the p-value of "no difference" (paired t-test).

    A single pair gives neither limits nor p. Where all differences are equal the interval is that one value,
    and p is None: without any spread the t statistic is not defined.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Mean of ``values`` [n] with mean ± t(n-1) · s/√n, Student (1908). Raises InputError when empty."""
    x = _numbers(values)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * stats.sem(x))
    return Estimate(mean, mean - half, mean + half)


def paired_difference(values: ArrayLike, reference: ArrayLike, level: float = LEVEL) -> Difference:
    """``values - reference``, both [n], paired by position (the seed).

    Raises InputError for different lengths or none.
    """
    x, r = _numbers(values), _numbers(reference)
    if x.shape != r.shape:
        raise InputError(f"paired difference: {len(x)} values and {len(r)} of the reference; pair them")
    difference = x - r
    mean = float(difference.mean())
    if len(difference) < 2:
        return Difference(mean, None, None, None)
    if np.ptp(difference) <= SAME:
        return Difference(mean, mean, mean, None)
    test = stats.ttest_rel(x, r)
    low, high = test.confidence_interval(level)
    return Difference(mean, float(low), float(high), float(test.pvalue))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p-values [m] corrected for m comparisons: Holm (1979), step-down, family-wise error.

    The i-th smallest, i from 0, times m - i; then made to rise with p, and cut at 1.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not bool(np.all((p >= 0) & (p <= 1))):
        raise InputError(f"holm: {p.tolist()} must be p-values, each in [0, 1]")
    order = np.argsort(p)
    steps = np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0)
    return corrected


def average_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Mean rank [M] over the streams of ``scores`` [S, M]: the highest score of a stream has rank 1.

    Equal scores share the mean of their ranks (Demšar 2006). Raises InputError for no stream, or NaN.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or np.isnan(table).any():
        raise InputError(f"ranks: need streams x strategies without gaps, got shape {list(table.shape)}")
    return np.asarray(stats.rankdata(-table, axis=1).mean(axis=0))


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not bool(np.all(np.isfinite(x))):
        raise InputError(f"statistics need one or more finite numbers in a row, got {x.tolist()}")
    return x
