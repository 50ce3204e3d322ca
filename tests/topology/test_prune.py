"""Invariants of every pruner, and what each is for."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsn import backbones
from dsn.errors import InputError
from dsn.topology import PRUNERS, densities, prune
from dsn.topology.layers import regular
from dsn.topology.measures import topology

NETS = {
    "mlp": (lambda: nn.Sequential(backbones.mlp(20, (30, 30)), nn.Linear(30, 4)), (1, 20)),
    "small_cnn": (
        lambda: nn.Sequential(backbones.small_cnn(3, 8, width=8, features=16), nn.Linear(16, 4)),
        (1, 3, 8, 8),
    ),
    "resnet18": (lambda: nn.Sequential(backbones.resnet18(3, 8, width=4), nn.Linear(32, 4)), (1, 3, 8, 8)),
}

LAYER = st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))  # n, d, kernel


def make(net):
    torch.manual_seed(0)
    build, shape = NETS[net]
    return build(), shape, (torch.randn(24, *shape[1:]), torch.arange(24) % 4)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("density", [0.3, 0.05, 1.0])
def test_budget_shapes_and_seed(net, pruner, density):
    network, shape, samples = make(net)
    before = copy.deepcopy(network.state_dict())
    options = {"rounds": 10} if pruner in ("synflow", "iterative_snip") else {}

    def masks(seed):
        return prune(network, density, pruner, input_shape=shape, samples=samples, seed=seed, **options)

    first = masks(3)
    weights = {p: m.weight for p, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert {p: m.shape for p, m in first.items()} == {p: w.shape for p, w in weights.items()}
    total, kept = sum(w.numel() for w in weights.values()), sum(int(m.sum()) for m in first.values())
    if pruner == "narrow":
        assert 0 < kept <= round(density * total)
    elif pruner == "npb_paper":  # it rounds every chunk up, and its tuning fills whole kernels
        assert abs(kept - density * total) <= 0.04 * density * total + 20
    else:
        assert kept == round(density * total)
    again = masks(3)
    assert all(torch.equal(first[p], again[p]) for p in first)
    if pruner in ("random", "uniform", "regular", "npb", "phew") and density == 0.3:
        assert any(not torch.equal(mask, first[p]) for p, mask in masks(4).items())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@settings(max_examples=100, deadline=None)
@given(st.lists(LAYER, min_size=1, max_size=5), st.floats(0.001, 1.0))
def test_densities_add_up_and_are_in_proportion(layers, density):
    shapes = {str(i): torch.Size((n, d, k, k)) for i, (n, d, k) in enumerate(layers)}
    counts = densities(shapes, density)
    assert sum(counts.values()) == max(1, round(density * sum(s.numel() for s in shapes.values())))
    assert all(0 <= counts[path] <= shape.numel() for path, shape in shapes.items())
    factors = [counts[p] / sum(s) for p, s in shapes.items() if counts[p] < s.numel()]
    units = [1 / sum(s) for p, s in shapes.items() if counts[p] < s.numel()]
    if factors:
        assert max(factors) - min(factors) <= 2 * max(units) + 1e-9


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 9]), st.floats(0, 1), st.integers(0, 10**6)
)
def test_degrees_are_equal_up_to_one(n, d, taps, share, seed):
    shape = torch.Size((n, d, 3, 3)) if taps == 9 else torch.Size((n, d))
    count = round(share * n * d * taps)
    mask = regular(shape, count, np.random.default_rng(seed)).reshape(n, d, taps)
    assert int(mask.sum()) == count
    for degrees in (mask.sum((1, 2)), mask.sum((0, 2))):
        assert int(degrees.max() - degrees.min()) <= 1


def test_narrow_is_a_dense_network_of_fewer_neurons():
    network, shape, _ = make("mlp")
    masks = prune(network, 0.1, "narrow", input_shape=shape)
    found = topology(network, masks, shape)
    assert found.effective_parameters == found.live_parameters == sum(int(m.sum()) for m in masks.values())
    rows = [mask.any(1).sum() * mask.any(0).sum() for mask in masks.values()]
    assert rows == [mask.sum() for mask in masks.values()]
    assert found.layers["1"].effective_neurons == 4 and network[1].out_features == 4


def test_regular_keeps_more_nodes_and_synflow_more_paths_than_random():
    network, shape, _ = make("mlp")
    found = {
        p: topology(network, prune(network, 0.03, p, input_shape=shape), shape)
        for p in ("random", "regular", "synflow")
    }
    assert found["regular"].effective_nodes > found["random"].effective_nodes
    assert found["synflow"].log10_paths > found["random"].log10_paths


def test_alpha_moves_npb_from_paths_to_nodes():
    network, shape, _ = make("mlp")
    ends = [
        topology(network, prune(network, 0.1, "npb", input_shape=shape, alpha=a, beta=0.0), shape)
        for a in (0.0, 1.0)
    ]
    assert ends[1].effective_nodes > ends[0].effective_nodes
    assert ends[1].log10_paths < ends[0].log10_paths


def test_snip_keeps_what_the_loss_feels_and_magnitude_what_is_large():
    net = nn.Sequential(nn.Linear(4, 3, bias=False))
    x = torch.zeros(6, 4)
    x[:, 1] = 1.0  # no other input ever carries anything
    kept = prune(net, 0.25, "snip", input_shape=(1, 4), samples=(x, torch.arange(6) % 3))
    assert kept["0"][:, 1].all() and kept["0"].sum() == 3
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(12).view(3, 4) * torch.tensor([1, -1, 1, -1]))
    assert prune(net, 0.25, "magnitude", input_shape=(1, 4))["0"].flatten().nonzero().flatten().tolist() == [
        9,
        10,
        11,
    ]


def test_synflow_does_not_collapse_a_layer_nor_overflow_where_one_shot_scores_would():
    net = nn.Sequential(*(nn.Linear(20, 20) for _ in range(60)))
    with torch.no_grad():
        for layer in net:
            layer.weight.mul_(40.0)
    found = topology(net, prune(net, 0.02, "synflow", input_shape=(1, 20)), (1, 20))
    assert not found.collapsed


def test_bad_input_is_refused():
    network, shape, _ = make("mlp")
    with pytest.raises(InputError, match="unknown pruner 'npd'"):
        prune(network, 0.1, "npd", input_shape=shape)
    with pytest.raises(InputError, match=r"density 1\.5"):
        prune(network, 1.5, input_shape=shape)
    with pytest.raises(InputError, match="snip.*samples"):
        prune(network, 0.1, "snip", input_shape=shape)
    with pytest.raises(InputError, match="alpha is 2"):
        prune(network, 0.1, "npb", input_shape=shape, alpha=2)
