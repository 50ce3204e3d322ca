"""A strategy's state, taken anywhere and put into a fresh strategy: training goes on to the same last bit."""

import copy
import inspect
import random
from dataclasses import fields

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin

from benchmarks import split_digits
from dsn import DSN, InputError, backbones, mask_neurons
from dsn.storage import read_tree, write_tree
from dsn.training.state import settings
from tests.training.flat import GROUPS, RENAMED, dsn

SETTINGS = {
    "sgd": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3)},
    "adamw, cosine, budget": {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=0.01),
        "schedule": "cosine",
        "budget": 0.7,
        "planned_tasks": 3,
        "annealing": "task",
    },
    "plateau, best, phases": {
        "optimizer": lambda p: torch.optim.Adam(p, lr=0.02),
        "schedule": "plateau",
        "restore_best": True,
        "average_epochs": 0.7,
        "norm_samples": 20,
        "patience": 2,
        "warmup_epochs": 1,
        "consolidation_epochs": 2,
    },
    "growth, channels last": {
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "growth": 5,
        "channels_last": True,
        "initial": {"choice": "npb", "he": True},
    },
    "edges, consolidation, growth": {
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
        "edges": "own_and_read",
        "planned_tasks": 2,
        "average_epochs": 1.5,
        "schedule": "cosine",
        "consolidation_epochs": 1,
        "restore_best": True,
        "growth": 3,
    },
}


@pytest.fixture(scope="module")
def stream():
    config = split_digits.SplitDigitsConfig(tasks=3, train_per_class=24, validation=0.25, flatten=False)
    return split_digits.build(config, 0)


def make(name, seed=0, width=4, **more):
    torch.manual_seed(seed)
    settings = {"replay": {"images": 4, "steps": 2}, **SETTINGS[name], **more}
    optimizer = settings.pop("optimizer")
    net = backbones.small_cnn(1, 8, width=width, features=10, dropout=0.2)
    edges = settings.pop("edges", "none")
    model = mask_neurons(net, example_input=torch.zeros(1, 1, 8, 8), edges=edges)
    return dsn(
        model=model,
        optimizer=optimizer(model.parameters()),
        train_epochs=2,
        train_mb_size=10,
        evaluator=None,
        transfer_tasks=2,
        forward_tasks=2,
        acceptance="always",
        plugins=[Noise()],
        **settings,
    )


class Noise(SupervisedPlugin):
    """Draws from Python's and numpy's generators, and lets training depend on both."""

    def before_backward(self, strategy, **_kwargs):
        strategy.loss = strategy.loss * (1 + 0.1 * random.random() + 0.1 * np.random.rand())


def learn(strategy, stream, first=0):
    random.seed(first), np.random.seed(first)
    for task in range(first, 3):
        strategy.train(stream.train_stream[task], eval_streams=[stream.valid_stream[task]])
    return strategy


def outcome(strategy):
    return strategy.model.state_dict(), strategy.transfers, strategy.forward_transfers, torch.rand(3)


def assert_same(one, other):
    assert one[0].keys() == other[0].keys()
    for key, value in one[0].items():
        assert torch.equal(value, other[0][key]), key
    assert one[1:3] == other[1:3]
    assert torch.equal(one[3], other[3])


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("name", list(SETTINGS))
def test_going_on_from_anywhere_ends_the_same(stream, tmp_path, name):
    strategy, states = make(name), []
    rests, often = [], 13 if "phases" in name else 6

    def keep(before):
        rests.append(before)
        if len(rests) % often == 4 or (before == "end" and len(strategy.model.tasks) == 2):
            states.append((len(strategy.model.tasks) - 1, strategy.take_state()))

    strategy.at_rest = keep
    whole = outcome(learn(strategy, stream))
    assert len(whole[1]) == 3 and rests.count("end") == 3 and len(states) >= 5
    places = {(s["within"]["phase"], s["within"]["epoch"]) for _, s in states}
    assert len(places) >= 2
    for task, state in states:
        write_tree(tmp_path / "state", state, format="test", version=1)
        again = make(name, seed=7)  # other weights, other random states
        torch.rand(5), random.random(), np.random.rand()
        again.put_state(read_tree(tmp_path / "state", format="test", version=1))
        assert_same(outcome(learn_from(again, stream, task)), whole)


def learn_from(strategy, stream, task):
    for later in range(task, 3):
        strategy.train(stream.train_stream[later], eval_streams=[stream.valid_stream[later]])
    return strategy


def test_every_argument_that_training_depends_on_must_fit():
    strategy = make(next(iter(SETTINGS)))
    own = {"model", "criterion", "evaluator", "avalanche", *GROUPS}
    without_effect = {"eval_mb_size", "cache", "cache_bytes", "device", "compile"}
    flat = {place: name for name, place in RENAMED.items()}
    fitting = {flat.get((g, f.name), f.name) for g, made in GROUPS.items() for f in fields(made)}
    arguments = set(inspect.signature(DSN).parameters) - own | fitting
    assert arguments - without_effect == set(settings(strategy))


def test_evaluating_meanwhile_does_no_harm(stream):
    strategy = make("sgd")
    random.seed(0), np.random.seed(0)
    strategy.train(stream.train_stream[0], eval_streams=[stream.valid_stream[0]])
    state = copy.deepcopy(strategy.take_state())
    whole = outcome(learn_from(strategy, stream, 1))
    again = make("sgd", seed=3)
    again.put_state(state)
    again.eval(stream.test_stream[:1])
    assert_same(outcome(learn_from(again, stream, 1)), whole)


def test_saving_and_loading_a_folder_is_the_same_and_other_files_are_refused(stream, tmp_path):
    strategy = make("sgd")
    random.seed(0), np.random.seed(0)
    strategy.train(stream.train_stream[0], eval_streams=[stream.valid_stream[0]])
    strategy.save(tmp_path / "deep" / "state")
    whole = outcome(learn_from(strategy, stream, 1))
    again = make("sgd", seed=3)
    again.load(tmp_path / "deep" / "state")
    assert_same(outcome(learn_from(again, stream, 1)), whole)
    with pytest.raises(InputError, match="strategy.safetensors: .*sparsity was 0.75, is 0.1"):
        make("sgd", sparsity=0.1).load(tmp_path / "deep" / "state")
    with pytest.raises(InputError, match="no such file"):
        make("sgd").load(tmp_path)
    write_tree(tmp_path / "strategy.safetensors", {}, format="dsn-strategy", version=9)
    with pytest.raises(InputError, match="format version is 9, this version of dsn reads 1"):
        make("sgd").load(tmp_path)
    write_tree(tmp_path / "strategy.safetensors", {}, format="dsn-run", version=1)
    with pytest.raises(InputError, match="holds 'dsn-run', not 'dsn-strategy'"):
        make("sgd").load(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sparsity": 0.5}, "sparsity was 0.75, is 0.5"),
        ({"replay": {"images": 5}}, "replay.images was 4, is 5"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.2)}, "optimizer.lr was 0.1, is 0.2"),
        ({"optimizer": lambda p: torch.optim.Adam(p)}, 'optimizer.name was "SGD", is "Adam"'),
        ({"width": 5}, "weight' has the shape"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(stream, change, named):
    state = make("sgd").take_state()
    other = make("sgd", seed=1, **change)
    before = {key: value.clone() for key, value in other.model.state_dict().items()}
    with pytest.raises(InputError, match=named):
        other.put_state(state)
    assert all(torch.equal(value, before[key]) for key, value in other.model.state_dict().items())


def test_a_state_within_a_task_wants_that_task(stream):
    strategy, states = make("sgd"), []
    strategy.at_rest = lambda _: states.append(strategy.take_state()) if not states else None
    strategy.train(stream.train_stream[0], eval_streams=[stream.valid_stream[0]])
    again = make("sgd")
    again.put_state(states[0])
    with pytest.raises(InputError, match="while task 0 was learnt, but the experience is of task 1"):
        again.train(stream.train_stream[1], eval_streams=[stream.valid_stream[1]])
