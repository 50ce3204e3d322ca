"""Class orders, groups of classes and the rows that a task gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import splitting
from dsn.errors import InputError

label_arrays = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(lambda xs: np.array(xs, np.int64))


def pick(labels, classes, limit, validation, seed=0):
    return splitting.pick_rows(
        labels, classes, limit=limit, validation=validation, random=splitting.generator(seed)
    )


@given(label_arrays, st.one_of(st.none(), st.integers(2, 20)), st.floats(0, 0.99), st.integers(0, 9))
def test_rows_are_disjoint_limited_and_stratified(labels, limit, validation, seed):
    present = [c for c in range(5) if (labels == c).sum() >= 2]
    train, valid = pick(labels, present, limit, validation, seed)
    assert not set(train) & set(valid)
    assert (np.diff(train) > 0).all() and (np.diff(valid) > 0).all()
    assert set(labels[train]) == set(present)
    for c in present:
        available = (labels == c).sum()
        taken = available if limit is None else min(limit, available)
        held_out = (labels[valid] == c).sum()
        assert held_out + (labels[train] == c).sum() == taken
        if validation == 0:
            assert held_out == 0
        else:
            assert 1 <= held_out <= taken - 1
            assert abs(held_out - validation * taken) <= 1


@given(label_arrays, st.integers(1, 20), st.integers(1, 20))
def test_smaller_limit_draws_a_subset(labels, a, b):
    classes = range(5)
    few, _ = pick(labels, classes, min(a, b), 0.0)
    many, _ = pick(labels, classes, max(a, b), 0.0)
    assert set(few) <= set(many)


def test_validation_needs_two_images_a_class():
    with pytest.raises(InputError, match="stream.validation"):
        pick(np.array([0, 0, 1]), [0, 1], None, 0.5)


@given(st.integers(1, 30), st.integers(0, 1000))
def test_shuffled_order_is_a_permutation_fixed_by_the_seed(classes, seed):
    names = [str(c) for c in range(classes)]
    order = splitting.order_classes(names, "shuffled", seed)
    assert sorted(order) == list(range(classes))
    assert order == splitting.order_classes(names, "shuffled", seed)


def test_class_orders():
    names = ["a", "b", "3"]
    assert splitting.order_classes(names, "sorted", 5) == [0, 1, 2]
    assert splitting.order_classes(names, [3, "a"], 5) == [2, 0]
    orders = {tuple(splitting.order_classes([str(i) for i in range(10)], "shuffled", s)) for s in range(5)}
    assert len(orders) == 5
    with pytest.raises(InputError, match="no class is called x"):
        splitting.order_classes(names, ["x"], 0)
    with pytest.raises(InputError, match="a stands there twice"):
        splitting.order_classes(names, ["a", "a"], 0)


def test_groups_of_classes():
    order = [3, 1, 2, 0]
    assert splitting.group_classes(order, 2, None) == [[3, 1], [2, 0]]
    assert splitting.group_classes(order, 3, 1) == [[3], [1], [2]]
    with pytest.raises(InputError, match="need 6.*there are 4"):
        splitting.group_classes(order, 3, 2)
    with pytest.raises(InputError, match="evenly"):
        splitting.group_classes(order, 3, None)


def test_limits_a_task():
    assert splitting.limit_per_task(None, 2) == [None, None]
    assert splitting.limit_per_task(7, 2) == [7, 7]
    assert splitting.limit_per_task([1, 9], 2) == [1, 9]
    with pytest.raises(InputError, match="lists 1 limits for 2 tasks"):
        splitting.limit_per_task([1], 2)


def test_negative_seed_is_refused():
    with pytest.raises(InputError, match="seed is -1"):
        splitting.generator(-1)


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 5), st.integers(0, 3))
def test_neighbours_share_as_many_classes_as_asked(tasks, size, shared, spare):
    if shared >= size:
        with pytest.raises(InputError, match="stream.shared_classes"):
            splitting.group_classes(range(99), tasks, size, max(shared, 1))
        return
    needed = tasks * (size - shared) + shared
    groups = splitting.group_classes(range(needed + spare), tasks, size, shared)
    assert len(groups) == tasks and all(len(set(group)) == size for group in groups)
    assert sorted({c for group in groups for c in group}) == list(range(needed))
    for i, first in enumerate(groups):
        for j, second in enumerate(groups):
            common = set(first) & set(second)
            assert len(common) == max(size - abs(i - j) * (size - shared), 0)
    with pytest.raises(InputError, match=f"need {needed}"):
        splitting.group_classes(range(needed - 1), tasks, size, shared)
    with pytest.raises(InputError, match="stream.shared_classes"):
        splitting.group_classes(range(needed), tasks, None, max(shared, 1))
