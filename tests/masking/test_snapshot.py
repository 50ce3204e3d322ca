"""Copies of a state that are given out again equal copies made anew, whatever happened in between."""

import copy
import functools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsn import backbones, mask_neurons
from dsn.masking.layers import evaluating
from dsn.masking.records import Lateral, OfTasks, in_use
from dsn.masking.state import snapshot
from dsn.masking.state.snapshot import Snapshot, Snapshots, StateCopies
from dsn.transfer.backward import TaskState


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(snapshot, "BLOCK", 2)


@functools.cache
def wrapped(edges):
    torch.manual_seed(0)
    if edges == "none":
        return mask_neurons(backbones.small_cnn(1, width=2), example_input=torch.zeros(1, 1, 32, 32))
    return mask_neurons(backbones.mlp(6, widths=(8, 8)), example_input=torch.zeros(1, 6), edges=edges)


def network(edges="none"):
    return copy.deepcopy(wrapped(edges))


def begin(model, task):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no neuron is free any more
        model.add_task(2, task, planned_tasks=None if model.edges is None else 9)


def learn(model):
    if model.learning is None:
        begin(model, max(model.tasks, default=-1) + 1)
    task = model.learning
    model.train()
    model(torch.randn(4, *model.input_shape[1:]), task).sum().backward()
    with torch.no_grad():
        for parameter in model.task_parameters(task):
            parameter.sub_(0.01 * torch.randn_like(parameter))
    model.zero_grad(set_to_none=True)


def commit(model):
    learn(model)
    model.commit(model.learning)


def drop(model):
    learn(model)
    model.drop_task(model.learning)


def of_any(change):
    """A change of a committed task, chosen by the number of what happened so far."""

    def changed(model):
        if model.committed:
            change(model, model.committed[len(model.state_dict()) % len(model.committed)])

    changed.__name__ = change.__name__
    return changed


@of_any
def write_head(model, task):
    with torch.no_grad():
        model.heads[str(task)].weight.mul_(1.5)


@of_any
def record(model, task):
    model.record(task).put("note", torch.randn(3))


@of_any
def read(model, task):
    lateral = Lateral(task, torch.tensor(0.5), torch.randn(2, model.feature_size), torch.zeros(2))
    model.lateral_heads(task).append(lateral)


@of_any
def try_and_undo(model, task):
    state = TaskState(model, task)
    write_head(model)
    model.lateral_heads(task).append(Lateral(task, *(torch.zeros(()), torch.zeros(2, 1), torch.zeros(2))))
    state.restore()


@of_any
def read_no_more(model, task):
    del model.lateral_heads(task)[:]


@of_any
def move_a_norm(model, task):
    for norm in model.norms():
        for buffer in norm.of(task).buffers():
            buffer.add_(1)


@of_any
def forget(model, task):
    if model.learning is None:
        model.forget(task, cascade=True)


def load(model):
    model.load_state_dict({k: v.clone() for k, v in copy.deepcopy(model).state_dict().items()})


def load_an_empty_one(model):
    model.load_state_dict(network("none" if model.edges is None else model.edges.mode).state_dict())


STEPS = [
    commit,
    commit,
    learn,
    drop,
    write_head,
    record,
    read,
    try_and_undo,
    read_no_more,
    move_a_norm,
    forget,
    load,
    load_an_empty_one,
]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("edges", ["none", "own_and_read"])
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=12))
def test_copies_are_those_of_the_moment_and_stay(edges, steps):
    model, copies = network(edges), StateCopies()
    taken = []
    for step in [commit, *steps]:
        step(model)
        now = {name: value.clone() for name, value in model.state_dict().items()}
        taken.append((now, copies.of(model)))
    for now, copied in taken:
        assert same(now, copied)


def test_what_stays_is_not_copied_again(monkeypatch):
    model, copies, made = network(), StateCopies(), []
    once = snapshot.on_cpu
    monkeypatch.setattr(snapshot, "on_cpu", lambda tensor: made.append(tensor) or once(tensor))
    counts = []
    for _ in range(4):
        commit(model)
        copies.of(model)
        made.clear()
        state = copies.of(model)
        counts.append(len(made))
    assert len(set(counts)) == 1 and counts[0] < len(state)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda module: module.weight.detach().zero_(), True),
        (lambda module: setattr(module.weight, "data", torch.ones(2, 2)), True),
        (lambda module: setattr(module, "bias", None), True),
        (lambda module: module.register_buffer("kept", torch.zeros(1)), True),
        (lambda module: module.weight.data.zero_(), False),  # torch does not count it
    ],
)
def test_a_snapshot_sees_what_torch_counts(change, seen):
    module = nn.Linear(2, 2)
    before = Snapshot([module])
    assert before.holds([module])
    change(module)
    assert before.holds([module]) is not seen


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "drop", "write", "replace", "beside", "ask"]), st.integers(0, 6)),
        max_size=60,
    )
)
def test_of_many_what_was_written_is_found_and_nothing_else(steps):
    held, many, changed = {}, Snapshots(), set()
    for step, key in [*steps, ("ask", 0)]:
        if step == "ask":
            assert many.written(held) == changed
            assert not many.written(held) and not many.written(held, known_stay=True)
            changed = set()
        elif step == "add":
            held[key] = [nn.Linear(1, 1, bias=False)], [torch.zeros(1)]
            changed.add(key)
        elif step == "drop":
            held.pop(key, None)
            changed.discard(key)
        elif key in held:
            modules, beside = held[key]
            if step == "write":
                modules[0].weight.detach().add_(1)
            elif step == "replace":
                held[key] = [nn.Linear(1, 1)], beside
            else:
                held[key] = modules, [torch.zeros(1)]
            changed.add(key)


def test_what_was_made_in_inference_mode_never_stays():
    with torch.inference_mode():
        module = nn.Linear(2, 2)
    assert not Snapshot([module]).holds([module])


def test_closed_tasks_stay_in_evaluation_mode_and_no_walk_meets_them():
    model = network()
    walks = []
    for _ in range(3):
        commit(model)
        walks.append(len(list(in_use(model))))
    assert len(set(walks)) == 1
    begin(model, 7)
    for mode in (True, False, True):
        model.train(mode)
        for norm in model.norms():
            assert norm.of(7).training is mode and not norm.original.training
            assert not any(norm.of(task).training for task in (0, 1, 2))
    with evaluating(model):
        assert not any(module.training for _, module in in_use(model))
    assert all(norm.of(7).training for norm in model.norms())
    assert not any(module.training for task in "012" for module in model.heads[task].modules())


def test_what_is_reopened_follows_the_mode_again():
    tasks = OfTasks().train()
    tasks["0"] = nn.BatchNorm1d(2)
    tasks.close("0")
    assert not tasks["0"].training and not tasks["0"].weight.requires_grad and not tasks.is_open("0")
    tasks.reopen("0")
    assert tasks["0"].training and tasks["0"].weight.requires_grad
    del tasks["0"]
    assert not tasks.open_children()
