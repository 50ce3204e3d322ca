"""What each method adds, against a readable twin or its own definition."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsn.baselines.rehearsal import MixedLoader, PairedLoader, project, read_memory
from dsn.training.loader import TensorLoader

from .setups import CONV, DECAYING_SGD, TASKS, Trained, config, learnt_once

BACKBONE = [(64, 24), (24, 16)]
HEAD = 4 * (16 * 2 + 2)
WEIGHTS = sum(a * b for a, b in BACKBONE)
BIASES = sum(b for _, b in BACKBONE)
SAMPLES = 80  # a task: 40 a class
SAMPLE = 64 * 4 + 8


def bits(counts):
    return sum(-(-count // 8) for count in counts)


MEMORY = {
    "naive": ([HEAD] * 3, 0, 0),
    "random": ([HEAD] * 3, 0, 0),
    "wsn": ([HEAD + 4 * BIASES + bits(a * b for a, b in BACKBONE)] * 3, 0, 0),
    "supsup": ([HEAD + bits(a * b for a, b in BACKBONE)] * 3, 0, 0),
    "hat": ([HEAD + bits(b for _, b in BACKBONE)] * 3, 0, 0),
    "packnet": ([HEAD] * 3, WEIGHTS, 0),
    "independent": ([HEAD + 4 * (WEIGHTS + BIASES)] * 3, 0, 0),
    "pnn": ([4 * (WEIGHTS + BIASES + k * 24 * 16 + 2 * 16 * (k + 1) + 2) for k in range(3)], 0, 0),
    "si": ([HEAD] * 3, 2 * 4 * (WEIGHTS + BIASES), 0),
    "mas": ([HEAD] * 3, 2 * (4 * (WEIGHTS + BIASES) + 3 * HEAD), 0),
    "ewc": ([HEAD] * 3, sum(2 * (4 * (WEIGHTS + BIASES) + k * HEAD) for k in (1, 2, 3)), 0),
    "lwf": ([HEAD] * 3, 4 * (WEIGHTS + BIASES) + 3 * HEAD, 0),
    "gem": ([HEAD] * 3, 0, 3 * SAMPLES),
    "agem": ([HEAD] * 3, 0, 3 * SAMPLES),
    "replay": ([HEAD] * 3, 0, 200),
    "cumulative": ([HEAD] * 3, 0, 3 * SAMPLES),
    "joint": ([HEAD] * 3, 0, 3 * SAMPLES),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_what_the_shapes_say(name):
    memory = learnt_once(name).memory
    per_task, shared, stored = MEMORY[name]
    assert memory.bytes_per_task == per_task
    assert memory.shared_bytes == shared
    assert (memory.stored_samples, memory.stored_sample_bytes) == (stored, stored * SAMPLE)


USED = {"supsup": 0, "random": 0, "independent": 0, "pnn": 0, "naive": WEIGHTS, "joint": WEIGHTS}


@pytest.mark.parametrize("name", ["dsn", "hat", "wsn", "packnet", *USED])
def test_used_weights_are_those_that_some_task_needs_and_no_seed_gives(name):
    memory = learnt_once(name).memory
    assert memory.backbone_bytes == 4 * WEIGHTS
    if name in USED:
        assert memory.used_bytes == 4 * USED[name]
    else:
        assert 0 < memory.used_bytes <= 4 * WEIGHTS


def test_wsn_counts_each_weight_once_however_many_tasks_use_it():
    trained = Trained(config("wsn", baselines={"wsn": {"density": 0.25}}, train={"epochs": 1}))
    model = trained.strategy.model
    union = [
        torch.stack([model.mask(task, path) for task in model.tasks]).any(0).sum() for path in model.layers
    ]
    one = sum(int(model.mask(0, path).sum()) for path in model.layers)
    used = trained.strategy.memory().used_bytes
    assert used == 4 * int(sum(union)) and 4 * one < used < 4 * one * TASKS


def test_packnet_counts_what_was_not_given_back():
    trained = Trained(config("packnet", baselines={"packnet": {"prune": 0.5}}, train={"epochs": 2}))
    memory = trained.strategy.memory()
    assert memory.used_bytes == pytest.approx(memory.backbone_bytes * (1 - 0.5**TASKS), rel=0.01)


def test_dsn_counts_its_packed_masks_and_what_it_keeps_beside_them():
    memory = learnt_once("dsn").memory
    assert all(own >= HEAD + 3 + 2 for own in memory.bytes_per_task)


def test_norm_state_counts_for_its_task():
    trained = Trained(config("naive", images=True, backbone=CONV, train=DECAYING_SGD), images=True)
    channels = 4 + 8 + 16
    expected = 4 * (16 * 2 + 2) + 4 * 4 * channels + 3 * 8  # affine, running statistics, batch counters
    assert trained.strategy.memory().bytes_per_task == [expected] * TASKS


@pytest.mark.parametrize("name", ["gem", "agem"])
def test_episodic_memories_keep_as_many_as_they_may(name):
    trained = Trained(config(name, baselines={name: {"samples": 7}}, train={"epochs": 1}))
    memory = trained.strategy.memory()
    assert (memory.stored_samples, memory.stored_sample_bytes) == (7 * TASKS, 7 * TASKS * SAMPLE)


def test_replay_shares_its_memory_evenly():
    strategy = Trained(config("replay", baselines={"replay": {"samples": 30}}, train={"epochs": 1})).strategy
    *_, task = read_memory(strategy.replay.storage_policy.buffer)
    assert torch.bincount(task).tolist() == [10, 10, 10]


@given(st.integers(1, 4), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_gem_projects_as_trying_every_active_set_does(tasks, parameters, margin, seed):
    torch.manual_seed(seed)
    G, g = torch.randn(tasks, parameters), torch.randn(parameters)
    P = (G @ G.T).double().numpy() + 1e-3 * np.eye(tasks)
    q = (G @ g).double().numpy()

    def cost(v):
        return v @ P @ v / 2 + q @ v

    best = np.full(tasks, margin)
    for free in itertools.chain.from_iterable(
        itertools.combinations(range(tasks), k) for k in range(1, tasks + 1)
    ):
        fixed = [i for i in range(tasks) if i not in free]
        v = np.full(tasks, margin)
        rest = q[list(free)] + P[np.ix_(free, fixed)] @ v[fixed]
        v[list(free)] = np.linalg.solve(P[np.ix_(free, free)], -rest)
        if (v >= margin - 1e-12).all() and cost(v) < cost(best):
            best = v
    expected = g.double().numpy() + best @ G.double().numpy()
    assert np.allclose(project(G, g, margin).numpy(), expected, atol=1e-3)


def test_gem_leaves_a_gradient_that_hurts_nobody():
    g = torch.tensor([1.0, 2.0])
    assert torch.equal(project(torch.eye(2), g, 0.0), g)


def test_mixed_batches_hold_every_sample_once_with_its_task():
    parts = {3: (torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.long))}
    parts[8] = (torch.arange(5.0, 9.0)[:, None], torch.ones(4, dtype=torch.long))
    batches = list(MixedLoader(parts, batch_size=3))
    seen = sorted((float(a), int(b), int(c)) for x, y, t in batches for a, b, c in zip(x, y, t, strict=True))
    assert seen == [(float(i), int(i > 4), 3 if i < 5 else 8) for i in range(9)]


def test_paired_batches_end_with_samples_of_the_memory():
    loader = TensorLoader(
        torch.zeros(10, 1), torch.zeros(10, dtype=torch.long), 2, batch_size=4, shuffle=True
    )
    memory = [torch.ones(6, 1), torch.ones(6, dtype=torch.long), torch.ones(6, dtype=torch.long)]
    batches = list(PairedLoader(loader, memory))
    assert [len(x) for x, _, _ in batches] == [8, 8, 6]
    assert all(bool(x[-4:].eq(1).all()) and t[-4:].tolist() == [1] * 4 for x, _, t in batches)


def after(name, strength, **more):
    setup = config(name, baselines={name: {"strength": strength, **more}}, train={"epochs": 6, "lr": 0.1})
    return Trained(setup)


@pytest.mark.parametrize(("name", "strong"), [("ewc", 300.0), ("mas", 30.0), ("si", 30.0)])
def test_a_stronger_penalty_keeps_earlier_logits_nearer(name, strong):
    def drift(strength):
        logits = after(name, strength).after
        return float((logits[-1][0] - logits[0][0]).norm())

    assert drift(strong) < 0.85 * drift(0.0)


def test_the_online_importance_does_not_grow_with_the_tasks():
    many, single = after("ewc", 1.0), after("ewc", 1.0, online=True)
    assert len(many.strategy.ewc.importances) == TASKS
    assert len(single.strategy.ewc.importances) == 1


def test_mas_does_not_mind_a_loss_of_zero():
    strategy = after("mas", 0.1).strategy
    strategy.loss = torch.zeros(1)
    with torch.no_grad():
        strategy.model.shared_parameters()[0].add_(1.0)
    strategy.mas.before_backward(strategy)
    assert float(strategy.loss.detach()) > 0


def test_what_mas_and_ewc_measure_leaves_running_statistics_alone():
    for name in ("mas", "ewc", "lwf"):
        setup = config(name, images=True, backbone=CONV, train=DECAYING_SGD | {"epochs": 1})
        strategy = Trained(setup, images=True).strategy
        batches = {int(norm.of(0).num_batches_tracked) for norm in strategy.model.norms()}
        assert batches == {SAMPLES // 16}


def test_the_old_network_of_lwf_evaluates():
    strategy = Trained(config("lwf", images=True, backbone=CONV, train=DECAYING_SGD), images=True).strategy
    old = strategy.lwf.lwf.prev_model
    assert not any(module.training for module in old.modules())
