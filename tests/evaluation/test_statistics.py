"""Statistics over seeds: hand-computed cases, scipy beside them, and what must hold for any numbers."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from dsn.errors import InputError
from dsn.evaluation.statistics import average_ranks, holm, mean_interval, paired_difference

ACCURACY = st.integers(0, 10_000).map(lambda hits: hits / 10_000)
P = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def pairs(smallest=2):
    return st.integers(smallest, 8).flatmap(lambda n: arrays(np.float64, (2, n), elements=ACCURACY))


def test_an_interval_computed_by_hand():
    mean, low, high = mean_interval([0.7, 0.8, 0.9])  # s = 0.1, t(2) = 4.302653
    assert mean == pytest.approx(0.8)
    assert (low, high) == pytest.approx((0.8 - 4.302653 * 0.1 / math.sqrt(3), 0.8 + 0.2484138), abs=1e-6)


def test_a_paired_difference_computed_by_hand():
    # differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1, t = 0.2 / (0.1 / sqrt 3) = sqrt 12 with 2 degrees of
    # freedom, where p = 1 - t / sqrt(t^2 + 2)
    found = paired_difference([0.6, 0.8, 0.7], [0.5, 0.6, 0.4])
    assert found.mean == pytest.approx(0.2)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert (found.low, found.high) == pytest.approx((0.2 - 0.2484138, 0.2 + 0.2484138), abs=1e-6)


def test_a_holm_correction_computed_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04, and the last must not fall
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_ranks_computed_by_hand():
    scores = [[0.9, 0.5, 0.5], [0.2, 0.8, 0.1]]  # ranks 1, 2.5, 2.5 and 2, 1, 3
    assert average_ranks(scores).tolist() == [1.5, 1.75, 2.75]


@given(pairs())
def test_both_equal_scipy(table):
    x, reference = table
    assume(np.ptp(x - reference) > 1e-6 and np.ptp(x) > 1e-6)
    low, high = stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    assert mean_interval(x) == pytest.approx((x.mean(), low, high))
    found, test = paired_difference(x, reference), stats.ttest_1samp(x - reference, 0)
    interval = test.confidence_interval(0.95)
    assert found == pytest.approx((np.mean(x - reference), interval.low, interval.high, test.pvalue))
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


@given(pairs(smallest=1))
def test_differences_change_their_sign_with_the_reference(table):
    there, back = paired_difference(table[0], table[1]), paired_difference(table[1], table[0])
    assert there.mean == pytest.approx(-back.mean)
    assert there.p == (None if back.p is None else pytest.approx(back.p))
    if there.low is not None:
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@given(ACCURACY, ACCURACY)
def test_one_pair_gives_no_interval_and_no_p(a, b):
    assert mean_interval([a]) == (a, None, None)
    assert paired_difference([a], [b]) == (a - b, None, None, None)


@given(arrays(np.float64, 5, elements=ACCURACY), st.sampled_from([0.0, 0.1, 1 / 3]))
def test_equal_differences_give_an_interval_of_no_width_and_no_p(x, shift):
    found = paired_difference(x + shift, x)  # rounding leaves a spread of about 1e-17, which is none
    assert found.mean == found.low == found.high == pytest.approx(shift) and found.p is None


@given(P)
def test_holm_rejects_what_the_step_down_procedure_rejects(p):
    level, rejected = 0.05, set()
    for step, index in enumerate(np.argsort(p)):
        if p[index] > level / (len(p) - step):
            break
        rejected.add(index)
    corrected = holm(p)
    near = np.abs(corrected - level) < 1e-12  # p * m against p > level / m may round either way
    assert all(near[i] or (corrected[i] <= level) == (i in rejected) for i in range(len(p)))
    assert bool(np.all(corrected >= p)) and corrected.max() <= 1
    assert min(corrected) == pytest.approx(min(1.0, len(p) * min(p)))


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=ACCURACY))
def test_ranks_add_up_and_depend_on_the_order_alone(scores):
    ranks = average_ranks(scores)
    assert ranks.sum() == pytest.approx(scores.shape[1] * (scores.shape[1] + 1) / 2)
    assert average_ranks(2 * scores + 1).tolist() == ranks.tolist()
    best = np.flatnonzero((scores == scores.max(axis=1, keepdims=True)).all(axis=0))
    assert all(ranks[i] == ranks.min() for i in best)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "one or more finite numbers"),
        (lambda: mean_interval([0.5, math.nan]), "one or more finite numbers"),
        (lambda: paired_difference([0.5], [0.5, 0.6]), "pair them"),
        (lambda: holm([0.5, 1.5]), "p-values"),
        (lambda: holm([math.nan]), "p-values"),
        (lambda: average_ranks([[0.5, math.nan]]), "without gaps"),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
