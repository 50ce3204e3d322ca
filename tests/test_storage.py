"""Trees in files: what comes back, what damage is noticed, what a disk that refuses leaves."""

import errno
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsn import storage
from dsn.errors import InputError
from dsn.storage import Damaged, first_difference, plain_values, read_tree, write_tree

KIND = {"format": "test", "version": 1}

tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    ),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), tensors)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.just("$tensor")), inner, max_size=3),
        st.dictionaries(st.integers(), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)  # repr: nan is nan, and all digits count


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_what_is_written_is_read(tmp_path, tree):
    write_tree(tmp_path / "file", tree, **KIND)
    assert same(tree, read_tree(tmp_path / "file", **KIND))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_tree_is_named(tmp_path):
    with pytest.raises(TypeError, match="a.1 is a set"):
        write_tree(tmp_path / "file", {"a": [0, {1}]}, **KIND)
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_noticed_or_does_not_matter(tmp_path, data):
    """No corruption gives anything but what was written, or one error."""
    tree = {"a": torch.arange(50.0), "b": [1, 2.5, "x", None], "c": {"d": torch.zeros(3, dtype=torch.uint8)}}
    write_tree(tmp_path / "file", tree, **KIND)
    content = bytearray((tmp_path / "file").read_bytes())
    corrupt(content, data)
    (tmp_path / "file").write_bytes(content)
    try:
        found = read_tree(tmp_path / "file", **KIND)
    except InputError as error:
        assert str(tmp_path / "file") in str(error) and "\n" not in str(error)
    else:
        assert same(tree, found)


def corrupt(content, data):
    """Truncate, flip a bit, overwrite, insert or empty, in place."""
    place = data.draw(st.integers(0, len(content) - 1), "place")
    what = data.draw(st.sampled_from(["truncate", "flip", "overwrite", "insert", "zeros"]), "what")
    if what == "truncate":
        del content[place:]
    elif what == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif what == "overwrite":
        content[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8))
    elif what == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
    else:
        content[place:] = bytes(len(content) - place)


def test_every_single_bit_of_a_tensor_counts(tmp_path):
    write_tree(tmp_path / "file", {"a": torch.zeros(2)}, **KIND)
    content = (tmp_path / "file").read_bytes()
    for bit in range(64):
        flipped = bytearray(content)
        flipped[len(content) - 8 + bit // 8] ^= 1 << bit % 8
        (tmp_path / "file").write_bytes(flipped)
        with pytest.raises(Damaged, match="checksum"):
            read_tree(tmp_path / "file", **KIND)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_tree(tmp_path / "file", [1], **KIND)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_tree(tmp_path / "file", [2], **KIND)
    assert read_tree(tmp_path / "file", **KIND) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_first_difference_is_named():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1.0}}) is None
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b was 1, is 2"
    assert first_difference({"a": 1}, {}) == "a was 1, is absent"
    assert first_difference({}, {"a": None}) == "a was absent, is null"
    assert first_difference({"a": True}, {"a": 1}) == "a was true, is 1"
    assert plain_values({1: (torch.tensor([2]),)}) == {"1": [[2]]}
